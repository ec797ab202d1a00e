"""The study's description: what it takes, what it fills in, and how it says no."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prunetune.search.spec import CHANGEABLE, StudySpec, apply_override
from prunetune.search.yaml_file import parse_yaml
from prunetune.spaces import Alignment, ConfigError, FixedParameter

PUBLISHED = """\
name: barcodes
model: yolov5n.yaml        # a yaml is trained first; a .pt is taken as it is
data: data/barcodes/data.yaml
imgsz: 160
batch: 32
device: cpu
dense_epochs: 30
seed: 0
space:
  preset: yolov5-slimming
  sparsity: {low: 0.1, high: 1.0, log: true, grid: 5, unit: pull}   # or unit: lambda
  sparse_epochs: {choices: [2, 4]}
  threshold: {low: 0.005, high: 0.5, log: true}
  rounds: {low: 1, high: 2}
  recovery_epochs: 6
targets: [{kind: onnxruntime, name: cpu, threads: 1, alignment: 8}]
objectives: [map50_95, latency]
budget: {latency: "<= half-width"}
sampler: tpe
controls: [dense, half-width]
trials: 12
"""

SHORT = """\
name: short
model: yolov5n.yaml
data: data.yaml
space: {preset: yolov5-slimming}
"""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str, name: str = "study.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def problems(file: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        StudySpec.read(file, overrides)
    assert str(caught.value).startswith(caught.value.source)
    return caught.value.problems


def problem(file: Path, *overrides: str) -> str:
    (found,) = problems(file, *overrides)
    return found


# What it takes


def test_the_published_form_parses(written: Any) -> None:
    spec = StudySpec.read(written(PUBLISHED))
    assert (spec.name, spec.model, spec.data) == ("barcodes", "yolov5n.yaml", "data/barcodes/data.yaml")
    assert (spec.imgsz, spec.batch, spec.device, spec.dense_epochs, spec.seed) == (160, 32, "cpu", 30, 0)
    assert spec.space.sparsity_unit == "pull"
    assert spec.space.sparsity.values == (0.1, 0.177828, 0.316228, 0.562341, 1.0)
    assert spec.space.sparse_epochs.values == (2, 4)
    assert (spec.space.threshold.low, spec.space.threshold.high, spec.space.threshold.log) == (0.005, 0.5, True)
    assert (spec.space.rounds.low, spec.space.rounds.high) == (1, 2)
    assert spec.space.recovery_epochs == FixedParameter(value=6)
    assert spec.space.longest_epochs == 2 * (4 + 6)
    (target,) = spec.targets
    assert (target.kind, target.name, target.threads, target.alignment.as_json()) == ("onnxruntime", "cpu", 1, 8)
    assert spec.objectives == ("map50_95", "latency")
    assert (spec.limit_of("cpu"), spec.judged) == ("<= half-width", ["cpu"])
    assert (spec.sampler, spec.controls, spec.trials) == ("tpe", ("dense", "half-width"), 12)
    assert spec.folder == Path("runs/barcodes")
    assert spec.storage_url == "sqlite:///runs/barcodes/study.db"


def test_only_four_keys_must_be_given(written: Any) -> None:
    spec = StudySpec.read(written(SHORT))
    assert (spec.imgsz, spec.batch, spec.device, spec.seed, spec.choose) == (640, 16, "cpu", 0, "map50_95")
    assert [target.kind for target in spec.targets] == ["onnxruntime"]
    assert spec.targets[0].alignment.as_json() == 8
    assert spec.objectives == ("map50_95", "latency")
    assert spec.budget == {"latency": "<= half-width"}
    assert (spec.sampler, spec.controls, spec.storage) == ("cost-aware", ("dense", "half-width"), None)
    assert (spec.trials, spec.epochs, spec.hours) == (30, None, None)
    assert spec.space.sparsity_unit == "lambda"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("cuda:1", "1"),
        ("0", "0"),
        (3, "3"),
        ("cpu", "cpu"),
        ("mps", "mps"),
        ("[0, 1]", "0,1"),
        ("cuda:0,1", "0,1"),
        ("2, 3", "2,3"),
    ],
)
def test_a_device_is_named_as_ultralytics_names_it(written: Any, given: Any, meant: str) -> None:
    assert StudySpec.read(written(SHORT), [f"device={given}"]).device == meant


def test_a_threshold_for_each_region(written: Any) -> None:
    file = written(SHORT)
    spec = StudySpec.read(file, ["space.threshold={backbone: 0.1, head: {low: 0.1, high: 0.5}}"])
    assert [name for name, _ in spec.space.parameters() if "threshold" in name] == [
        "threshold_backbone",
        "threshold_head",
    ]


def test_a_description_is_a_value_that_survives_json(written: Any) -> None:
    spec = StudySpec.read(written(PUBLISHED))
    assert StudySpec.parse(spec.model_dump(mode="json", exclude_none=True)) == spec
    with pytest.raises(ValidationError, match="frozen"):
        spec.trials = 13  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("0x10", 16), ("0o10", 8), ("-7", -7), ("1:30", "1:30"), ("on", "on"),
     ("6e-4", 6e-4), (".5", 0.5), ("1.", 1.0), ("+1.5", 1.5), (".inf", math.inf), ("True", True),
     ("~", None), (".", "."), ("-", [None]), ("1.2.3", "1.2.3"), ("e5", "e5")],
)  # fmt: skip
def test_plain_words_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text, "here")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["!!int abc", "9" * 5000, "a: [", "!!float x", "2024-13-45"])
def test_what_is_no_yaml_is_told_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml(text, "here")


# Several targets

TWO = (
    SHORT
    + """\
