"""Which arguments of ultralytics a study's trainings take, and that they obey those."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunetune.pruning.training import trainer
from prunetune.pruning.training.evaluation import evaluate
from prunetune.pruning.training.hyperparameters import ALLOWED, REFUSED, hyperparameter_problems
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.sparsity import resolve, sparse_phase
from prunetune.pruning.training.trainer import TrainingState, train
from prunetune.pruning.training.values import EpochRecord, Phase, TrainingSetup, recovery_phase
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.pruning.yolo.detector import Detector

DECIDED = {
    True: """
        optimizer amp fraction multi_scale lr0 lrf momentum weight_decay warmup_momentum warmup_bias_lr box cls cls_pw
        dfl hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr bgr mosaic mixup cutmix copy_paste
        copy_paste_mode
    """,
    False: """
        task mode model data epochs time patience batch imgsz save save_period cache device workers project name
        exist_ok pretrained cls_remap verbose seed deterministic single_cls rect cos_lr close_mosaic resume profile
        freeze compile channels_last overlap_mask mask_ratio dropout val split save_json conf iou max_det quantize dnn
        plots nms source vid_stride stream_buffer visualize augment agnostic_nms classes retina_masks embed show
        save_frames save_txt save_conf save_crop show_labels show_conf show_boxes line_width format optimize dynamic
        simplify opset workspace warmup_epochs distill_model dis pose kobj rle angle dlog dgrad dlam nbs auto_augment
        erasing cfg tracker
    """,
}
"""Whether a study takes an argument, for all that ultralytics 8.4.190 has."""


def test_every_argument_of_ultralytics_is_decided() -> None:
    prepare_ultralytics()
    from ultralytics.cfg import DEFAULT_CFG_DICT

    assert {key for keys in DECIDED.values() for key in keys.split()} == set(DEFAULT_CFG_DICT)
    assert set(DECIDED[True].split()) == ALLOWED
    assert set(DECIDED[False].split()) == set(REFUSED)
    for key in ALLOWED - {"lr0", "momentum"}:
        assert hyperparameter_problems({key: DEFAULT_CFG_DICT[key]}, 640) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"conf": 0.25}, "conf: scores would not be those of stock val any more"),
        ({"max_det": 10}, "max_det: scores would not be"),
        ({"single_cls": True}, "single_cls: classes are the data set's; describe another one in a data.yaml"),
        ({"quantize": 8}, "quantize: networks are quantised after training; give a target precision: int8"),
        ({"epochs": 5}, "epochs: each phase has its own; give dense_epochs, or sparse_epochs and recovery_epochs"),
        ({"batch": 5}, "batch: is a key of its own; give it outside of train"),
        ({"cos_lr": True}, "cos_lr: learning rates fall linearly; give lrf"),
        ({"erasing": 0.1}, "erasing: belongs to classification; for detectors there are mosaic"),
        ({"dis": 5}, "dis: the dense original teaches; give distillation, its weight, in the space"),
        ({"mosiac": 0.5}, "mosiac: ultralytics has no such argument; did you mean mosaic?"),
        ({"zzz": 0.5}, "zzz: ultralytics has no such argument; there are amp, bgr, box"),
        ({"optimizer": "Foo"}, "optimizer: 'Foo' is none of SGD, Adam, AdamW"),
        ({"copy_paste_mode": "over"}, "copy_paste_mode: 'over' is none of flip, mixup"),
        ({"mosaic": 7.0}, "mosaic: 'mosaic=7.0' is an invalid value"),
        ({"mosaic": True}, "mosaic: True is no number"),
        ({"box": math.inf}, "box: inf is no number"),
        ({"lr0": "0.1"}, "lr0: 'lr0=0.1' is of invalid type str"),
        ({"fraction": 0}, "fraction: 'fraction=0' invalid"),
        ({"optimizer": "auto", "lr0": 0.1}, "lr0: optimizer auto chooses its own"),
        ({"optimizer": "AUTO", "momentum": 0.1}, "momentum: optimizer auto chooses its own"),
        ({"multi_scale": 0.25}, "multi_scale: images would be as small as 48 px; keep them from 64 px on"),
    ],
)
def test_what_is_not_taken_is_named_with_its_reason(given: Mapping[str, Any], said: str) -> None:
    (problem,) = hyperparameter_problems(given, 64)
    assert problem.startswith(said)


def test_an_argument_that_nobody_has_looked_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_ultralytics()
    from ultralytics import cfg

    monkeypatch.setitem(cfg.DEFAULT_CFG_DICT, "sharpness", 0.5)
    (problem,) = hyperparameter_problems({"sharpness": 0.5}, 64)
    assert problem.startswith("sharpness: is not known to be right for a study; ")


KINDS: list[dict[str, Any]] = [
    *({"optimizer": name} for name in ("sgd", "Adam", "Adamax", "NAdam", "RAdam", "RMSProp", "MuSGD", "auto")),
    {"lr0": 0.01, "lrf": 0.5, "momentum": 0.8, "weight_decay": 0.01, "warmup_momentum": 0.5, "warmup_bias_lr": 0.1},
    {"box": 5.0, "cls": 1.0, "dfl": 1.0, "cls_pw": 0.5, "amp": True},
    {"hsv_h": 0.1, "hsv_s": 0.1, "hsv_v": 0.1, "degrees": 20, "translate": 0.3, "scale": 0.9, "shear": 5},
    {"perspective": 0.001, "flipud": 0.5, "fliplr": 0.0, "bgr": 0.5, "mosaic": 0.5, "mixup": 0.5, "cutmix": 0.5},
    {"copy_paste": 0.9},
    {"copy_paste": 0.9, "copy_paste_mode": "mixup"},
    {"fraction": 0.5},
    {"fraction": 12},
    {"multi_scale": 0.5, "imgsz": 128},
]


@pytest.fixture(scope="module")
def outlines(write_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose labels are outlines, for `copy_paste`."""
    data: Path = write_data(tmp_path_factory.mktemp("outlines"), {"train": 24, "val": 8})
    for file in data.parent.glob("labels/*/*.txt"):
        boxes = [[float(word) for word in line.split()] for line in file.read_text().splitlines()]
        corners = [((x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x, y + h / 2)) for _, x, y, w, h in boxes]
        lines = [
            " ".join(map(str, [int(box[0]), *sum(points, ())])) for box, points in zip(boxes, corners, strict=True)
        ]
        file.write_text("\n".join(lines) + "\n")
    return data


