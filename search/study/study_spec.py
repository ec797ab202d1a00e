"""The study's description: read from YAML, overridden from the command line, frozen, stored with the study."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from prunetune.results.storage.place import sqlite_url
from prunetune.search.study.deploy import DeploySettings, size_problems
from prunetune.search.study.limits import Limits
from prunetune.search.study.overrides import overridden
from prunetune.spaces import ChoiceParameter, ConfigError, FloatParameter, ImageSize, SearchSpace, parse_size, size_text
from prunetune.spaces.errors import did_you_mean
from prunetune.spaces.named_networks import REFERENCES
from prunetune.spaces.recipe import OPTIONS, LatencyShare
from prunetune.spaces.space import MOST_EPOCHS, RegionThresholds
from prunetune.spaces.yaml_file import insert_targets, read_yaml
from prunetune.targets import (
    FIGURES,
    LATENCY,
    MEMORY,
    TARGET_KINDS,
    Budget,
    OnnxRuntimeSpec,
    TargetSpec,
    parse_target_spec,
)
from prunetune.targets.spec import PATIENCE

SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "random"]

LIMITS = ("trials", "epochs", "hours")
"""Keys that say how much the whole study may spend; it ends with the first that is reached."""

_DEFAULTS = {**OPTIONS, "balance": LatencyShare.balance}
"""The parameters of a space that need not be given, with the values that they have then."""

CHANGEABLE = frozenset(
    {*LIMITS, "device", "workers", "cache", "storage", "runs", "store_gb", "engine", "ray", "allow_new_device", "trust"}
)
"""Keys that may differ when a study is resumed: they change how far and where it runs, not what it finds."""


TRIALS = 30
"""How many trials a study has that says nothing of its size."""


def latency_on(target: str) -> str:
    """What `objectives` and `budget` call the latency on one of several targets."""
    return f"{LATENCY}@{target}"


def control_name(control: str) -> str:
    """What a control is called: its name, or that of its file."""
    return control if control in REFERENCES else Path(control).name


FileText = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path. `~` is the home, which no shell puts in its place in `model=~/best.pt`."""


class EarlyStopping(BaseModel):
    """When recoveries end before their time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction: int = Field(strict=True, default=3, ge=2, le=4)
    """At each rung one candidate in so many goes on, and each rung has so many times the epochs of the one before."""
    rungs: int = Field(strict=True, default=1, ge=0, le=6)
    """Rungs within a recovery; with 1, and a reduction of 3, after a third of its epochs; with 2 also after a ninth."""
    recalibrated: bool = False
    """Whether there is a rung before the recovery, by the accuracy with recalibrated BatchNorm."""


def _on_or_off(value: Any) -> str:
    return "off" if value is False else "on"


def _defaults_if_true(value: Any) -> Any:
    return {} if value is True else value


StopsEarly = Annotated[
    Annotated[EarlyStopping, Tag("on")] | Annotated[Literal[False], Tag("off")],
    Discriminator(_on_or_off),
    BeforeValidator(_defaults_if_true),
]


class RaySettings(BaseModel):
    """How a Ray cluster carries out a study."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    address: str | None = Field(default=None, min_length=1)
    """`auto` for a running cluster, `local` for one of this process alone, or HOST:PORT of a head node; by default a
    running cluster if there is one."""
    cpus: float = Field(strict=True, default=1, ge=0)
    """CPUs of a trial, which are also its threads."""
    gpus: float | None = Field(strict=True, default=None, ge=0)
    """GPUs of a trial; 0.5 lets two trials share one. By default one where `device` is a GPU."""
    concurrent: int | None = Field(strict=True, default=None, ge=1)
    """Trials at once; by default as many as the cluster has room for."""
    max_failures: int = Field(strict=True, default=3, ge=0)
    """So often a trial whose process died is taken up again, before its recipe goes back to the study."""


