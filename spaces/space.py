"""The search space: which recipes a study may try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from prunetune.spaces.parameters import (
    ChoiceParameter,
    FixedParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    SuggestingTrial,
    parse_shorthand,
)
from prunetune.spaces.presets import PRESETS
from prunetune.spaces.recipe import LatencyShare, Recipe, Region, SparsityUnit, Threshold

_AnyParameter: TypeAlias = FloatParameter | IntParameter | ChoiceParameter | FixedParameter


def _real(value: Any) -> Any:
    """Bounds of a real number that happen to be whole, `{low: 0, high: 1}`, still mean a real number."""
    value = parse_shorthand(value)
    if isinstance(value, Mapping) and "low" in value:
        whole = {key: value[key] for key in ("low", "high") if type(value.get(key)) is int}
        return {**value, **{key: float(number) for key, number in whole.items()}}
    return value


class RegionThresholds(BaseModel):
    """A threshold for each region of the detector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Parameter
    head: Parameter

    @field_validator("backbone", "head", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return _real(value)


def _threshold_kind(value: Any) -> str:
    regions = isinstance(value, RegionThresholds) or (
        isinstance(value, Mapping) and ("backbone" in value or "head" in value)
    )
    return "regions" if regions else "global"


ThresholdParameter = Annotated[
    Annotated[RegionThresholds, Tag("regions")] | Annotated[Parameter, Tag("global")],
    Discriminator(_threshold_kind),
]
"""One threshold for the whole detector, or one for each region."""

_WHOLE = {"sparse_epochs": 0, "rounds": 1, "recovery_epochs": 0}
"""Parameters that take whole numbers, with the smallest that makes sense."""

_BALANCES = (1e-3, 1e3)

_EXCLUDES = {"threshold": "latency", "latency": "threshold"}
"""A space has one of the two."""


class SearchSpace(BaseModel):
    """The parameters of a recipe, each with its range.

    In YAML, `preset: NAME` fills in every key that is not given, and `unit` stands beside the bounds of
    `sparsity`: `sparsity: {low: 0.1, high: 1.0, log: true, unit: pull}`. A space has either `threshold` or `latency`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: Parameter
    sparsity_unit: SparsityUnit = "pull"
    sparse_epochs: Parameter
    latency: Parameter | None = None
    """The latency as a share of the budget, from which the threshold is found."""
    balance: Parameter | None = None
    """Beside `latency`: the threshold of neck and head in multiples of the backbone's; 1 if it is not given."""
    threshold: ThresholdParameter | None = Field(default=None, validate_default=True)
    rounds: Parameter = FixedParameter(value=1)
    recovery_epochs: Parameter

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = dict(values)
        name = given.pop("preset", None)
        if name is not None:
            if not isinstance(name, str) or name not in PRESETS:
                raise ValueError(f"preset: {name!r} is unknown; there are {', '.join(sorted(PRESETS))}")
            replaced = {_EXCLUDES[key] for key in given if key in _EXCLUDES}
            given = {**{key: value for key, value in PRESETS[name].items() if key not in replaced}, **given}
        sparsity = given.get("sparsity")
        if isinstance(sparsity, Mapping) and "unit" in sparsity:
            given["sparsity"] = {key: value for key, value in sparsity.items() if key != "unit"}
            given["sparsity_unit"] = sparsity["unit"]
        return given

    @field_validator("sparsity", "threshold", "latency", "balance", mode="before")
    @classmethod
    def _real_shorthand(cls, value: Any) -> Any:
        return _real(value)

    @field_validator("threshold")
    @classmethod
    def _check_cut(cls, threshold: Any, info: ValidationInfo) -> Any:
        """Here and not when all fields are there, so that it is told together with other fields' problems."""
        if "latency" not in info.data or "balance" not in info.data:
            return threshold  # they have problems of their own
        has_latency = info.data["latency"] is not None
        if threshold is None and not has_latency:
            raise ValueError("missing; give it, or latency, a share of the budget from which it is found")
        if threshold is not None and has_latency:
            raise ValueError("and latency cannot both be given; remove one of the two")
        if threshold is not None and info.data["balance"] is not None:
            raise ValueError("and balance cannot both be given; write threshold: {backbone: ..., head: ...}")
        return threshold

    @field_validator("sparse_epochs", "rounds", "recovery_epochs", mode="before")
    @classmethod
    def _whole_shorthand(cls, value: Any) -> Any:
        return parse_shorthand(value)

    @model_validator(mode="after")
    def _check_meaning(self) -> SearchSpace:
        for name, parameter in self.parameters():
            numbers = parameter.values or (getattr(parameter, "low", 0), parameter.largest)
            whole = name in _WHOLE
            smallest = _WHOLE.get(name, 0)
            for number in numbers:
                if isinstance(number, bool) or not isinstance(number, (int, float)):
                    raise ValueError(f"{name}: {number!r} is not a number")
                if whole and (isinstance(parameter, FloatParameter) or number != int(number)):
                    raise ValueError(f"{name}: takes whole numbers, not {number!r}")
                if name == "latency" and not 0 < number <= 1:
                    raise ValueError(f"latency: {number!r} is no share of the budget, above 0 and at most 1")
                if name == "balance" and not _BALANCES[0] <= number <= _BALANCES[1]:
                    raise ValueError(f"balance: {number!r} is not from {_BALANCES[0]:g} to {_BALANCES[1]:g}")
                if number < smallest:
                    raise ValueError(f"{name}: {number!r} is below {smallest}")
        return self

    def parameters(self) -> Iterator[tuple[str, _AnyParameter]]:
        """Every parameter by the name that the study knows it under."""
        yield "sparsity", self.sparsity
        yield "sparse_epochs", self.sparse_epochs
        if self.latency is not None:
            yield "latency", self.latency
            yield "balance", self.balance or FixedParameter(value=1.0)
        elif isinstance(self.threshold, RegionThresholds):
            yield "threshold_backbone", self.threshold.backbone
            yield "threshold_head", self.threshold.head
        elif self.threshold is not None:
            yield "threshold", self.threshold
        yield "rounds", self.rounds
        yield "recovery_epochs", self.recovery_epochs

    def suggest(self, trial: SuggestingTrial) -> Recipe:
        """Asks a trial for one recipe."""
        values: dict[str, Any] = {name: parameter.suggest(trial, name) for name, parameter in self.parameters()}
        return self.recipe(values)

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe of the given values; fixed parameters may be missing.

        Raises:
            KeyError: A searched parameter is missing.
        """
        fixed = {name: item.value for name, item in self.parameters() if isinstance(item, FixedParameter)}
        known: dict[str, Any] = {**fixed, **values}
        threshold: Threshold | LatencyShare
        if self.latency is not None:
            threshold = LatencyShare(float(known["latency"]), float(known["balance"]))
        elif isinstance(self.threshold, RegionThresholds):
            regions: tuple[Region, Region] = ("backbone", "head")
            threshold = Threshold(*(float(known[f"threshold_{region}"]) for region in regions))
        else:
            threshold = Threshold.everywhere(float(known["threshold"]))
        return Recipe(
            sparsity=float(known["sparsity"]),
            sparse_epochs=int(known["sparse_epochs"]),
            threshold=threshold,
            rounds=int(known["rounds"]),
            recovery_epochs=int(known["recovery_epochs"]),
            sparsity_unit=self.sparsity_unit,
        )

    @property
    def longest_sparse_epochs(self) -> int:
        """Epochs of the longest sparse phase: the run over which `pull` is meant."""
        return int(self.sparse_epochs.largest)

    @property
    def longest_epochs(self) -> int:
        """Epochs of training that the longest recipe spends on a detector."""
        return int(self.rounds.largest) * (self.longest_sparse_epochs + int(self.recovery_epochs.largest))

    def as_json(self) -> dict[str, Any]:
        """Plain values, without what is not set, that `SearchSpace` reads back."""
        return self.model_dump(mode="json", exclude_none=True)