targets:
  - {kind: onnxruntime, name: cpu}
  - {kind: torch, name: eager}
"""
)


def test_each_of_several_targets_is_an_objective_or_a_limit_or_both(written: Any) -> None:
    text = TWO + "objectives: [map50_95, latency@eager]\nbudget: {latency@cpu: <= 3 ms, latency@eager: <= dense}\n"
    spec = StudySpec.read(written(text))
    assert spec.judged == ["eager"]
    assert (spec.limit_of("cpu"), spec.limit_of("eager")) == ("<= 3 ms", "<= dense")
    assert (spec.latency_name("cpu"), spec.latency_name("eager")) == ("latency@cpu", "latency@eager")


def test_a_budget_without_a_target_holds_on_all_that_have_none_of_their_own(written: Any) -> None:
    text = TWO + "objectives: [map50_95]\nbudget: {latency: <= dense, latency@eager: <= 3 ms}\n"
    spec = StudySpec.read(written(text))
    assert (spec.judged, spec.limit_of("cpu"), spec.limit_of("eager")) == ([], "<= dense", "<= 3 ms")


def test_a_study_without_a_budget(written: Any) -> None:
    spec = StudySpec.read(written(SHORT + "budget: {}\n"))
    assert (spec.judged, spec.limit_of("cpu")) == (["cpu"], None)


@pytest.mark.parametrize(
    ("lines", "field", "said"),
    [
        ("", "objectives", "latency alone does not say on which target; write latency@cpu or latency@eager"),
        ("objectives: [map50_95, latency@eger]", "objectives", "did you mean latency@eager?"),
        ("objectives: [map50_95, latency@cpu]\nbudget: {latency@cpu: <= dense}", "targets", "eager is neither"),
        ("objectives: [map50_95, latency@cpu]\nbudget: {latency@eager: fast}", "budget.latency@eager", "'<= 1.0 ms'"),
    ],
)
def test_what_several_targets_need(written: Any, lines: str, field: str, said: str) -> None:
    found = problem(written(TWO + lines + "\n"))
    assert found.startswith(f"{field}: ")
    assert said in found


# Overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("imgsz=256", lambda spec: spec.imgsz == 256),
        ("name=bccd", lambda spec: spec.name == "bccd"),
        ("data=../shared/data/bccd/data.yaml", lambda spec: spec.data == "../shared/data/bccd/data.yaml"),
        ("space.rounds.high=3", lambda spec: spec.space.rounds.largest == 3),
        ("space.recovery_epochs={choices: [5, 7]}", lambda spec: spec.space.recovery_epochs.values == (5, 7)),
        ("targets.0.threads=2", lambda spec: spec.targets[0].threads == 2),
        ("objectives=[map50_95]", lambda spec: spec.objectives == ("map50_95",)),
        ("controls=[]", lambda spec: spec.controls == ()),
        ("train.lr0=6e-4", lambda spec: spec.train == {"lr0": 0.0006}),
        ("space.sparsity={value: 6e-4}", lambda spec: spec.space.sparsity.largest == 0.0006),
        ("budget.latency='<= 0.5 x dense'", lambda spec: spec.limit_of("cpu") == "<= 0.5 x dense"),
        ('budget.latency="<= 1.5 ms"', lambda spec: spec.limit_of("cpu") == "<= 1.5 ms"),
        ("budget.latency=<= half-width", lambda spec: spec.limit_of("cpu") == "<= half-width"),
        ("name='12'", lambda spec: spec.name == "12"),
        ("data=data/a=b.yaml", lambda spec: spec.data == "data/a=b.yaml"),
        ("storage=postgresql+psycopg://u@h/d?a=1", lambda spec: spec.storage == "postgresql+psycopg://u@h/d?a=1"),
        ("train.mosaic=0", lambda spec: spec.train == {"mosaic": 0}),
    ],
)
def test_an_override_is_a_path_and_a_yaml_value(written: Any, override: str, read: Any) -> None:
    assert read(StudySpec.read(written(PUBLISHED), [override]))


def test_the_last_of_two_overrides_wins(written: Any) -> None:
    assert StudySpec.read(written(PUBLISHED), ["trials=5", "trials=6"]).trials == 6


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("imgsz", "write key=value"),
        ("=5", "write key=value"),
        ("imgsz.high=5", "inside a value that has no keys"),
        ("targets.7.threads=2", "inside a value that has no keys"),
        ("targets.threads=2", "inside a value that has no keys"),
        ("space=[1", "not valid YAML"),
        ("imgzs=256", "imgzs: unknown key; did you mean imgsz?"),
        ("space.rounds.hihg=3", "space.rounds.hihg: unknown key; did you mean high?"),
    ],
)
def test_an_override_that_leads_nowhere(written: Any, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StudySpec.read(written(PUBLISHED), [override])
    assert said in str(caught.value)
    assert override.partition("=")[0] in str(caught.value)


def test_an_override_reaches_into_keys_that_are_not_there_yet() -> None:
    values: dict[str, Any] = {}
    apply_override(values, "train.lr0=0.01")
    assert values == {"train": {"lr0": 0.01}}


# How it says no

BAD = [
    ("imgzs: 256", "imgzs", "unknown key; did you mean imgsz?"),
    ("budgets: {latency: '<= half-width'}", "budgets", "did you mean budget?"),
    ("zzz: 1", "zzz", "allowed are name, model, data"),
    ("global: 1", "global", "unknown key"),
    ("imgsz: big", "imgsz", "'big'"),
    ("imgsz: 1000000000000", "imgsz", "less than or equal to 8192"),
    ("storage: ''", "storage", "at least 1"),
    ("imgsz: 100", "imgsz", "multiple of 32"),
    ("batch: 0", "batch", "greater than or equal to 1, not 0"),
    ("trials: 2.5", "trials", "2.5"),
    ("trials: true", "trials", "valid integer, not True"),
    ("trials: 1:30", "trials", "not '1:30'"),
    ("seed: '7'", "seed", "not '7'"),
    ("trials: 0", "trials", "greater than or equal to 1"),
    ("trials: -3", "trials", "not -3"),
    ("epochs: 0", "epochs", "greater than or equal to 1"),
    ("hours: -1", "hours", "greater than 0, not -1"),
    ("hours: true", "hours", "valid number, not True"),
    ("seed: -1", "seed", "not -1"),
    ("sampler: tpee", "sampler", "did you mean tpe?"),
    ("choose: map", "choose", "'map50_95' or 'f1'"),
    ("cache: yes", "cache", "'ram'"),
    ("device: cpu,0", "device", "GPU numbers such as 0"),
    ("device: true", "device", "string"),
    ("controls: [tiny]", "controls.0", "'half-width'"),
    ("controls: dense", "controls", "takes a list in brackets, such as [dense]"),
    ("controls: [dense, dense]", "controls", "has a name twice"),
    ("seed: 4294967296", "seed", "less than or equal to 1000000000"),
    ("runs: ''", "runs", "at least 1"),
    ("objectives: [latency]", "objectives", "the first is map50_95, not 'latency'"),
    ("objectives: []", "objectives", "write [map50_95, latency]"),
    ("objectives: [map50_95, speed]", "objectives", "there is no 'speed'; allowed are latency, latency@cpu"),
    ("objectives: [map50_95, latncy]", "objectives", "did you mean latency?"),
    ("objectives: [map50_95, latency@board]", "objectives", "there is no 'latency@board'"),
    ("objectives: [map50_95, latency, latency]", "objectives", "stands twice"),
    ("objectives: [map50_95, latency, latency@cpu]", "objectives", "stands twice"),
    ("targets: []", "targets", "is empty"),
    ("targets: [{kind: torch}, {kind: onnxruntime}]", "targets", "two are called 'cpu'"),
    ("targets: [{kind: tpu}]", "targets.0.kind", "onnxruntime"),
    ("targets: [{kind: torch, thread: 2}]", "targets.0.thread", "did you mean threads?"),
    ("targets: [{kind: openvino, device: cuda}]", "targets.0", "write kind: torch"),
    ("targets: [{name: cpu}]", "targets.0.kind", "missing"),
    ("targets: [{kind: torch, alignment: 0}]", "targets.0.alignment", "whole number from 1 (no alignment)"),
    ("targets: [{kind: torch, alignment: {frist: 8}}]", "targets.0.alignment", "did you mean first?"),
    ("targets: [board.yaml]", "targets.0", "board.yaml: no such file, neither beside the study's nor in the current"),
    ("targets: [5]", "targets.0", "5"),
    ("targets: [{kind: comand}]", "targets.0.kind", "did you mean command?"),
    ("targets: [{kind: command}]", "targets.0.command", "missing"),
    ("targets: [{kind: command, command: [run, {onnx}]}]", "targets.0.command", 'put it in quotes: "{onnx}"'),
    ("targets: [{kind: command, command: 'run {onnx}'}]", "targets.0.command", 'takes a list, because no shell'),
    ("targets: [{kind: command, command: [run, '{onnx}'], timeot: 5}]", "targets.0.timeot", "did you mean timeout?"),
    ("targets: [{kind: command, command: [run, '{onnx}'], unit: m}]", "targets.0.unit", "did you mean ms?"),
    ("targets: [{kind: torch, command: [run]}]", "targets.0.command", "unknown key"),
    ("targets: board.yaml", "targets", "board.yaml"),
    ("budget: {latency: fast}", "budget.latency", "'<= half-width'"),
    ("budget: {latency: '<= half-widht'}", "budget.latency", "did you mean 'half-width'?"),
    ("budget: {latency: '<= -1 ms'}", "budget.latency", "positive number"),
    ("budget: {latency: '>= 1 ms'}", "budget.latency", "starts with '<='"),
    ("budget: {latency: '<= nan ms'}", "budget.latency", "positive number"),
    ("budget: {latncy: '<= 1 ms'}", "budget.latncy", "did you mean latency?"),
    ("budget: {latency@bord: '<= 1 ms'}", "budget.latency@bord", "there is no 'latency@bord'"),
    ("budget: 1.0", "budget", "1.0"),
    ("train: {epochs: 5}", "train", "epochs cannot be set here"),
    ("train: {imgsz: 64, batch: 2}", "train", "batch, imgsz cannot be set here"),
    ("train: {lr0: [0.1]}", "train.lr0", "valid number"),
    ("train: {lr0: .nan}", "train.lr0", "finite number, not nan"),
    ("storage: 5", "storage", "string"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "field", "said"), BAD)
def test_a_wrong_value_names_its_field_and_what_is_allowed(written: Any, line: str, field: str, said: str) -> None:
    found = problem(written(SHORT + line + "\n"))
    assert found.startswith(f"{field}: ")
    assert said in found


BAD_SPACES = [
    ("sparsity={low: 2, high: 1}", "space.sparsity", "low (2.0) is above high (1.0)"),
    ("rounds={low: 3, high: 1}", "space.rounds", "low (3) is above high (1)"),
    ("threshold={low: 0, high: 1, log: true}", "space.threshold", "a log scale needs low > 0"),
    ("threshold={low: 0.1, high: 0.1, grid: 3}", "space.threshold", "a grid needs low < high"),
    ("threshold={low: false, high: true}", "space.threshold.low", "valid number, not False"),
    ("threshold={low: 0.1, high: 0.2, grid: 100000000}", "space.threshold.grid", "less than or equal to 1000"),
    ("preset=[a]", "space", "there are yolov5-slimming"),
    ("threshold={low: 0.1, high: 0.2, grid: 1}", "space.threshold.grid", "greater than or equal to 2"),
    ("sparse_epochs={choices: []}", "space.sparse_epochs.choices", "at least 1"),
    ("sparse_epochs={choices: [2, 2]}", "space.sparse_epochs", "twice"),
    ("sparse_epochs={choises: [2]}", "space.sparse_epochs.choises", "did you mean choices?"),
    ("sparse_epochs={low: 1.5, high: 3}", "space", "sparse_epochs: takes whole numbers"),
    ("recovery_epochs=2.5", "space", "recovery_epochs: takes whole numbers, not 2.5"),
    ("recovery_epochs=-1", "space", "recovery_epochs: -1 is below 0"),
    ("rounds=0", "space", "rounds: 0 is below 1"),
    ("rounds=many", "space", "rounds: 'many' is not a number"),
    ("rounds=[1, 2]", "space.rounds", "{choices: [...]}"),
    ("treshold=0.1", "space.treshold", "did you mean threshold?"),
    ("threshold={backbone: 0.1}", "space.threshold.head", "missing"),
    ("threshold={backbone: 0.1, haed: 0.1}", "space.threshold", "haed"),
    ("latency=0.9", "space.threshold", "and latency cannot both be given"),
    ("balance=2", "space.threshold", "and balance cannot both be given"),
    ("latncy=0.9", "space.latncy", "did you mean latency?"),
    ("preset=yolov5", "space", "there are yolov5-slimming"),
    ("sparsity.unit=pulls", "space.sparsity_unit", "did you mean pull?"),
    ("sparsity={low: .nan, high: 1}", "space.sparsity.low", "finite"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "field", "said"), BAD_SPACES)
def test_a_wrong_space_names_its_parameter(written: Any, override: str, field: str, said: str) -> None:
    found = problems(written(PUBLISHED), f"space.{override}")
    assert all(sentence.startswith(f"{field.rpartition('.')[0] or field}") for sentence in found)
    assert any(sentence.startswith(f"{field}") and said in sentence for sentence in found)


LATENCY = SHORT.replace("{preset: yolov5-slimming}", "{preset: yolov5-slimming, latency: {low: 0.6, high: 1.0}}")


def test_a_latency_in_the_space(written: Any) -> None:
    spec = StudySpec.read(written(LATENCY))
    assert "latency" in dict(spec.space.parameters())
    again = StudySpec.parse(spec.model_dump(mode="json", exclude_none=True))
    assert again == spec, "a study is resumed with it"


def test_the_latency_and_the_table_in_the_readme(written: Any) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (space,) = (block for block in blocks if "  latency:" in block)
    (targets,) = (block for block in blocks if "table:" in block)
    spec = StudySpec.read(written(SHORT.replace("space: {preset: yolov5-slimming}\n", space) + targets))
    assert {"latency", "balance"} < set(dict(spec.space.parameters()))
    assert spec.targets[0].table == "yolov5n-160.json"


def test_a_latency_in_the_space_needs_a_budget(written: Any) -> None:
    found = problem(written(LATENCY + "budget: {}\n"))
    assert found.startswith("space.latency: is a share of the budget, and there is none; give budget:")
    assert problem(written(LATENCY.replace("0.6", "-0.6"))).startswith("space.latency: -0.6 is no share")


def test_a_table_is_looked_for_beside_the_study(written: Any, tmp_path: Path) -> None:
    written("{}", "table.json")
    written("{kind: onnxruntime, name: other, table: table.json}", "other.yaml")
    targets = "targets: [{kind: onnxruntime, table: table.json}, other.yaml]\nobjectives: [map50_95, latency@cpu]\n"
    spec = StudySpec.read(written(SHORT + targets), ["targets.0.threads=2"])
    assert [target.table for target in spec.targets] == [str(tmp_path / "table.json")] * 2
    assert StudySpec.read(written(SHORT + "targets: [{kind: onnxruntime, table: gone.json}]")).targets[0].table == (
        "gone.json"
    )


def test_a_table_for_what_runs_no_onnx_files_is_refused(written: Any) -> None:
    found = problem(written(SHORT + "targets: [{kind: torch, table: table.json}]\n"))
    assert "table: is made from ONNX files" in found


@pytest.mark.parametrize("key", ["name", "model", "data", "space"])
def test_a_missing_key_is_named(written: Any, key: str) -> None:
    lines = [line for line in SHORT.splitlines() if not line.startswith(f"{key}:")]
    assert problem(written("\n".join(lines))) == f"{key}: missing"


def test_a_space_without_a_preset_needs_its_parameters(written: Any) -> None:
    text = SHORT.replace("{preset: yolov5-slimming}", "{sparsity: 0.5}")
    assert problems(written(text)) == (
        "space.sparse_epochs: missing",
        "space.threshold: missing; give it, or latency, a share of the budget from which it is found",
        "space.recovery_epochs: missing",
    )


@pytest.mark.parametrize("name", ["", "  ", "a/b", "../up", ".hidden", "a\\b", "a\0b", "x" * 201])
def test_a_name_is_a_folder(written: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="name: "):
        StudySpec.parse({"name": name, "model": "m.pt", "data": "d.yaml", "space": {"preset": "yolov5-slimming"}})


def test_a_key_that_stands_twice_is_refused(written: Any) -> None:
    found = problem(written(SHORT + "trials: 5\nimgsz: 64\ntrials: 50\n"))
    assert "trials" in found
    assert "duplicate key" in found


def test_a_key_that_stands_twice_inside_is_refused(written: Any) -> None:
    assert "duplicate key" in problem(written(SHORT + "budget: {latency: '<= dense', latency: '<= 1 ms'}\n"))


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tname: x", "a: 'open"])
def test_text_that_is_no_yaml_names_the_line(written: Any, text: str) -> None:
    found = problem(written("# comment\n" + text + "\n"))
    assert found.startswith("line ")
    assert "not valid YAML" in found


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "5"])
def test_yaml_that_is_no_mapping_is_no_study(written: Any, text: str) -> None:
    assert "holds no study" in problem(written(text))


def test_a_binary_file_is_no_study(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(b"\x80\x81\xff\x00")
    assert "cannot be read" in problem(file)


def test_a_folder_is_no_study(tmp_path: Path) -> None:
    assert "cannot be read" in problem(tmp_path)


def test_a_missing_file_names_the_nearest(written: Any, tmp_path: Path) -> None:
    written(SHORT)
    assert problem(tmp_path / "stduy.yaml") == f"no such file; did you mean {tmp_path / 'study.yaml'}?"
    assert problem(tmp_path / "nowhere" / "study.yaml") == "no such file"


def test_all_problems_are_told_together(written: Any) -> None:
    text = """\
