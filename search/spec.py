"""The study's description: read from YAML, overridden from the command line, frozen, stored with the study."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunetune.search.yaml_file import insert_targets, parse_yaml, read_yaml
from prunetune.spaces import ChoiceParameter, ConfigError, FloatParameter, SearchSpace
from prunetune.targets import TARGET_KINDS, Budget, OnnxRuntimeSpec, TargetSpec, parse_target_spec
from prunetune.targets.spec import PATIENCE

SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "random"]
Objective = Literal["map50_95", "latency"]
ControlName = Literal["dense", "half-width", "quarter-width"]

CHANGEABLE = frozenset({"trials", "device", "workers", "cache", "storage", "runs", "allow_new_device"})
"""Keys that may differ when a study is resumed: they change how far and where it runs, not what it finds."""


class BudgetSpec(BaseModel):
    """Limits that a member of the front must keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency: str = "<= half-width"
    """For example `<= 1.0 ms`, `<= half-width`, `<= 0.5 x dense`."""

    @field_validator("latency")
    @classmethod
    def _parses(cls, text: str) -> str:
        try:
            Budget.parse(text)
        except ConfigError as error:
            raise ValueError("; ".join(error.problems)) from error
        return text

    @property
    def limit(self) -> Budget:
        """The latency limit as a value."""
        return Budget.parse(self.latency)


class StudySpec(BaseModel):
    """Everything that defines a study. Names are ultralytics' own where it has them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    """The study's name, and its folder below `runs`."""
    model: str
    """A yaml (trained first) or a .pt (taken as it is)."""
    data: str
    """The data set's yaml."""
    space: SearchSpace
    """Which recipes may be tried."""
    imgsz: int = Field(default=640, ge=32, multiple_of=32)
    """Side of the square input in px."""
    batch: int = Field(default=16, ge=1)
    """Images per step."""
    device: str = "cpu"
    """`cpu`, or a GPU's number."""
    workers: int = Field(default=8, ge=0)
    """Processes that load images; none on a CPU."""
    cache: Literal["ram", "disk", ""] = "ram"
    """Where decoded images are kept."""
    dense_epochs: int = Field(default=100, ge=1)
    """Epochs of the dense training of a yaml, and the head start of the narrow controls."""
    seed: int = Field(default=0, ge=0)
    """Initial weights, order of images, sampler."""
    choose: Literal["map50_95", "f1"] = "map50_95"
    """Which epoch's checkpoint a training keeps."""
    train: dict[str, float | int | bool | str] = Field(default_factory=dict)
    """Further training arguments of ultralytics, such as `optimizer`, `lr0` or `mosaic`."""
    targets: tuple[TargetSpec, ...] = (OnnxRuntimeSpec(),)
    """Where latency is measured."""
    objectives: tuple[Objective, ...] = ("map50_95", "latency")
    """Both, or `[map50_95]` for the best accuracy within the budget."""
    budget: BudgetSpec = BudgetSpec()
    """Limits; a network above them is not recovered."""
    sampler: SamplerName = "tpe"
    """Who proposes recipes."""
    controls: tuple[ControlName, ...] = ("dense", "half-width")
    """Networks to compare with, trained for as many epochs in all as the longest recipe spends."""
    trials: int = Field(default=30, ge=1)
    """How many recipes are carried out."""
    storage: str | None = None
    """Optuna storage; by default an SQLite file in the study's folder."""
    runs: str = "runs"
    """Folder for studies and stages."""
    allow_new_device: bool = False
    """Go on with a study whose latencies were measured on other hardware: all is measured again here."""

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not name.strip() or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
            raise ValueError("takes a folder's name: not empty, no slash, no dot in front")
        if len(name.encode()) > 200:
            raise ValueError("is longer than 200 bytes")
        return name

    @field_validator("device", mode="before")
    @classmethod
    def _number_or_name(cls, device: Any) -> Any:
        return str(device) if isinstance(device, int) and not isinstance(device, bool) else device

    @field_validator("device")
    @classmethod
    def _single_device(cls, device: str) -> str:
        device = device.removeprefix("cuda:")
        if device not in ("cpu", "mps") and not device.isdigit():
            raise ValueError(f"takes cpu, mps or one GPU's number, not {device!r}")
        return device

    @field_validator("train")
    @classmethod
    def _not_decided_elsewhere(cls, train: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(train) & (set(StudySpec.model_fields) | _DECIDED_BY_PRUNETUNE))
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be set here; prunetune or another key decides it")
        return train

    @model_validator(mode="after")
    def _check_together(self) -> StudySpec:
        if len(self.targets) != 1:
            raise ValueError(f"targets: takes exactly one target, not {len(self.targets)}")
        if self.objectives not in (("map50_95", "latency"), ("map50_95",)):
            raise ValueError("objectives: takes [map50_95, latency] or [map50_95]")
        return self

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return Path(self.runs) / self.name

    @property
    def storage_url(self) -> str:
        """The address of the Optuna storage."""
        return self.storage or sqlite_url(self.folder)

    def frozen_part(self) -> dict[str, Any]:
        """What must be the same when the study is resumed, as plain values."""
        dumped = self.model_dump(mode="json", exclude_none=True)
        for target in dumped["targets"]:
            for key in PATIENCE:
                target.pop(key, None)
        return {key: value for key, value in dumped.items() if key not in CHANGEABLE}

    @classmethod
    def read(cls, file: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
        """Reads a study's description and lays `key=value` overrides over it.

        An entry of `targets` may be the path of a file with a target, such as `prunetune align-probe --out` writes:
        from the study's folder, or else from the current one.

        Raises:
            ConfigError: With every problem that was found, each with its field and what to do.
        """
        values = read_yaml(Path(file))
        insert_targets(values, Path(file).parent)
        for override in overrides:
            apply_override(values, override)
            insert_targets(values, Path(file).parent)
        return cls.parse(values, source=str(file))

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "") -> StudySpec:
        """Checks plain values.

        Raises:
            ConfigError: As `read` does.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_sentences(error.errors()), source) from error


def parse_target(values: Mapping[str, Any], source: str = "") -> TargetSpec:
    """Checks a target's description that stands alone, in a file or in a command's options.

    Raises:
        ConfigError: With every problem that was found.
    """
    try:
        return parse_target_spec(values)
    except ValidationError as error:
        place = ("targets", 0)
        problems = _sentences([{**problem, "loc": (*place, *problem["loc"])} for problem in error.errors()])
        raise ConfigError([problem.removeprefix("targets.0").lstrip(".: ") for problem in problems], source) from error


_DECIDED_BY_PRUNETUNE = {
    "task", "mode", "epochs", "close_mosaic", "nbs", "patience", "val", "save_dir", "resume", "cos_lr",
    "plots", "verbose", "project", "exist_ok", "pretrained", "rect", "split", "time", "freeze", "compile",
    "warmup_epochs",
}  # fmt: skip


def sqlite_url(folder: Path) -> str:
    """The address of the SQLite file in a study's folder."""
    return f"sqlite:///{folder / 'study.db'}"


