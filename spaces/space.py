"""The search space: which recipes a study may try."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, get_args

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

from prunetune.spaces.deployment import ImageSize, parse_size, size_text
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
from prunetune.spaces.recipe import (
    OPTIONS,
    Importance,
    LatencyShare,
    Recipe,
    Region,
    Shrinkage,
    SparsityUnit,
    Start,
    Threshold,
)

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
    """Up to the neck."""
    neck: Parameter | None = None
    """What lies between backbone and Detect; the head's, if it is not given."""
    head: Parameter
    """Detect, the last block."""

    @field_validator("backbone", "neck", "head", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return _real(value)

    def parameters(self) -> Iterator[tuple[Region, _AnyParameter]]:
        """The parameter of each region that has one, from the image on."""
        yield "backbone", self.backbone
        if self.neck is not None:
            yield "neck", self.neck
        yield "head", self.head


def _stored_size(size: Any) -> Any:
    """An input size as Optuna stores it, which has numbers and words, and no pairs; what is none stays for others to
    refuse."""
    try:
        parsed = parse_size(size)
    except ValueError:
        return size
    return parsed if isinstance(parsed, int) else size_text(parsed)


def _threshold_kind(value: Any) -> str:
    regions = isinstance(value, RegionThresholds) or (
        isinstance(value, Mapping) and any(region in value for region in get_args(Region))
    )
    return "regions" if regions else "global"


def _place(name: str) -> str:
    """Where a parameter stands in a space's description: `threshold_round2_neck` is `later_thresholds.0.neck`."""
    found = re.fullmatch(r"threshold(?:_round(\d+))?(?:_(\w+))?", name)
    if found is None:
        return name
    number, region = found.groups()
    first = "threshold" if number is None else f"later_thresholds.{int(number) - 2}"
    return first if region is None else f"{first}.{region}"


ThresholdParameter = Annotated[
    Annotated[RegionThresholds, Tag("regions")] | Annotated[Parameter, Tag("global")],
    Discriminator(_threshold_kind),
]
"""One threshold for the whole detector, or one for each region."""

MOST_EPOCHS = 100_000
"""In one phase. More is a slip of the keyboard, and no schedule should have to compute with it."""

_WHOLE = {
    "sparse_epochs": (0, MOST_EPOCHS),
    "rounds": (1, 1000),
    "recovery_epochs": (0, MOST_EPOCHS),
    "depth": (0, 1000),
}
"""Parameters that take whole numbers, with the smallest and the largest that make sense."""

_REAL = ("latency", "balance", "floor", "recovery_lr", "distillation", "sparse_distillation")
"""Parameters that take real numbers, beside sparsity and thresholds."""

_WORDS: dict[str, tuple[str, ...]] = {
    "shrinkage": get_args(Shrinkage),
    "importance": get_args(Importance),
    "start": get_args(Start),
}
"""Parameters that take words."""

_FACTORS = {"balance": (1e-3, 1e3), "recovery_lr": (1e-3, 1e3)}
"""Parameters that multiply something, with the smallest and the largest that make sense."""

_EXCLUDES = {"threshold": "latency", "latency": "threshold"}
"""A space has one of the two."""


class SearchSpace(BaseModel):
    """The parameters of a recipe, each with its range.

    In YAML, `preset: NAME` fills in every key that is not given, and `unit` stands beside the bounds of
    `sparsity`: `sparsity: {low: 0.1, high: 1.0, log: true, unit: pull}`. A space has either `threshold` or `latency`.
    The parameters from `shrinkage` on are options: each has the recipe's default where it is not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: Parameter
    """How strongly sparse training pulls BatchNorm's gammas to zero, in its unit."""
    sparsity_unit: SparsityUnit = "pull"
    """`pull` or `lambda`; written as `unit` beside the bounds of `sparsity`."""
    sparse_epochs: Parameter
    """Epochs of sparse training in each round; 0 goes without."""
    latency: Parameter | None = None
    """The latency as a share of the budget, from which the threshold is found."""
    balance: Parameter | None = None
    """Beside `latency`: the threshold of neck and head in multiples of the backbone's; 1 if it is not given."""
    threshold: ThresholdParameter | None = Field(default=None, validate_default=True)
    """In the place of `latency`: channels with an importance below it go. One for all, or
    `{backbone: ..., neck: ..., head: ...}`."""
    later_thresholds: tuple[ThresholdParameter, ...] = ()
    """Beside `threshold`: those of the rounds from the second on. Further rounds have the last one."""
    rounds: Parameter = FixedParameter(value=1)
    """How often sparse training, surgery and recovery are repeated, each on what the last round left."""
    recovery_epochs: Parameter
    """Epochs of ordinary training after each surgery."""
    shrinkage: Parameter | None = None
    """How sparsity acts: `proximal`, or `subgradient`, the penalty in the gradient, as in the paper. The latter belongs
    with `train: {optimizer: SGD}`: AdamW, the default, hides its size."""
    importance: Parameter | None = None
    """What channels are judged by: `gamma`, `l1`, `l2`, `taylor` or `lamp`."""
    floor: Parameter | None = None
    """The least share of its channels that every layer keeps."""
    depth: Parameter | None = None
    """Residual blocks that go whole in the first round; `true` is 0, `false` keeps all."""
    start: Parameter | None = None
    """The weights that a recovery begins with: `current`, `rewind` or `scratch`."""
    recovery_lr: Parameter | None = None
    """The learning rate of recoveries, in multiples of that of the other trainings: `{low: 1, high: 10, log: true}`."""
    distillation: Parameter | None = None
    """Weight of the dense original's features in the loss of recoveries (ultralytics' `dis`, there 6 by default); 0
    goes without. Compare it by `{choices: [0, 1, 6]}`: a range hardly ever draws 0."""
    sparse_distillation: Parameter | None = None
    """The same in sparse phases."""
    imgsz: Parameter | None = None
    """The input sizes that recipes are drawn from; by default those of the study's `deploy`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = dict(values)
        if gone := [name for name in ("penalty", "penalty_weights", "planner") if name in given]:
            raise ValueError(f"{gone[0]}: brought no gain and is gone since prunetune 0.2; remove it")
        name = given.pop("preset", None)
        if name == "auto":
            raise ValueError(
                "preset: auto is chosen for a model, data and a machine; `prunetune init model=... data=...` writes a "
                "study.yaml with what it chooses"
            )
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

    @field_validator("sparsity", "threshold", *_REAL, mode="before")
    @classmethod
    def _real_shorthand(cls, value: Any) -> Any:
        return _real(value)

    @field_validator("later_thresholds", mode="before")
    @classmethod
    def _real_shorthands(cls, values: Any) -> Any:
        return [_real(value) for value in values] if isinstance(values, (list, tuple)) else values

    @field_validator("later_thresholds")
    @classmethod
    def _check_later(cls, later: Any, info: ValidationInfo) -> Any:
        if later and info.data.get("latency") is not None:
            raise ValueError("and latency cannot both be given: with latency the threshold of each round is found")
        return later

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

    @field_validator("imgsz", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        """Choices in the one form that Optuna stores: 640, or `384x640`, which may be written `[384, 640]`."""
        if isinstance(value, Mapping) and isinstance(value.get("choices"), list | tuple):
            return {**value, "choices": [_stored_size(size) for size in value["choices"]]}
        return parse_shorthand(value)

    @field_validator("depth", mode="before")
    @classmethod
    def _depth(cls, value: Any) -> Any:
        """`false` keeps all blocks, `true` lets go what the threshold does not reach."""
        return parse_shorthand({False: None, True: 0}[value] if isinstance(value, bool) else value)

    @field_validator("sparse_epochs", "rounds", "recovery_epochs", *_WORDS, mode="before")
    @classmethod
    def _whole_shorthand(cls, value: Any) -> Any:
        return parse_shorthand(value)

    @model_validator(mode="after")
    def _check_meaning(self) -> SearchSpace:
        for name, parameter in self.parameters():
            numbers = parameter.values or (getattr(parameter, "low", 0), parameter.largest)
            whole = name in _WHOLE
            smallest, largest = _WHOLE.get(name, (0, math.inf))
            if name in _WORDS:
                self._check_words(name, parameter)
                continue
            if name == "imgsz":
                self._check_sizes(parameter)
                continue
            place = _place(name)
            for number in numbers:
                if isinstance(number, bool) or not isinstance(number, (int, float)):
                    raise ValueError(f"{place}: {number!r} is not a number")
                if whole and (isinstance(parameter, FloatParameter) or number != int(number)):
                    ends = (parameter.low, parameter.high) if isinstance(parameter, FloatParameter) else (number,)
                    broken = next((end for end in ends if end != int(end)), number)
                    raise ValueError(f"{place}: takes whole numbers, not {broken!r}")
                if name == "latency" and not 0 < number <= 1:
                    raise ValueError(f"latency: {number!r} is no share of the budget, above 0 and at most 1")
                low, high = _FACTORS.get(name, (-math.inf, math.inf))
                if not low <= number <= high:
                    raise ValueError(f"{name}: {number!r} is not from {low:g} to {high:g}")
                if name == "floor" and number >= 1:
                    raise ValueError(f"floor: {number!r} is no share of a layer's channels, from 0 on and below 1")
                if number < smallest:
                    raise ValueError(f"{place}: {number!r} is below {smallest}")
                if number > largest:
                    raise ValueError(f"{place}: {number!r} is above {largest}")
        if len(self.later_thresholds) >= int(self.rounds.largest):
            raise ValueError(
                f"later_thresholds: {len(self.later_thresholds)} for at most {self.rounds.largest} rounds; the first "
                f"round has threshold, so give at most {int(self.rounds.largest) - 1}"
            )
        return self

    @staticmethod
    def _check_words(name: str, parameter: _AnyParameter) -> None:
        for word in parameter.values or (getattr(parameter, "low", None),):
            if word not in _WORDS[name]:
                raise ValueError(f"{name}: {word!r} is none of {', '.join(_WORDS[name])}")

    @staticmethod
    def _check_sizes(parameter: _AnyParameter) -> None:
        if parameter.values is None:
            raise ValueError("imgsz: takes choices, such as {choices: [640, 512]}, and no range")
        for size in parameter.values:
            try:
                parse_size(size)
            except ValueError as error:
                raise ValueError(f"imgsz: {error}") from error

    def over_sizes(self, sizes: Sequence[ImageSize]) -> SearchSpace:
        """The same space with recipes for each of some input sizes, unless it names its own.

        Args:
            sizes: Those of the study's deployments; without any the space stays as it is.
        """
        if self.imgsz is not None or not sizes:
            return self
        choices = tuple(map(_stored_size, sizes))
        parameter = ChoiceParameter(choices=choices) if len(choices) > 1 else FixedParameter(value=choices[0])
        return self.model_copy(update={"imgsz": parameter})

    def parameters(self) -> Iterator[tuple[str, _AnyParameter]]:
        """Every parameter by the name that the study knows it under."""
        yield "sparsity", self.sparsity
        yield "sparse_epochs", self.sparse_epochs
        if self.latency is not None:
            yield "latency", self.latency
            yield "balance", self.balance or FixedParameter(value=1.0)
        for number, threshold in enumerate((self.threshold, *self.later_thresholds), start=1):
            name = "threshold" if number == 1 else f"threshold_round{number}"
            if isinstance(threshold, RegionThresholds):
                yield from ((f"{name}_{region}", parameter) for region, parameter in threshold.parameters())
            elif threshold is not None:
                yield name, threshold
        yield "rounds", self.rounds
        yield "recovery_epochs", self.recovery_epochs
        for name in OPTIONS:
            if (option := getattr(self, name)) is not None:
                yield name, option

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
        rounds = int(known["rounds"])
        cuts: list[Any] = [LatencyShare(float(known["latency"]), float(known["balance"]))] if self.latency else []
        for number, item in enumerate((self.threshold, *self.later_thresholds), start=1):
            name = "threshold" if number == 1 else f"threshold_round{number}"
            if isinstance(item, RegionThresholds):
                cuts.append(Threshold(**{region: float(known[f"{name}_{region}"]) for region, _ in item.parameters()}))
            elif item is not None:
                cuts.append(Threshold.everywhere(float(known[name])))
        kinds: dict[str, Any] = {**dict.fromkeys(_WORDS, str), "imgsz": parse_size, "depth": int}
        options: dict[str, Any] = {name: kinds.get(name, float)(known[name]) for name in OPTIONS if name in known}
        return Recipe(
            sparsity=float(known["sparsity"]),
            sparse_epochs=int(known["sparse_epochs"]),
            threshold=cuts[0],
            later_thresholds=tuple(cuts[1:rounds]),
            rounds=rounds,
            recovery_epochs=int(known["recovery_epochs"]),
            sparsity_unit=self.sparsity_unit,
            **options,
        )

    def may(self, name: str, word: str) -> bool:
        """Whether some recipe has a word for a parameter, or leaves it at it."""
        parameter = getattr(self, name)
        return word == OPTIONS[name] if parameter is None else word in (parameter.values or ())

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
        unset = None if self.later_thresholds else {"later_thresholds"}
        return self.model_dump(mode="json", exclude_none=True, exclude=unset)