name: a/b
modle: yolov5n.yaml
data: d.yaml
imgsz: 100
space: {preset: yolov5-slimming, rounds: {low: 3, high: 1}, sparse_epochs: {choices: []}}
budget: {latency: soon}
"""
    found = problems(written(text))
    fields = {sentence.partition(":")[0] for sentence in found}
    assert fields == {
        "name", "model", "modle", "imgsz", "space.rounds", "space.sparse_epochs.choices", "budget.latency",
    }  # fmt: skip
    assert len(found) == 7


# Targets from files

BOARD = "kind: onnxruntime\nname: board\nthreads: 2\nalignment: {default: 16, first: 8}\n"


def test_a_target_from_a_file_beside_the_study(written: Any) -> None:
    written(BOARD, "board.yaml")
    spec = StudySpec.read(written(SHORT + "targets: [board.yaml]\n"))
    (target,) = spec.targets
    assert (target.name, target.threads) == ("board", 2)
    assert target.alignment == Alignment(default=16, first=8, depthwise=16)
    assert StudySpec.parse(spec.model_dump(mode="json", exclude_none=True)) == spec


def test_a_target_from_a_file_in_the_current_folder(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "boards"
    elsewhere.mkdir()
    (elsewhere / "board.yaml").write_text(BOARD)
    monkeypatch.chdir(elsewhere)
    file = written(SHORT + "targets: [board.yaml]\n")
    assert StudySpec.read(file).targets[0].name == "board"
    written(BOARD.replace("board", "nearer"), "board.yaml")
    assert StudySpec.read(file).targets[0].name == "nearer"


def test_overrides_reach_a_target_from_a_file_and_can_name_one(written: Any) -> None:
    written(BOARD, "board.yaml")
    spec = StudySpec.read(written(SHORT), ["targets=[board.yaml]", "targets.0.threads=1"])
    assert (spec.targets[0].name, spec.targets[0].threads) == ("board", 1)


def test_a_wrong_target_in_a_file(written: Any, tmp_path: Path) -> None:
    study = written(SHORT + "targets: [board.yaml]\n")
    written(BOARD + "thread: 2\n", "board.yaml")
    assert problem(study) == "targets.0.thread: unknown key; did you mean threads?"
    for text, said in (("- kind: torch\n", "holds no target"), ("a: [1", "line "), ("", "holds no target")):
        written(text, "board.yaml")
        with pytest.raises(ConfigError, match=said) as caught:
            StudySpec.read(study)
        assert caught.value.source == str(tmp_path / "board.yaml")


# What a resumed study must share


def test_only_how_far_and_where_may_change(written: Any) -> None:
    file = written(PUBLISHED)
    spec = StudySpec.read(file)
    same = [
        "trials=99",
        "epochs=500",
        "hours=1.5",
        "device=0",
        "workers=2",
        "cache=disk",
        "storage=sqlite:///x.db",
        "runs=elsewhere",
        "allow_new_device=true",
    ]
    assert {override.partition("=")[0] for override in same} == CHANGEABLE
    for override in same:
        assert StudySpec.read(file, [override]).frozen_part() == spec.frozen_part(), override
    board = [
        f'targets=[{{kind: command, command: [run, "{{onnx}}"], {keys}}}]' for keys in ("retries: 0", "timeout: 9")
    ]
    assert len({str(StudySpec.read(file, [override]).frozen_part()) for override in board}) == 1
    others = [
        "model=yolov5s.yaml", "data=d.yaml", "imgsz=320", "batch=8", "dense_epochs=3", "seed=1", "choose=f1",
        "train.lr0=0.1", "targets.0.alignment=4", "objectives=[map50_95]", "budget.latency='<= dense'",
        "sampler=gp", "controls=[dense]", "space.rounds.high=3",
        "early_stopping=false",
    ]  # fmt: skip
    for override in others:
        assert StudySpec.read(file, [override]).frozen_part() != spec.frozen_part(), override
    assert {override.partition("=")[0].partition(".")[0] for override in others} | CHANGEABLE | {"name"} == set(
        StudySpec.model_fields
    )
