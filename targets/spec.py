"""The descriptions of targets: the entries of `targets:` in a study's file, one class for each kind."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    field_validator,
    model_validator,
)

from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import ConfigError
from prunetune.targets.programs.printed_number import named_unit
from prunetune.targets.programs.template import parse_command, placeholders

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
"""Number formats."""

MINIMUM_ROUNDS = 6
"""Rounds that a measurement does also after its time is up: fewer give no 95 % confidence interval. Only a `command`,
which may need a minute for each, can be told to do fewer."""

PATIENCE = frozenset({"timeout", "retries"})
"""Keys that decide how patiently a device is asked, and nothing of what it answers."""

JSON_KEY = "latency_ms"
"""Where the latency is in a program's JSON, where the description says nothing else."""

_EIGHT = Alignment.everywhere(8)

DEFAULT_ALIGNMENTS: Mapping[Precision, tuple[int, int]] = {
    "fp32": (8, 8),
    "fp16": (8, 8),
    "bf16": (16, 8),
    "int8": (16, 32),
}
"""Channels that a CPU, and a GPU, computes together in each number format, where a description does not say it.

Eight fp32 numbers fill an AVX register, eight fp16 numbers a row of a tensor core's tile. In int8 and bf16 a 512-bit
register accumulates 16 channels, and TensorRT packs 32 channels of a pixel (its format NC/32HW32)."""


def _own_first(own: Precision, possible: Sequence[Precision]) -> tuple[Precision, ...]:
    return (own, *(precision for precision in possible if precision != own))


def _parse_alignment(value: Any) -> Alignment:
    try:
        return Alignment.parse(value)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("alignment: ")) from error


def _parse_fingerprint(value: Any) -> tuple[str, ...]:
    command = parse_command(value) if value else ()
    for part in command:
        if placeholders(part):
            raise ValueError(f"is asked of the board and not of a network: {part!r} can have no placeholder")
    return command


class BaseTargetSpec(BaseModel):
    """What every kind of target has. Frozen: made once, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: str
    """What runs networks there."""
    name: str = "cpu"
    """What tables and files call this target. On a GPU `gpu` by default."""
    alignment: Annotated[Alignment, BeforeValidator(_parse_alignment), PlainSerializer(Alignment.as_json)] = _EIGHT
    """Channels that the hardware computes together: one number, or by kind of layer. Widths are rounded up to a
    multiple of it. By default 8; in bf16 16; in int8 16, on a GPU 32."""
    tolerance: float = Field(strict=True, default=0.01, gt=0, lt=1)
    """How exact a ratio must be: measuring ends when its 95 % confidence interval is this wide to either side."""
    runs: int = Field(strict=True, default=400, ge=MINIMUM_ROUNDS)
    """Most rounds that count. Each gives every network one turn, which gives one sample."""
    seconds: float = Field(strict=True, default=20.0, gt=0)
    """Time limit for one measurement, in s. The fewest rounds are done in any case."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.strip() or "/" in name or "\\" in name:
            raise ValueError(f"a target's name is not empty and has no slashes, unlike {name!r}")
        return name

    @model_validator(mode="after")
    def _fill_alignment(self) -> BaseTargetSpec:
        if "alignment" not in self.model_fields_set:
            object.__setattr__(self, "alignment", self.usual_alignment())  # frozen, but not handed out yet
        return self

    def usual_alignment(self) -> Alignment:
        """The alignment of a target of this kind and precision whose description does not give one."""
        return _EIGHT

    @property
    def place(self) -> str:
        """What a measurement occupies: two with equal places wait for each other."""
        raise NotImplementedError

    @property
    def quantises(self) -> bool:
        """Whether networks run in int8, after being calibrated with images."""
        return False

    @property
    def tells_memory(self) -> bool:
        """Whether a measurement may tell the runtime's peak memory."""
        return False

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Number formats in which a network can be computed here, the target's own first where it has one.

        What the hardware or a table's file allows of them, `Target.precisions` says.
        """
        return get_args(Precision)


class RuntimeSpec(BaseTargetSpec):
    """What the runtimes on this machine share."""

    threads: int = Field(strict=True, default=1, ge=1)
    """CPU threads that one network may use."""
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`."""
    precision: Precision = "fp32"
    """Number format."""
    warmup: int = Field(strict=True, default=5, ge=0)
    """Rounds that are run before the first one that counts."""
    table: str | None = Field(default=None, min_length=1)
    """A latency table of this target's, asked before anything is measured. See `prunetune profile`."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
            raise ValueError(f"device is 'cpu', 'cuda' or 'cuda:N' (N numbers the GPU), not {device!r}")
        return device

    @model_validator(mode="after")
    def _fill_name(self) -> RuntimeSpec:
        if self.on_gpu and "name" not in self.model_fields_set:
            object.__setattr__(self, "name", "gpu")  # frozen, but not handed out yet
        return self

    def usual_alignment(self) -> Alignment:
        """By `DEFAULT_ALIGNMENTS`."""
        return Alignment.everywhere(DEFAULT_ALIGNMENTS[self.precision][self.on_gpu])

    @property
    def quantises(self) -> bool:
        """By the precision."""
        return self.precision == "int8"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """As of every target."""
        return _own_first(self.precision, get_args(Precision))

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    @property
    def place(self) -> str:
        """The device."""
        return "cuda:0" if self.device == "cuda" else self.device


class OnnxRuntimeSpec(RuntimeSpec):
    """ONNX Runtime on the CPU, or on an NVIDIA GPU by its CUDA or TensorRT provider."""

    kind: Literal["onnxruntime"] = "onnxruntime"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Number format."""
    provider: Literal["cuda", "tensorrt"] | None = None
    """What computes on a GPU; `cuda` where nothing is said."""

    @model_validator(mode="after")
    def _check_combination(self) -> OnnxRuntimeSpec:
        if self.provider is not None and not self.on_gpu:
            raise ValueError(f"provider: {self.provider} needs device: cuda; on a CPU leave it out")
        if self.precision == "fp16" and not self.on_gpu:
            raise ValueError("precision: fp16 needs a GPU: device: cuda; on a CPU write precision: fp32 or int8")
        if self.precision != "fp32" and self.on_gpu and self.provider != "tensorrt":
            raise ValueError(
                f"precision: {self.precision} needs provider: tensorrt; the CUDA provider computes a network of fp32 "
                "in fp32"
            )
        return self

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """As of every target."""
        if self.provider == "tensorrt":
            return _own_first(self.precision, ("fp32", "fp16", "int8"))
        return ("fp32",) if self.on_gpu else _own_first(self.precision, ("fp32", "int8"))


