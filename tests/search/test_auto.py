"""What a study without a file is to be: chosen from facts, written, found again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunetune.pruning.training.values import TrainingFailureError, TrainingSpeed
from prunetune.pruning.yolo.detector import Detector
from prunetune.search.engine import auto_study
from prunetune.search.study.auto import (
    AutoStudy,
    StudyFacts,
    choose_sizes,
    choose_study,
    is_given,
    study_document,
    study_name,
)
from prunetune.search.study.study_file import study_text, summary
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError
from prunetune.spaces.yaml_file import parse_yaml

Prunetune = Callable[..., Any]

BCCD = StudyFacts("yolov5n.yaml", "bccd/data.yaml", False, 32, 3, 205, 87, 416)
FAST = TrainingSpeed(step_s=0.1, image_s=0.01)


def study_of(facts: StudyFacts = BCCD, hours: float = 10.0, *words: str, speed: TrainingSpeed = FAST) -> AutoStudy:
    return choose_study(facts, choose_sizes(facts), speed, hours, words)


FACTS = st.builds(
    StudyFacts,
    model=st.sampled_from(["yolov5n.yaml", "runs/train/weights/best.pt", "~/ä b.pt"]),
    data=st.sampled_from(["data.yaml", "parcels/data.yaml", "coco8", "/data/x.zip"]),
    is_checkpoint=st.booleans(),
    stride=st.sampled_from([32, 64]),
    classes=st.integers(1, 2000),
    train_images=st.integers(1, 3_000_000),
    val_images=st.integers(1, 100_000),
    image_side=st.integers(1, 20_000),
    gpus=st.integers(0, 8),
    trained_imgsz=st.none() | st.integers(1, 10_000),
    trained_epochs=st.none() | st.integers(1, 3000),
).map(lambda facts: dataclasses.replace(facts, is_checkpoint=facts.model.endswith(".pt")))
SPEEDS = st.builds(TrainingSpeed, st.floats(1e-3, 300), st.floats(1e-4, 10))


@settings(max_examples=80, deadline=None)
@given(FACTS, SPEEDS, st.floats(0.01, 500))
def test_any_facts_give_a_study_whose_file_says_the_same_in_30_lines(
    facts: StudyFacts, speed: TrainingSpeed, hours: float
) -> None:
    study = study_of(facts, hours, speed=speed)
    spec = study.spec
    assert spec.imgsz % facts.stride == 0
    assert spec.sizes(facts.stride)
    assert not list(spec.size_problems(facts.stride))
    text = study_text(study, (), "study.yaml")
    assert len(text.splitlines()) <= 30
    assert StudySpec.parse(parse_yaml(text, "study.yaml")) == spec
    assert all("#" in line or line == "space:" for line in text.splitlines())
    assert study.forecast is not None
    steps = -(-facts.train_images // spec.batch)
    longest = int(spec.space.recovery_epochs.largest)
    assert longest * steps >= 200 or longest == 300, "a recovery has some hundred steps"


@settings(max_examples=60, deadline=None)
@given(FACTS, SPEEDS, st.floats(0.01, 500), st.floats(1, 50))
def test_more_hours_never_choose_fewer_trials_or_epochs(
    facts: StudyFacts, speed: TrainingSpeed, hours: float, factor: float
) -> None:
    less, more = (study_of(facts, hours * by, speed=speed) for by in (1.0, factor))
    assert (less.spec.trials or 0) <= (more.spec.trials or 0)
    assert less.spec.dense_epochs <= more.spec.dense_epochs
    assert less.spec.space.longest_epochs <= more.spec.space.longest_epochs
    assert less.fits <= more.fits


def test_a_night_of_blood_cells() -> None:
    study = study_of(BCCD, 10.0, speed=TrainingSpeed(1.0, 0.1))
    assert study.fits
    assert study.forecast is not None
    assert 5 < study.forecast.hours <= 10
    assert (study.spec.imgsz, study.spec.batch, study.spec.device) == (416, 16, "cpu")
    assert study.spec.space.rounds.values == (1,)


def test_what_fits_in_no_time_is_the_smallest_study_and_says_what_it_needs() -> None:
    study = study_of(BCCD, 0.01, speed=TrainingSpeed(10.0, 1.0))
    assert not study.fits
    assert (study.spec.trials, study.spec.space.recovery_epochs.values) == (8, (16,))
    (said,) = (line for line in summary(study, ()) if "smallest sensible study" in line)
    assert study.forecast is not None
    needed = float(said.partition("hours=")[2].partition(",")[0])
    assert needed - 0.1 <= study.forecast.hours <= needed
    assert study_of(BCCD, needed, speed=TrainingSpeed(10.0, 1.0)).fits


@pytest.mark.parametrize(
    ("changes", "imgsz"),
    [
        ({"image_side": 4000}, 640),
        ({"image_side": 97}, 128),
        ({"image_side": 97, "stride": 64}, 128),
        ({"image_side": 4000, "trained_imgsz": 320}, 320),
        ({"trained_imgsz": 330}, 352),
    ],
)
def test_input_sizes(changes: dict[str, Any], imgsz: int) -> None:
    assert choose_sizes(dataclasses.replace(BCCD, **changes))[0].value == imgsz


@pytest.mark.parametrize(("images", "batch"), [(10_000, 16), (160, 16), (159, 8), (79, 4), (1, 4)])
def test_few_images_have_small_batches(images: int, batch: int) -> None:
    assert choose_sizes(dataclasses.replace(BCCD, train_images=images))[1].value == batch


def test_half_width_trains_as_long_as_the_checkpoint_did_if_there_is_time() -> None:
    best = dataclasses.replace(BCCD, model="best.pt", is_checkpoint=True, trained_epochs=70)
    assert study_of(best, 0.01).spec.dense_epochs == 4 * 16
    assert study_of(best, 100.0).spec.dense_epochs == 70


def test_what_is_given_is_kept_and_counts() -> None:
    words = ("batch=4", "trials=3", "space.recovery_epochs=5", "budget=<= 0.5 x dense", "name=mine")
    study = study_of(BCCD, 10.0, *words)
    spec = study.spec
    assert (spec.name, spec.batch, spec.trials, spec.budget) == ("mine", 4, 3, {"latency": "<= 0.5 x dense"})
    text = study_text(study, words, "study.yaml")
    assert StudySpec.parse(parse_yaml(text, "study.yaml")) == spec
    given = [line.split(":")[0].strip() for line in text.splitlines() if line.endswith("# given")]
    assert given == ["name", "batch", "recovery_epochs", "budget", "trials"]
    assert study.forecast is not None
    assert study.forecast.trials == 3


def test_a_threshold_takes_the_place_of_the_latency() -> None:
    spec = study_of(BCCD, 1.0, "space.threshold=0.5").spec
    assert spec.space.latency is None
    assert spec.space.threshold is not None


def test_an_address_is_not_written() -> None:
    words = ("storage=postgresql+psycopg://user:secret@host/db",)
    assert "secret" not in study_text(study_of(BCCD, 1.0, *words), words, "study.yaml")


@pytest.mark.parametrize(
    ("key", "words", "expected"),
    [
        ("imgsz", ["imgsz=96"], True),
        ("imgsz", ["imgs=96"], False),
        ("space.sparsity", ["space.sparsity.low=0.2"], True),
        ("space.sparsity", ["space={sparsity: 1}"], True),
        ("space.sparse_epochs", ["space.sparsity=1"], False),
    ],
)
def test_which_keys_are_given(key: str, words: list[str], expected: bool) -> None:
    assert is_given(key, words) is expected


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_name_can_be_that_of_a_study(data: str, model: str) -> None:
    name = study_name(data, model)
    assert StudySpec.parse({**study_document((), ()), **MINIMAL, "name": name}).name == name
    assert "/" not in name


MINIMAL: dict[str, Any] = {"model": "m.yaml", "data": "d.yaml", "space": {"preset": "yolov5-slimming"}}


@pytest.mark.parametrize(
    ("data", "model", "name"),
    [
        ("/sets/parcels/data.yaml", "best.pt", "parcels-best"),
        ("coco8", "yolov5n.yaml", "coco8-yolov5n"),
        ("my set.zip", "~/Größe 1.pt", "my-set-Größe-1"),
        ("..", "..", "study"),
    ],
)
def test_names(data: str, model: str, name: str) -> None:
    assert study_name(data, model) == name


def test_a_preset_that_is_chosen_has_a_command() -> None:
    with pytest.raises(ConfigError, match=r"space\.preset: auto .* `prunetune init"):
        StudySpec.parse({**MINIMAL, "name": "n", "space": {"preset": "auto"}})


# The commands. Only the clock is another one.


class Clock:
    """Takes the place of training some steps: says how long they took."""

    def __init__(self) -> None:
        self.speed, self.batches, self.most = FAST, list[int](), 10**9

    def __call__(self, spec: StudySpec, *_: Any) -> TrainingSpeed:
        self.batches.append(spec.batch)
        if spec.batch > self.most:
            raise TrainingFailureError("OUT_OF_MEMORY", "out of memory")
        return self.speed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    made = Clock()
    monkeypatch.setattr(auto_study, "measured_speed", made)
    monkeypatch.chdir(tmp_path)
    return made


def test_init_writes_a_file_that_can_be_read(prunetune: Prunetune, clock: Clock, shapes: Path) -> None:
    answer = prunetune("init", "model=yolov5n.yaml", f"data={shapes}", "hours=1", "--out", "small.yaml")
    assert answer.code == 0, answer.err
    spec = StudySpec.read("small.yaml")
    assert (spec.model, spec.data, spec.imgsz, spec.batch, spec.hours) == ("yolov5n.yaml", str(shapes), 64, 4, 1)
    assert len(Path("small.yaml").read_text().splitlines()) <= 30
    assert "prunetune run small.yaml" in answer.out
    assert "forecast: " in answer.out
    again = prunetune("init", "model=yolov5n.yaml", f"data={shapes}", "--out", "small.yaml")
    assert again.complaint == "--out: small.yaml: is there already; give another file, or remove it"
    assert len(clock.batches) == 1


def test_init_and_run_choose_alike_and_the_second_run_chooses_nothing(clock: Clock, shapes: Path) -> None:
    words, said = ["model=yolov5n.yaml", f"data={shapes}", "hours=2"], list[str]()
    spec = auto_study.study_without_file(words, None, said.append)
    assert spec == auto_study.choose(words).spec
    assert spec.name == f"{shapes.parent.name}-yolov5n"
    assert any(str(spec.folder / "study.yaml") in line for line in said)
    clock.speed = TrainingSpeed(50.0, 5.0)
    words[1] = f"data={shapes.parent}"  # the same data set
    said.clear()
    again = auto_study.study_without_file([*words, f"name={spec.name}", "trials=99"], None, said.append)
    assert again == spec.model_copy(update={"trials": 99})
    assert said == []
    assert len(clock.batches) == 2


def test_a_batch_that_does_not_fit_is_halved_unless_it_was_given(clock: Clock, shapes: Path) -> None:
    clock.most = 1
    words = ["model=yolov5n.yaml", f"data={shapes}"]
    assert auto_study.choose(words).spec.batch == 1
    assert clock.batches == [4, 2, 1]
    with pytest.raises(ConfigError, match="OUT_OF_MEMORY"):
        auto_study.choose([*words, "batch=8"])


def test_a_name_that_is_taken(
    prunetune: Prunetune, clock: Clock, shapes: Path, make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    first = ["name=mine", "model=yolov5n.yaml", f"data={shapes}"]
    auto_study.study_without_file(first, None, print)
    message = prunetune("run", "name=mine", "model=yolov5s.yaml", f"data={shapes}").complaint
    assert message == (
        "name: runs/mine/study.yaml is of model=yolov5n.yaml, and not of yolov5s.yaml; give this study another name, "
        "for example name=mine-2"
    )
    from prunetune.search.study.open_study import open_study

    open_study(make_spec(name="other"))
    message = prunetune("run", "name=other", "model=yolov5n.yaml", f"data={shapes}").complaint
    assert message.startswith("name: other is a study that began with a file of its own; ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trials=3"], "model and data: missing; "),
        (["model=yolov5n.yaml"], "data: missing; "),
        (["trials=3", "study.yaml"], "study.yaml: the study's file comes first: prunetune run study.yaml trials=3"),
        (["model=yolov5n.yaml", "data=nowhere.yaml"], "data: nowhere.yaml: no such file"),
        (["model=yolov5n.yaml", "data=DATA", "imgs=3"], "imgs: unknown key; did you mean imgsz?"),
        (["model=yolov5n.yaml", "data=DATA", "hours=0"], "hours: input should be greater than 0"),
        (["model=yolov5n.yaml", "data=DATA", "space.preset=auto"], "space.preset: auto is chosen"),
        (["model=nosuch.pt", "data=DATA"], "model: nosuch.pt: no such file"),
        (["model=.", "data=DATA"], "model: takes a .yaml or a .pt"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_measured(
    prunetune: Prunetune, clock: Clock, shapes: Path, words: list[str], said: str
) -> None:
    told = prunetune("run", *(word.replace("DATA", str(shapes)) for word in words)).complaint
    assert told.startswith(said)
    assert clock.batches == []
    assert not Path("runs").exists()


def test_a_checkpoint_asks_for_trust(prunetune: Prunetune, clock: Clock, shapes: Path) -> None:
    file = Path("best.pt")
    Detector.load("yolov5n.yaml", ("square", "disc")).save(file, {}, {"imgsz": 96, "epochs": 7})
    words = ("model=best.pt", f"data={shapes}", "hours=100")
    assert "trust=true" in prunetune("init", *words).complaint
    assert prunetune("init", *words, "trust=true").code == 0
    spec = StudySpec.read("study.yaml")
    assert (spec.trust, spec.imgsz, spec.dense_epochs) == (True, 96, 7)
    assert list(parse_yaml(Path("study.yaml").read_text(), ""))[:4] == ["name", "model", "trust", "data"]


def test_a_checkpoint_of_prunetune_says_nothing_of_its_epochs(clock: Clock, shapes: Path) -> None:
    Detector.load("yolov5n.yaml", ("square", "disc")).save(Path("own.pt"), {"kind": "recovery"}, {"imgsz": 96})
    words = ("model=own.pt", f"data={shapes}", "trust=true")
    shorter, longer = (auto_study.choose((*words, f"hours={hours}")).spec for hours in (0.1, 100))
    assert (shorter.imgsz, shorter.dense_epochs) == (96, 4 * int(shorter.space.recovery_epochs.largest))
    assert longer.dense_epochs == 300, "and not ultralytics' default"


@pytest.mark.slow
def test_a_run_without_a_file_and_the_same_command_again(
    prunetune_process: Prunetune, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("trials=1", "dense_epochs=1", "space.sparse_epochs=1", "space.recovery_epochs=1", "controls=[dense]")
    words = ("model=yolov5n.yaml", f"data={shapes}", "imgsz=64", "name=first", "budget=<= 100 x dense", *short)
    done = prunetune_process("run", *words)
    assert done.code == 0, done.err
    assert done.out.count("forecast: ") == 2, "of the choice, and of the run after its first epoch"
    assert Path("runs/first/best.onnx").is_file()
    text = Path("runs/first/study.yaml").read_text()
    again = prunetune_process("run", *words, "trials=2")
    assert again.code == 0, again.err
    assert "1 finished trial, going on" in again.out
    assert "chosen for" not in again.out
    assert Path("runs/first/study.yaml").read_text() == text