class StudySpec(BaseModel):
    """Everything that defines a study. Names are ultralytics' own where it has them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    """The study's name, and its folder below `runs`."""
    model: FileText
    """A yaml, which is trained first, or a .pt, which is taken as it is: it finds the data set's classes, in their
    order."""
    data: FileText
    """A data set of ultralytics: a data.yaml, its folder, an archive of that, or a name such as `coco8`."""
    space: SearchSpace
    """Which recipes may be tried."""
    imgsz: int = Field(strict=True, default=640, ge=32, le=8192, multiple_of=32)
    """Side of the square input in px; a multiple of the detector's coarsest stride."""
    deploy: DeploySettings = DeploySettings()
    """At which input sizes and in which precisions networks run."""
    batch: int = Field(strict=True, default=16, ge=1)
    """Images per step. Every batch is one step of the optimizer."""
    device: str = "cpu"
    """`cpu`, `mps`, or a GPU's number; several numbers, `[0, 1]`, give as many workers."""
    workers: int = Field(strict=True, default=8, ge=0)
    """Processes that load images; none on a CPU."""
    cache: Literal["ram", "disk", ""] = "ram"
    """Where decoded images are kept."""
    dense_epochs: int = Field(strict=True, default=100, ge=1, le=MOST_EPOCHS)
    """Epochs of the dense training of a yaml. Beside a .pt those that it had: half-width gets as many."""
    seed: int = Field(strict=True, default=0, ge=0, le=10**9)
    """Initial weights, order of images, sampler."""
    choose: Literal["map50_95", "f1", "both"] = "map50_95"
    """Which epoch's checkpoint a training keeps: by `map50_95`, by `f1`, or by `both`, their geometric mean."""
    train: dict[str, float | int | bool | str] = Field(default_factory=dict)
    """Further arguments of ultralytics for every training, such as `{optimizer: SGD, lr0: 0.01, mosaic: 0.5}`. Those
    that would change what is scored, or that a study decides, are refused with the reason."""
    targets: tuple[TargetSpec, ...] = (OnnxRuntimeSpec(),)
    """Where latency is measured. Each is an objective, has a budget, or both."""
    objectives: tuple[str, ...] = ("map50_95", LATENCY)
    """`map50_95`, and what is minimised: `latency` or `latency@TARGET` of some targets, `params`, `bytes` (the
    checkpoint's), `gflops`, `memory_mb` (the runtime's peak, where a target tells it). `[map50_95]` alone asks for the
    best accuracy within the budget."""
    budget: dict[str, str] = Field(default_factory=lambda: {LATENCY: "<= half-width"})
    """Limits by `latency` (all targets without one of their own), `latency@TARGET`, `params`, `bytes`, `gflops` or
    `memory_mb`: a value, or a multiple of `dense`, `half-width` or `quarter-width`, such as `<= 1.0 ms`, `<= 2 MB`,
    `<= half-width`, `<= 0.5 x dense`. A limit alone, `budget: "<= 1.0 ms"`, is that of `latency`. All are known right
    after surgery, and a network above one of them ends there. `{}` is none."""
    sampler: SamplerName = "tpe"
    """Which of Optuna's samplers proposes recipes; the first ones of `tpe` come from a design that covers the space."""
    early_stopping: StopsEarly = EarlyStopping()
    """Ends recoveries that fall behind; false pays for every recovery in full."""
    controls: tuple[FileText, ...] = ("dense", "half-width")
    """Networks to compare with, trained for as many epochs in all as the longest recipe spends: `dense`, `half-width`,
    `quarter-width`, and any other detector's .yaml or .pt."""
    trials: int | None = Field(strict=True, default=None, ge=1)
    """How many recipes are carried out; 30 where neither `epochs` nor `hours` limits them. The first limit that is
    reached ends the study."""
    epochs: int | None = Field(strict=True, default=None, ge=1)
    """Epochs of training in all trials together. No trial is begun after so many."""
    hours: float | None = Field(strict=True, default=None, gt=0)
    """Hours in which trials run; pauses do not count. No trial is begun after so many."""
    engine: Literal["local", "ray"] = "local"
    """Who carries out trials: processes of this machine, or a Ray cluster."""
    ray: RaySettings = RaySettings()
    """The cluster, and what a trial may use of it."""
    storage: str | None = Field(default=None, min_length=1, repr=False)
    """Address of an Optuna RDB storage; by default an SQLite file in the study's folder."""
    runs: FileText = Field(default="runs", min_length=1)
    """Folder of studies. The stages that they share lie in `.store` below it."""
    store_gb: float | None = Field(strict=True, default=None, gt=0)
    """Most that the stages of all studies in `runs` may take, in GB of 10^9 bytes. No trial is begun above it."""
    trust: bool = False
    """Whether `model`, a checkpoint, may run code when it is loaded: ultralytics' checkpoints are pickles."""
    allow_new_device: bool = False
    """Go on with a study whose latencies were measured on other hardware: all is measured again here."""

    @model_validator(mode="before")
    @classmethod
    def _some_limit(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and all(values.get(key) is None for key in LIMITS):
            return {**values, "trials": TRIALS}
        return values

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not name.strip() or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
            raise ValueError("takes a folder's name: not empty, no slash, no dot in front")
        if Path(name).suffix in (".yaml", ".yml") or not name.isprintable():
            raise ValueError(f"takes printable characters, and no .yaml at its end, unlike {name!r}")
        if len(name.encode()) > 200:
            raise ValueError("is longer than 200 bytes")
        return name

    @field_validator("sampler", mode="before")
    @classmethod
    def _without_prices(cls, sampler: Any) -> Any:
        if sampler == "cost-aware":
            raise ValueError("cost-aware brought no gain and is gone since prunetune 0.2; remove it")
        return sampler

    @field_validator("device", mode="before")
    @classmethod
    def _number_or_name(cls, device: Any) -> Any:
        if isinstance(device, (list, tuple)):
            return ",".join(map(str, device))
        return str(device) if isinstance(device, int) and not isinstance(device, bool) else device

    @field_validator("device")
    @classmethod
    def _known_devices(cls, given: str) -> str:
        devices = [device.strip() for device in given.removeprefix("cuda:").split(",")]
        if devices not in (["cpu"], ["mps"]) and not all(device.isdigit() for device in devices):
            raise ValueError(f"takes cpu, mps, or GPU numbers such as 0 or [0, 1], not {given!r}")
        return ",".join(devices)

    @field_validator("controls")
    @classmethod
    def _each_once(cls, controls: tuple[str, ...]) -> tuple[str, ...]:
        names = list(map(control_name, controls))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"has {twice!r} twice; files need names of their own, whatever their folders")
        for control in controls:
            if control not in REFERENCES and Path(control).suffix.lower() not in (".pt", ".yaml", ".yml"):
                known = did_you_mean(control, REFERENCES)
                raise ValueError(f"takes names, and files of .yaml or .pt: there is no {control!r}; {known}")
        return controls

    @field_validator("budget", mode="before")
    @classmethod
    def _plain_text(cls, budget: Any) -> Any:
        is_one = isinstance(budget, str | int | float) and not isinstance(budget, bool)
        return {LATENCY: str(budget)} if is_one else budget

    @field_validator("budget")
    @classmethod
    def _parses(cls, budget: dict[str, str]) -> dict[str, str]:
        for key, text in budget.items():
            what = key.partition("@")[0]
            try:
                if what in (LATENCY, *FIGURES):
                    Budget.parse(text, what)
            except ConfigError as error:
                raise ValueError(f"{key}: {'; '.join(error.problems)}") from error
        return budget

    @model_validator(mode="after")
    def _check_together(self) -> StudySpec:
        names = [target.name for target in self.targets]
        if not names:
            raise ValueError("targets: is empty; give one, such as {kind: onnxruntime, threads: 1}")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"targets: two are called {twice!r}; give each its own name")
        if taken := next((name for name in names if name in FIGURES), None):
            raise ValueError(f"targets: {taken!r} is what a budget calls the networks' {taken}; give it another name")
        self._check_objectives(names)
        for key in self.budget:
            if key not in (LATENCY, *map(latency_on, names), *FIGURES):
                raise ValueError(f"budget.{key}: {_nothing_called(key, names)}")
        if self.counts_memory and not any(target.tells_memory for target in self.targets):
            field = f"budget.{MEMORY}" if MEMORY in self.budget else "objectives"
            kinds = " and ".join(f"kind: {target.kind}" for target in self.targets)
            raise ValueError(
                f"{field}: {kinds} cannot tell {MEMORY}; kind: openvino does, and kind: command where its program does"
            )
        if self.space.latency is not None and not any(map(self.limit_of, names)):
            raise ValueError(
                "space.latency: is a share of the budget, and there is none; give budget: {latency: '<= half-width'}, "
                "or space.threshold"
            )
        if self.space.may("start", "rewind") and Path(self.model).suffix.lower() == ".pt":
            raise ValueError(
                "space.start: rewind goes back to the first epochs of a dense training, and model is trained already; "
                "give a yaml, or leave rewind out"
            )
        idle = next((name for name in names if self.limit_of(name) is None and name not in self.judged), None)
        if idle is not None:
            raise ValueError(
                f"targets: {idle} is neither an objective nor has a budget; add {latency_on(idle)} to one of them"
            )
        return self

    def _check_objectives(self, names: Sequence[str]) -> None:
        accuracy, *minimised = self.objectives or ("",)
        if accuracy != "map50_95":
            raise ValueError(f"objectives: the first is map50_95, not {accuracy!r}; write [map50_95, {LATENCY}]")
        for key in minimised:
            if key == LATENCY and len(names) > 1:
                several = " or ".join(map(latency_on, names))
                raise ValueError(f"objectives: {LATENCY} alone does not say on which target; write {several}")
            if key not in (LATENCY, *map(latency_on, names), *FIGURES):
                raise ValueError(f"objectives: {_nothing_called(key, names)}")
        twice = next((name for name in names if self.judged.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"objectives: the latency on {twice} stands twice")
        if twice := next((key for key in FIGURES if minimised.count(key) > 1), None):
            raise ValueError(f"objectives: {twice} stands twice")

    @property
    def counts_memory(self) -> bool:
        """Whether the runtime's memory is an objective or has a limit."""
        return MEMORY in (*self.objectives, *self.budget)

    @property
    def judged(self) -> list[str]:
        """The targets whose latency is an objective, in the order of the objectives."""
        latencies = [key for key in self.objectives[1:] if key not in FIGURES]
        return [self.targets[0].name if key == LATENCY else key.partition("@")[2] for key in latencies]

    def latency_name(self, target: str) -> str:
        """What a trial calls the latency on a target: `latency`, or `latency@TARGET` where there are several."""
        return LATENCY if len(self.targets) == 1 else latency_on(target)

    def limit_of(self, target: str) -> str | None:
        """The limit on a target's latency as the user wrote it; None if there is none."""
        return self.budget.get(latency_on(target), self.budget.get(LATENCY))

    def sizes(self, stride: int) -> tuple[ImageSize, ...]:
        """The input sizes that the study deploys at, the largest first.

        Args:
            stride: Its detector's.
        """
        if self.deploy.imgsz is None and any(target.kind == "table" for target in self.targets):
            return (self.imgsz,)  # a table without a device knows one size
        return self.deploy.sizes(self.imgsz, stride)

    def size_problems(self, stride: int) -> Iterator[str]:
        """What is wrong with the sizes of `deploy` and `space` for a detector of a stride."""
        drawn = () if self.space.imgsz is None else map(parse_size, self.space.imgsz.values or ())
        table = next((target for target in self.targets if target.kind == "table"), None)
        for key, sizes in (("deploy.imgsz", self.deploy.imgsz or ()), ("space.imgsz", tuple(drawn))):
            yield from size_problems(key, sizes, self.imgsz, stride)
            other = next((size for size in sizes if size != self.imgsz), None)
            if table is not None and other is not None:
                yield (
                    f"{key}: target {table.name!r} is a table made for one input size, and cannot tell the latency at "
                    f"{size_text(other)}; give {self.imgsz} alone, or a target that measures"
                )

    @property
    def limits(self) -> Limits:
        """How much the whole study may spend."""
        return Limits(self.trials, self.epochs, self.hours)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that are named, one for each worker."""
        return tuple(self.device.split(","))

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
        dumped["space"] = {
            key: value
            for key, value in dumped["space"].items()
            if key not in _DEFAULTS or value != {"value": _DEFAULTS[key]}  # one that is written out changes nothing
        }
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
            values = overridden(values, override)
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


def _nothing_called(key: str, targets: Sequence[str]) -> str:
    """Says that nothing is called `key`, and what is."""
    latencies = [LATENCY, *map(latency_on, targets)] if len(targets) == 1 else [*map(latency_on, targets)]
    return f"there is no {key!r}; {did_you_mean(key, [*latencies, *FIGURES])}"


_PARAMETER_KEYS = {*FloatParameter.model_fields, *ChoiceParameter.model_fields, "unit"}
_TAGS = {"float", "int", "str", "bool", "choice", "fixed", "regions", "global", "on", "off"}


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
    kept = [last] if problem["type"] == "extra_forbidden" or (last and last not in _TAGS) else []
    return [part for part in parents if part not in _TAGS] + kept


def _sentence(problem: Mapping[str, Any]) -> str:
    """One sentence for one of pydantic's errors: where, what, and what instead."""
    location = _location(problem)
    where = ".".join(location)
    given = problem.get("input")
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{where}: unknown key; {did_you_mean(location[-1], _known_keys(problem['loc'][:-1]))}"
    if kind == "missing":
        return f"{where}: missing"
    if kind == "model_attributes_type" and location[0] == "targets" and isinstance(given, str):
        return (
            f"{where}: {given}: no such file, neither beside the study's nor in the current folder; "
            "`prunetune align-probe --out FILE` writes one, or give {kind: onnxruntime, ...}"
        )
    if kind in ("union_tag_not_found", "union_tag_invalid") and location[0] == "targets":
        given = given.get("kind") if isinstance(given, dict) else given
        hint = did_you_mean(str(given), TARGET_KINDS)
        return f"{where}.kind: " + (f"there is no kind {given!r}; {hint}" if given else f"missing; {hint}")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return f"{where}: takes a value, {{low, high}} or {{choices: [...]}}, not {given!r}"
    if kind == "value_error":
        message = str(problem["ctx"]["error"])
        named = where in ("space", "budget")  # their messages name the part
        return f"{where}{'.' if named else ': '}{message}" if where else message
    if kind == "tuple_type":
        return f"{where}: takes a list in brackets, such as [{given}], not {given!r}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"{where}: takes keys with values, such as {{key: value}}, not {given!r}"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{where}: there is no {given!r}; {did_you_mean(str(given), [name or repr(name) for name in names])}"
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
        case ["space", "threshold" | "later_thresholds", *_, "regions"]:
            return list(RegionThresholds.model_fields)
        case ["space", *_]:
            return sorted(_PARAMETER_KEYS)
        case ["deploy"]:
            return list(DeploySettings.model_fields)
        case ["ray"]:
            return list(RaySettings.model_fields)
        case ["early_stopping", *_]:
            return list(EarlyStopping.model_fields)
        case ["targets", _, str(kind)] if kind in TARGET_KINDS:
            return list(TARGET_KINDS[kind].model_fields)
    return []