class OpenVinoSpec(RuntimeSpec):
    """OpenVINO on the CPU."""

    kind: Literal["openvino"] = "openvino"
    hint: Literal["latency", "throughput"] = "latency"
    """What OpenVINO arranges its threads for. With `throughput` several batches are computed at once, and what counts
    is the time from one result to the next."""

    @model_validator(mode="after")
    def _check_combination(self) -> OpenVinoSpec:
        if self.on_gpu:
            raise ValueError(f"kind: openvino measures on the CPU; with device: {self.device} write kind: torch")
        return self

    @property
    def tells_memory(self) -> bool:
        """Yes: each network has a process of its own."""
        return True


class TorchSpec(RuntimeSpec):
    """PyTorch, on the CPU or an NVIDIA GPU."""

    kind: Literal["torch"] = "torch"
    precision: Literal["fp32", "fp16"] = "fp32"
    """Number format."""
    cuda_graph: bool | None = None
    """Whether a GPU replays the network as one CUDA graph, so that launching its kernels does not count. On a GPU by
    default; false is eager mode, which a small network spends mostly on launching."""
    channels_last: bool = False
    """Whether images and weights lie in memory pixel by pixel (NHWC)."""

    @model_validator(mode="after")
    def _check_combination(self) -> TorchSpec:
        if self.precision == "fp16" and not self.on_gpu:
            raise ValueError("precision: fp16 needs kind: torch and device: cuda; on a CPU write precision: fp32")
        if self.cuda_graph and not self.on_gpu:
            raise ValueError("cuda_graph: needs device: cuda; on a CPU leave it out")
        if self.table is not None:
            raise ValueError("table: is made from ONNX files, which kind: torch does not run; remove it")
        return self

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """As of every target."""
        return _own_first(self.precision, ("fp32", "fp16")) if self.on_gpu else ("fp32",)

    @property
    def replays(self) -> bool:
        """Whether it measures CUDA graphs."""
        return self.on_gpu and self.cuda_graph is not False


