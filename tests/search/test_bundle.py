"""Export bundles of a real study: what is in them, that they hold elsewhere, and that a wrong one is found out."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from prunetune.pruning.yolo.detector import Detector
from prunetune.results.bundle import verify
from prunetune.results.bundle.bundle import require_place
from prunetune.results.findings.findings import Findings
from prunetune.results.tables.escapes import markdown_text
from prunetune.search.commands.recover import RecoverySpec
from prunetune.search.study.open_study import find_study
from prunetune.spaces import ConfigError

pytestmark = pytest.mark.slow

Prunetune = Callable[..., Any]

FILES = [
    "SHA256SUMS", "bundle.json", "channels.json", "model-card.md", "model-dynamic.onnx", "model.onnx", "model.pt",
    "study.yaml", "verify.py",
]  # fmt: skip

WITHOUT_PRUNETUNE = Path(__file__).parents[1] / "pruning" / "without_prunetune.py"

RECEIVER = """
import importlib.abc, runpy, sys

class NoPrunetune(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("prunetune", "onnx", "openvino"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPrunetune())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a bundle's own check where there is ultralytics and onnxruntime, and nothing that a bundle may not need."""


@pytest.fixture(scope="module")
def bundle(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of trial 1. Only read it."""
    from prunetune.search.commands.export import Forms, export_bundle

    study, folder = find_study(str(finished_study))
    return export_bundle(study, folder, "1", tmp_path_factory.mktemp("bundles") / "one", Forms())


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


def resum(folder: Path) -> None:
    """Makes the sums right again, as somebody would who replaces a file on purpose."""
    lines = (f"{verify.sha256(folder / name)}  {name}\n" for name in verify.files_of(folder))
    (folder / "SHA256SUMS").write_text("".join(lines))


def failures(folder: Path, data: Path | None = None) -> list[tuple[str, str]]:
    return [
        (check.file, check.what)
        for check in verify.verify(folder, None if data is None else str(data))
        if check.state == verify.FAILS
    ]


def stock(script: str | Path, *arguments: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """A process that cannot import prunetune."""
    command = [sys.executable, *(["-c", code] if code else []), str(script), *map(str, arguments)]
    environment = {**os.environ, "YOLO_OFFLINE": "True", "YOLO_AUTOINSTALL": "False"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def told_data(folder: Path) -> str:
    return str(json.loads((folder / "bundle.json").read_text())["data"])


# A right one


def test_all_that_ships(bundle: Path, finished_study: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == FILES
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == len(FILES) - 1
    assert (bundle / "model.pt").read_bytes() == (finished_study / "candidates" / "trial-1.pt").read_bytes()
    widths = Detector.load(bundle / "model.pt").channels
    channels = json.loads((bundle / "channels.json").read_text())
    layers = channels["layers"]
    assert channels["removed"] == []
    assert {name: told["width"] for name, told in layers.items()} == widths
    assert any(told["width"] < told["dense"] for told in layers.values())
    pruned = {name: told["width"] for name, told in layers.items() if told["width"] < told["dense"]}
    assert not {name for name, width in pruned.items() if width % 8}, "kept in multiples of the alignment"
    assert {told["region"] for told in layers.values()} == {"backbone", "neck", "head"}


def test_the_onnx_files_say_what_they_are(bundle: Path) -> None:
    for name, batch in (("model.onnx", 1), ("model-dynamic.onnx", 0)):
        graph = onnx.load(bundle / name)
        metadata = {item.key: item.value for item in graph.metadata_props}
        assert metadata["names"] == "{0: 'square', 1: 'disc'}"
        assert (metadata["stride"], metadata["imgsz"]) == ("32", "[64, 64]")
        assert json.loads(metadata["prunetune_recipe"])["threshold"] in (0.7, 0.8)
        assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch


def test_it_holds(bundle: Path, finished_study: Path, prunetune: Prunetune) -> None:
    answer = prunetune("verify", bundle, "--data", finished_study / "data.yaml", "--json")
    assert answer.code == 0, answer.out
    checks = json.loads(answer.out)
    assert {check["state"] for check in checks} == {"holds"}
    assert checks[-5]["what"] == "fingerprint of the data"
    told = {(check["file"], check["what"]) for check in checks}
    for file in ("model.pt", "model-dynamic.onnx"):
        assert {(file, "map50_95 on val"), (file, "map50_95 on test")} <= told
    for file in ("model.onnx", "model-dynamic.onnx"):
        assert (file, "computes what model.pt does") in told


def test_its_receiver_needs_ultralytics_and_onnxruntime_only(bundle: Path, finished_study: Path) -> None:
    done = stock(bundle / "verify.py", "--data", finished_study / "data.yaml", code=RECEIVER)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "holds    model-dynamic.onnx: map50_95 on test" in done.stdout
    assert sorted(path.name for path in bundle.iterdir()) == FILES, "the check leaves nothing"


def test_stock_ultralytics_finds_what_the_card_states(bundle: Path, finished_study: Path) -> None:
    """Not by our own check: by `YOLO(...).val` with what the card says, read from the card."""
    card = (bundle / "model-card.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"^\| model\.pt \| val \| [\d.]+ \| ([\d.]+) \|", card, re.MULTILINE)
    (batch,) = re.findall(r"imgsz=64, batch=(\d+)", card)
    assert float(stated) > 0.005, "it found something, beside which a thousandth is little"
    done = stock(WITHOUT_PRUNETUNE, "val", bundle / "model.pt", finished_study / "data.yaml", 64, batch)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["metrics/mAP50-95(B)"] == pytest.approx(float(stated), abs=1e-3)


def test_the_card_tells_all(bundle: Path, finished_study: Path) -> None:
    card = (bundle / "model-card.md").read_text(encoding="utf-8")
    found = Findings.of(find_study(str(finished_study))[0])
    network, tested = found.networks["1"], found.test_accuracy("1")
    assert tested is not None
    for value in (network.map50_95, tested.map50, tested.f1):
        assert f"{value:.4f}" in card
    for words in (
        "shipped, trial 1", "| dense |", "onnxruntime", "ultralytics 8",
        found.study.data_fingerprint, "sha256sum -c SHA256SUMS", "prunetune run study.yaml", "threshold 0.",
    ):  # fmt: skip
        assert words in card, words
    assert "It is on the front of its study" in card or "It is not on the front of its study: trial 0 is" in card
    assert (
        f"`study.yaml` names `data` as {markdown_text(told_data(bundle))}, where its maker had it: add `data=...`"
        in card
    )
    assert "&lt;=" not in card


def test_its_commands_make_the_same_network(
    bundle: Path, finished_study: Path, prunetune: Prunetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    runs = shutil.copytree(finished_study.parent, tmp_path / "runs")
    lines = json.loads((bundle / "bundle.json").read_text())["commands"]
    _, alone, export = (shlex.split(line, comments=True)[1:] for line in lines)
    answer = prunetune(*alone, f"runs={runs}", "controls=[]")
    assert answer.code == 0, answer.err
    made = Findings.of(find_study(str(runs / "shipped-1"))[0]).records[0].cost
    assert (made.epochs_trained, made.epochs_reused) == (0, 9), "the very stages of the recipe"
    assert prunetune(*export, "--runs", runs).code == 0
    again = runs / "shipped-1" / "export" / "trial-0"
    layers = [json.loads((folder / "channels.json").read_text())["layers"] for folder in (bundle, again)]
    assert layers[0] == layers[1]


def test_a_control_and_more_forms(finished_study: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    openvino = find_spec("openvino") is not None
    folder = Path(shutil.copytree(finished_study.parent, tmp_path / "runs")) / "shipped"
    answer = prunetune("export", folder, "--trial", "dense", "--int8", *(["--openvino"] if openvino else []))
    assert answer.code == 0, answer.err
    written = folder / "export" / "dense"
    nodes = onnx.load(written / "model-int8.onnx").graph.node
    assert any(node.op_type == "QuantizeLinear" for node in nodes)
    checked = prunetune("verify", written, "--data", finished_study / "data.yaml")
    assert checked.code == 0, checked.out
    assert "model-int8.onnx: map50_95 on test" in checked.out
    if openvino:
        assert "holds    model_openvino_model: computes what model.pt does" in checked.out
    kept = (written / "bundle.json").read_text()
    assert prunetune("export", folder, "--trial", "dense").code == 0
    assert sorted(path.name for path in written.iterdir()) == FILES, "a bundle in the place of one"
    assert (written / "bundle.json").read_text() != kept


# What is refused


def test_another_folder_is_not_overwritten(finished_study: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    message = prunetune("export", finished_study, "--trial", 1, "--out", tmp_path).complaint
    assert "holds no bundle" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    message = prunetune("export", finished_study, "--trial", 1, "--out", tmp_path / "thesis.txt").complaint
    assert "is a file" in message


def _describe(folder: Path, **changes: Any) -> None:
    told = {"title": "tiny, trial 1", "imgsz": 64, "batch": 8, "classes": [], **changes}
    empty: dict[str, Any] = {"files": {}, "figures": {}, "tolerances": {}}
    (folder / "bundle.json").write_text(json.dumps({**told, **empty}))


def test_the_bundle_of_another_network_stays(tmp_path: Path) -> None:
    _describe(tmp_path)
    require_place(tmp_path, "tiny, trial 1")
    with pytest.raises(ConfigError, match="holds the bundle of tiny, trial 1; remove it, or give another folder"):
        require_place(tmp_path, "tiny, trial 2")


def test_data_that_are_not_there_are_no_fault_of_the_bundle(prunetune: Prunetune, tmp_path: Path) -> None:
    _describe(tmp_path)
    answer = prunetune("verify", tmp_path, "--data", tmp_path / "no.yaml")
    assert answer.code == 2
    assert answer.complaint == f"--data {tmp_path / 'no.yaml'}: no such file"


def test_data_of_other_classes_are_no_data_of_the_bundle(prunetune: Prunetune, tmp_path: Path, shapes: Path) -> None:
    _describe(tmp_path, classes=["disc", "star"])
    answer = prunetune("verify", tmp_path, "--data", shapes)
    assert answer.complaint == (
        f"--data {shapes}: has the classes square, disc, and the bundle disc, star; give the data that it was made for"
    )


def test_data_that_cannot_be_used_are_told_once(prunetune: Prunetune, tmp_path: Path, data: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    _describe(bundle)
    shutil.rmtree(data.parent / "images")
    assert prunetune("verify", bundle, "--data", data).complaint.startswith(f"--data {data}: cannot be used (")
    data.write_text("no yaml: [")
    assert prunetune("verify", bundle, "--data", data).complaint.startswith(f"--data {data}: cannot be used (")


def test_networks_that_are_not_there(finished_study: Path, prunetune: Prunetune) -> None:
    for name in ("9", "quarter-width", "-1"):
        message = prunetune("export", finished_study, f"--trial={name}").complaint
        assert f"--trial {name}" in message
        assert "is no trial of this study (there are 0 to 1), and no control (dense, half-width)" in message


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_missing_runtime_is_told_before_anything_is_written(
    finished_study: Path, prunetune: Prunetune, tmp_path: Path
) -> None:
    message = prunetune("export", finished_study, "--trial", 1, "--tensorrt", "--out", tmp_path / "new").complaint
    assert "prunetune[tensorrt]" in message
    assert list(tmp_path.iterdir()) == []


# What is found out


def test_a_file_that_was_changed_or_lost(own: Path, prunetune: Prunetune) -> None:
    with (own / "model.onnx").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"x")
    (own / "study.yaml").unlink()
    (own / "notes.txt").write_text("of the receiver")
    answer = prunetune("verify", own)
    assert answer.code == 1
    assert "fails    model.onnx: SHA-256: is another file than was exported" in answer.out
    assert "fails    study.yaml: SHA-256: is missing" in answer.out
    assert "skipped  notes.txt" in answer.out
    assert "model.onnx: loads" not in answer.out
    assert "holds    model-dynamic.onnx: computes what model.pt does" in answer.out
    assert answer.out.splitlines()[-1] == "13 holds, 2 fails, 1 skipped"


def test_damaged_channels(own: Path) -> None:
    (own / "channels.json").write_text("{")
    resum(own)
    assert failures(own) == [("channels.json", "can be read")]


def test_images_that_are_others_are_noted(bundle: Path, data: Path, prunetune: Prunetune) -> None:
    """They are no fault of the bundle; that its figures are not found again may be one of the images."""
    label = sorted((data.parent / "labels" / "val").glob("*.txt"))[0]
    label.write_text(label.read_text() + "0 0.5 0.5 0.2 0.2\n")
    checks = json.loads(prunetune("verify", bundle, "--data", data, "--json").out)
    (noted,) = [check for check in checks if check["state"] == "note"]
    assert (noted["file"], noted["what"]) == (str(data), "fingerprint of the data")
    assert noted["detail"].endswith("the bundle's figures are of other images or labels")


def test_a_wrong_checkpoint_is_not_loaded(own: Path) -> None:
    """It could run code."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (own / "ran",))

    torch.save(Evil(), own / "model.pt")
    assert failures(own) == [("model.pt", "SHA-256")]
    assert not (own / "ran").exists()


def test_weights_that_are_others(own: Path) -> None:
    graph = onnx.load(own / "model.onnx")
    weights = next(item for item in graph.graph.initializer if len(item.dims) == 4)
    values = onnx.numpy_helper.to_array(weights) * 1.05
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(graph, own / "model.onnx")
    resum(own)
    assert failures(own) == [("model.onnx", "computes what model.pt does")]


def test_classes_and_widths_that_are_others(own: Path) -> None:
    for file, change in (
        ("bundle.json", lambda told: told.update(classes=["disc", "square"])),
        ("channels.json", lambda told: told["layers"]["model.0.conv"].update(width=1000)),
    ):
        told = json.loads((own / file).read_text())
        change(told)
        (own / file).write_text(json.dumps(told))
    resum(own)
    assert failures(own) == [
        ("model.pt", "classes"),
        ("model.pt", "widths of all layers"),
        ("model.onnx", "loads"),
        ("model-dynamic.onnx", "loads"),
    ]


def test_an_accuracy_that_is_another(own: Path, finished_study: Path) -> None:
    told = json.loads((own / "bundle.json").read_text())
    told["figures"]["model.pt"]["val"]["map50_95"] += 0.002
    (own / "bundle.json").write_text(json.dumps(told))
    resum(own)
    data = finished_study / "data.yaml"
    assert failures(own, data) == [("model.pt", "map50_95 on val"), ("model-dynamic.onnx", "map50_95 on val")]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"files": [], "figures": {}, "tolerances": {}}'])
def test_a_damaged_description(own: Path, prunetune: Prunetune, text: str) -> None:
    (own / "bundle.json").write_text(text)
    assert "bundle.json: is damaged" in prunetune("verify", own).complaint


# Trained on


def test_a_bundle_is_trained_on(bundle: Path, finished_study: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    out, data = tmp_path / "further", finished_study / "data.yaml"
    command = ("recover", bundle, f"data={data}", "epochs=2", "train.lr0=0.002", "train.mosaic=0", "--out", out)
    answer = prunetune(*command)
    assert answer.code == 0, answer.err
    before, after = (Detector.load(folder / "model.pt") for folder in (bundle, out))
    assert after.channels == before.channels
    is_kept = "is kept as it was" in answer.out + answer.err
    assert torch.equal(*(network.model.model[0].conv.weight for network in (before, after))) == is_kept
    told = json.loads((out / "bundle.json").read_text())
    assert told["title"] == "shipped, trial 1, recovered"
    assert set(told["figures"]["model.pt"]) == {"val", "test"}
    assert told["latencies"] == json.loads((bundle / "bundle.json").read_text())["latencies"]
    assert prunetune("verify", out, "--data", data).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["further"], "its stages are gone"
    assert "holds this recovery already" in prunetune(*command).err


def test_what_training_on_only_spoils_is_kept_as_it_was(
    bundle: Path, finished_study: Path, prunetune: Prunetune, tmp_path: Path
) -> None:
    out, data = tmp_path / "spoilt", finished_study / "data.yaml"
    answer = prunetune("recover", bundle, f"data={data}", "epochs=1", "train.lr0=0.5", "--out", out)
    assert answer.code == 0, answer.err
    assert "is kept as it was" in answer.out + answer.err
    before, after = (Detector.load(folder / "model.pt") for folder in (bundle, out))
    assert torch.equal(*(network.model.model[0].conv.weight for network in (before, after)))
    assert prunetune("verify", out, "--data", data).code == 0, "the card's figures are its own"


def test_a_checkpoint_is_trained_on(bundle: Path, finished_study: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    shutil.copyfile(bundle / "model.pt", tmp_path / "small.pt")
    answer = prunetune("recover", tmp_path / "small.pt", f"data={finished_study / 'data.yaml'}", "epochs=1")
    assert answer.code == 0, answer.err
    told = json.loads((tmp_path / "small-recovered" / "bundle.json").read_text())
    assert (told["imgsz"], told["batch"], told["latencies"]) == (64, 4, {})
    assert "Not measured." in (tmp_path / "small-recovered" / "model-card.md").read_text(encoding="utf-8")


def test_a_rectangle_is_trained_on_as_one(
    bundle: Path, finished_study: Path, prunetune: Prunetune, tmp_path: Path
) -> None:
    data, first, second = f"data={finished_study / 'data.yaml'}", tmp_path / "first", tmp_path / "second"
    for source, out, given in ((bundle, first, ["imgsz=[32, 64]"]), (first, second, [])):
        answer = prunetune("recover", source, data, "epochs=1", *given, "--out", out)
        assert answer.code == 0, answer.err
        assert json.loads((out / "bundle.json").read_text())["imgsz"] == [32, 64]
        assert prunetune("verify", out).code == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [("space.recovery_lr=3", "there are "), ("imgzs=64", "did you mean imgsz?"), ("model=x", "there are ")],
)
def test_a_key_that_a_recovery_has_not(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RecoverySpec.read([given], {})
    key = given.partition(".")[0].partition("=")[0]
    keys = "" if said.endswith("?") else ", ".join(RecoverySpec.model_fields)
    assert f"{key}: unknown key; {said}{keys}" in caught.value.problems


def test_what_cannot_be_trained_on(own: Path, finished_study: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    data = finished_study / "data.yaml"
    message = prunetune("recover", own, "epohs=1", "batch=0", "imgsz=abc").complaint
    for words in (
        "imgsz: takes px, such as 640, or [height, width], such as [384, 640], not 'abc'",
        "data: missing",
        "epochs: missing",
        "epohs: unknown key; did you mean epochs?",
        "batch:",
    ):
        assert words in message
    assert "itself" in prunetune("recover", own, f"data={data}", "epochs=1", "--out", own).complaint
    other = tmp_path / "other.yaml"
    other.write_text(data.read_text().replace("1: disc", "1: disc\n  2: star"))
    assert "2 classes" in prunetune("recover", own, f"data={other}", "epochs=1").complaint
    (own / "model.pt").write_bytes(b"other")
    assert "another file" in prunetune("recover", own, f"data={data}", "epochs=1").complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.yaml", "own"]