def apply_override(values: dict[str, Any], override: str) -> None:
    """Sets one `key=value` in nested values, in place; `space.rounds.high=3` reaches inside.

    Raises:
        ConfigError: It has no `=`, or leads into something that is no mapping.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"{override!r} is no override; write key=value, for example imgsz=256")
    *parents, last = path.split(".")
    place: Any = values
    for parent in parents:
        if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
            place = place[int(parent)]
        elif isinstance(place, dict):
            place = place.setdefault(parent, {})
        else:
            raise ConfigError(f"{override!r}: {parent!r} is inside a value that has no keys")
    value = parse_yaml(text, override)
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"{override!r}: {last!r} is inside a value that has no keys")


_PARAMETER_KEYS = {*FloatParameter.model_fields, *ChoiceParameter.model_fields, "unit"}
_TAGS = {"float", "int", "str", "bool", "choice", "fixed", "regions", "global"}


def _sentences(problems: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each place that pydantic found wrong."""
    # A value that may be of several types fails once for each of them: the first sentence says it.
    told: dict[tuple[str, ...], str] = {}
    for problem in problems:
        told.setdefault(tuple(_location(problem)), _sentence(problem))
    return list(told.values())


def _location(problem: Mapping[str, Any]) -> list[str]:
    place = [str(part) for part in problem["loc"]] or [""]
    if place[0] == "targets" and place[2:3] and place[2] in TARGET_KINDS:
        del place[2]  # a target's kind is a tag as well, but `command` is also a key
    *parents, last = place
    # A key of the user's may be called like a tag; pydantic's own tags never end an unknown key's place.
    kept = [last] if last and (problem["type"] == "extra_forbidden" or last not in _TAGS) else []
    return [part for part in parents if part not in _TAGS] + kept


def _sentence(problem: Mapping[str, Any]) -> str:
    """One sentence for one of pydantic's errors: where, what, and what instead."""
    location = _location(problem)
    where = ".".join(location)
    given = problem.get("input")
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        return f"{where}: unknown key; " + (f"did you mean {close[0]}?" if close else f"allowed are {', '.join(known)}")
    if kind == "missing":
        return f"{where}: missing"
    if kind == "model_attributes_type" and location[0] == "targets" and isinstance(given, str):
        return (
            f"{where}: {given}: no such file, neither beside the study's nor in the current folder; "
            "`prunetune align-probe --out FILE` writes one, or give {kind: onnxruntime, ...}"
        )
    if kind in ("union_tag_not_found", "union_tag_invalid") and location[0] == "targets":
        given = given.get("kind") if isinstance(given, dict) else given
        close = difflib.get_close_matches(str(given), TARGET_KINDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(TARGET_KINDS)}"
        return f"{where}.kind: " + (f"there is no kind {given!r}; {hint}" if given else f"missing; {hint}")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return f"{where}: takes a value, {{low, high}} or {{choices: [...]}}, not {given!r}"
    if kind == "value_error":
        message = str(problem["ctx"]["error"])
        return f"{where}: {message}" if where else message
    message = problem["msg"][0].lower() + problem["msg"][1:]
    shown = "" if given is None or isinstance(given, (dict, list)) else f", not {given!r}"
    return f"{where}: {message}{shown}"


def _known_keys(place: Sequence[Any]) -> list[str]:
    """The keys that are allowed at a place as pydantic names it."""
    match list(place):
        case []:
            return list(StudySpec.model_fields)
        case ["space"]:
            return [*SearchSpace.model_fields, "preset"]
        case ["space", *_]:
            return sorted(_PARAMETER_KEYS)
        case ["targets", _, str(kind)] if kind in TARGET_KINDS:
            return list(TARGET_KINDS[kind].model_fields)
        case ["budget"]:
            return list(BudgetSpec.model_fields)
    return []