class TensorRtSpec(RuntimeSpec):
    """TensorRT on an NVIDIA GPU, by engines that are built from the ONNX file."""

    kind: Literal["tensorrt"] = "tensorrt"
    name: str = "gpu"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Number format."""
    device: str = "cuda"
    """`cuda` or `cuda:N`."""

    @model_validator(mode="after")
    def _check_combination(self) -> TensorRtSpec:
        if not self.on_gpu:
            raise ValueError("kind: tensorrt measures on a GPU: write device: cuda, or kind: onnxruntime for the CPU")
        return self

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """As of every target."""
        return _own_first(self.precision, ("fp32", "fp16", "int8"))


class CommandSpec(BaseTargetSpec):
    """Any program that takes an ONNX file and prints a latency: how a board behind ssh or adb is measured."""

    kind: Literal["command"] = "command"
    name: str = "board"
    command: Annotated[tuple[str, ...], BeforeValidator(parse_command)]
    """The program and its arguments, a list, for no shell splits or expands them. `"{onnx}"` is the network's file;
    there are `{name}`, `{batch}`, `{channels}`, `{height}`, `{width}` and `{precision}`, each network's own, and a
    plain brace is `{{`. A program without a slash is found in PATH, another path starts in the current folder."""
    json_key: str | None = Field(default=None, min_length=1)
    """Where the latency is in the last JSON object that the program prints: `latency.median`, `runs.0.ms`. By default
    `latency_ms`."""
    regex: str | None = None
    """What finds the latency in other output: its one group is the whole number, such as `1234.5` or `1.2e3`. It is
    matched without a time limit."""
    pick: Literal["first", "last", "median", "min"] | None = None
    """Which of several numbers counts. It has to be said where one run of the program prints different ones."""
    unit: Literal["us", "ms", "s", "printed"] = "ms"
    """Unit of the number that the program prints. Another one beside the number (`7 us`, `7 ± 1 us`, `3 h`), in its
    label (`time_us: 7`) or in the key is an error; `printed` reads it there, for programs that change it."""
    timeout: float = Field(strict=True, default=120.0, gt=0)
    """How long one run of the program may take, in s. It may change when a study is resumed."""
    retries: int = Field(strict=True, default=3, ge=0)
    """How often a run that failed is tried again, after 1, 2, 4 ... s. It may change when a study is resumed."""
    runs: int = Field(strict=True, default=20, ge=1)
    """Most rounds that count. One run of the program gives one; fewer than 6 have no 95 % interval."""
    seconds: float = Field(strict=True, default=600.0, gt=0)
    device: str = ""
    """The board's model, for the fingerprint; by default the target's name."""
    runtime: str = ""
    """What runs the network there, with its version, for the fingerprint; by default the program's name."""
    precision: Precision = "fp32"
    """Number format in which the board runs a network that asks for none."""
    threads: int | None = Field(strict=True, default=None, ge=1)
    """CPU threads that the program uses, for the fingerprint."""
    fingerprint: Annotated[tuple[str, ...], BeforeValidator(_parse_fingerprint)] = ()
    """A command line, a list. What it prints, such as the firmware's version, has to stay the same in a study."""
    table: str | None = Field(default=None, min_length=1)
    """A latency table of this target's, asked before anything is measured. See `prunetune profile`."""
    occupies: str = ""
    """What it uses alone: targets that share a board give it one name. `cpu` or `cuda:N` for a program that
    computes on this machine, where trainings then make room. By default each command has a name of its own."""

    @field_validator("regex")
    @classmethod
    def _check_regex(cls, regex: str | None) -> str | None:
        try:
            groups = re.compile("()" if regex is None else regex).groups
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        if groups != 1:
            raise ValueError(f"takes one group, around the number, not {groups}; write others as (?:...)")
        return regex

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if not any("onnx" in placeholders(part) for part in command):
            raise ValueError('does not say where the network\'s file goes; give "{onnx}" among the arguments')
        return command

    @model_validator(mode="after")
    def _check_reading(self) -> CommandSpec:
        if self.regex is not None and self.json_key is not None:
            raise ValueError("json_key and regex: the latency is read by one of them; remove the other")
        if self.regex is None and self.unit == "printed":
            raise ValueError("unit: printed stands beside what regex: finds; for json_key write us, ms or s")
        key = self.json_key or JSON_KEY
        if self.regex is None and (named := named_unit(key)) and named.lastgroup != self.unit:
            raise ValueError(f"json_key: {key} names {named[0]} as its unit, and unit: is {self.unit}; make them agree")
        return self

    def usual_alignment(self) -> Alignment:
        """By `DEFAULT_ALIGNMENTS`, as on a CPU."""
        return Alignment.everywhere(DEFAULT_ALIGNMENTS[self.precision][0])

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Its own, and every other if the command line hands them on."""
        is_told = any("precision" in placeholders(part) for part in self.command)
        return _own_first(self.precision, get_args(Precision) if is_told else ())

    @property
    def tells_memory(self) -> bool:
        """Yes, where the program prints `memory_mb`."""
        return True

    @property
    def place(self) -> str:
        """What `occupies` says, or the command itself."""
        return self.occupies or f"command-{hashlib.sha256(repr(self.command).encode()).hexdigest()[:12]}"


class TableSpec(BaseTargetSpec):
    """A latency table that `prunetune profile` made, for a device that is not at hand."""

    kind: Literal["table"] = "table"
    name: str = "table"
    file: str
    """The table's file."""

    @property
    def place(self) -> str:
        """Nothing: a prediction uses no device."""
        return "table"


TargetSpec: TypeAlias = Annotated[
    OnnxRuntimeSpec | OpenVinoSpec | TorchSpec | TensorRtSpec | CommandSpec | TableSpec, Field(discriminator="kind")
]
"""A description of any kind."""

_ADAPTER: TypeAdapter[TargetSpec] = TypeAdapter(TargetSpec)

TARGET_KINDS: dict[str, type[BaseTargetSpec]] = {
    "onnxruntime": OnnxRuntimeSpec,
    "openvino": OpenVinoSpec,
    "torch": TorchSpec,
    "tensorrt": TensorRtSpec,
    "command": CommandSpec,
    "table": TableSpec,
}
"""The kinds by name."""


def parse_target_spec(values: Mapping[str, Any]) -> TargetSpec:
    """Checks plain values.

    Raises:
        pydantic.ValidationError: With every problem that was found.
    """
    return _ADAPTER.validate_python(dict(values))