@pytest.fixture(scope="module")
def dense() -> Detector:
    return Detector.load("yolov5n.yaml", ("square", "disc"))


@pytest.mark.slow
@pytest.mark.parametrize("given", KINDS, ids=str)
def test_a_training_obeys_what_it_takes(
    outlines: Path, dense: Detector, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    imgsz = given.get("imgsz", 64)
    hyperparameters = {key: value for key, value in given.items() if key != "imgsz"}
    assert hyperparameter_problems(hyperparameters, imgsz) == []
    setup = TrainingSetup(str(outlines), "outlines", imgsz=imgsz, batch=8, hyperparameters=hyperparameters)
    loaders = DataLoaders(setup)
    loops: list[Any] = []

    class Loop(trainer._Loop):
        sizes: set[int]

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            found = super().preprocess_batch(batch)
            self.sizes.add(found["img"].shape[-1])
            return found

        def train(self) -> None:
            loops.append(self)
            self.sizes = set()
            super().train()

    monkeypatch.setattr(trainer, "_Loop", Loop)
    epochs: list[EpochRecord] = []
    train(dense, recovery_phase(2, "map50_95"), setup, loaders, on_epoch=epochs.append)
    (loop,) = loops
    left_alone = {key: value for key, value in hyperparameters.items() if key not in ("optimizer", "amp")}
    assert {key: getattr(loop.args, key) for key in left_alone} == left_alone
    assert len(epochs) == 2
    assert all(math.isfinite(loss) for epoch in epochs for loss in epoch.losses.values())
    assert loaders.steps_per_epoch == (2 if given.get("fraction") else 3)
    assert (len(loop.sizes) > 1) == ("multi_scale" in given)
    if (name := given.get("optimizer")) and name != "auto":
        assert type(loop.optimizer).__name__.lower() == name.lower()
    assert len(loaders.evaluation("val", stride=32).dataset) == 8
    assert {label["cls"].size for label in loaders.evaluation("val", stride=32).dataset.labels} <= {1, 2}


@pytest.mark.slow
def test_scores_are_the_same_whatever_a_training_takes(shapes: Path, dense: Detector) -> None:
    known = {"optimizer": "SGD", "mosaic": 0.0, "fraction": 0.5, "multi_scale": 0.5, "cls_pw": 1.0, "copy_paste": 0.5}
    setups = [TrainingSetup(str(shapes), "s", imgsz=128, batch=8, hyperparameters=given) for given in ({}, known)]
    scores = [evaluate(dense, setup, DataLoaders(setup)) for setup in setups]
    assert scores[0] == scores[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{"optimizer": "auto"}, {"optimizer": "MuSGD", "lr0": 0.01}, {"cls_pw": 1.0}], ids=str
)
def test_a_longer_sparse_phase_goes_on_from_a_shorter_one(
    setup: TrainingSetup, dense: Detector, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where ultralytics' `auto` would take another optimizer for the longer one: above 10,000 steps."""
    told = replace(setup, hyperparameters=given)
    loaders = DataLoaders(told)
    sparsity = resolve(0.1, "pull", 2, loaders.steps_per_epoch, 0.001)
    long = 10_001
    _, short = train(dense, sparse_phase(1, sparsity), told, loaders)
    ends: list[TrainingState] = []
    phase = replace(sparse_phase(long, sparsity), until=2)
    train(dense, phase, told, loaders, state=short, on_state=ends.append)
    at_once: list[TrainingState] = []
    train(dense, phase, told, loaders, on_state=at_once.append)
    assert [state.epoch for state in ends] == [2]
    for name, weights in at_once[-1].model.items():
        assert torch.equal(ends[-1].model[name], weights), name


@pytest.mark.slow
def test_classes_are_weighted_under_a_teacher_too(setup: TrainingSetup, dense: Detector) -> None:
    phase = Phase(1, "linear", 0.0, choose="map50_95", distillation=1.0)
    ends = [
        train(dense, phase, told, DataLoaders(told), teacher=dense)[1]
        for told in (setup, replace(setup, hyperparameters={"cls_pw": 1.0}))
    ]
    assert ends[0].history[0].losses["cls_loss"] != ends[1].history[0].losses["cls_loss"]
