"""The figures of an accuracy, and what a checkpoint is chosen by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.training.evaluation import accuracy_from
from prunetune.pruning.training.loaders import arguments
from prunetune.pruning.training.values import TrainingSetup
from prunetune.spaces.accuracy import Accuracy

SHARE = st.floats(0.01, 1)


def validator(f1_curve: Any) -> Any:
    curves = np.asarray(f1_curve)
    f1 = curves.max(axis=1)
    boxes = SimpleNamespace(map50=0.5, map=0.3, mp=0.6, mr=0.7, f1=f1, f1_curve=curves, px=np.linspace(0, 1, 1000))
    return SimpleNamespace(metrics=SimpleNamespace(box=boxes))


def test_the_confidence_is_where_the_mean_f1_of_the_classes_is_best() -> None:
    confidences = np.linspace(0, 1, 1000)
    peaks = [np.exp(-((confidences - peak) ** 2)) for peak in (0.3, 0.5)]
    assert accuracy_from(validator(peaks)).confidence == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("curves", [np.zeros((2, 1000)), np.zeros((0, 1000))], ids=["nothing found", "no classes"])
def test_where_nothing_is_found_there_is_no_confidence(curves: Any) -> None:
    found = validator(np.zeros((2, 1000)))
    found.metrics.box.f1 = np.zeros(len(curves))
    accuracy = accuracy_from(found)
    assert accuracy.confidence is None
    assert "confidence" not in accuracy.as_dict()


def test_accuracies_survive_json_and_old_ones_are_read() -> None:
    accuracy = Accuracy(0.5, 0.3, 0.6, 0.7, 0.65, confidence=0.41)
    assert Accuracy.from_dict(accuracy.as_dict()) == accuracy
    old = {name: value for name, value in accuracy.as_dict().items() if name != "confidence"}
    assert Accuracy.from_dict(old).confidence is None


@given(SHARE, SHARE, st.floats(1.0, 1.5))
def test_in_both_a_percent_of_one_is_worth_a_percent_of_the_other(f1: float, map50_95: float, factor: float) -> None:
    better_f1 = Accuracy(1, map50_95, 1, 1, f1 * factor).score("both")
    better_map = Accuracy(1, map50_95 * factor, 1, 1, f1).score("both")
    assert better_f1 == pytest.approx(better_map)
    assert better_f1 >= Accuracy(1, map50_95, 1, 1, f1).score("both")


@pytest.mark.parametrize(
    ("device", "asked", "given"),
    [("cpu", True, False), ("0", True, True), ("0", "bf16", "bf16"), ("0", False, False), ("mps", "bf16", False)],
)
def test_mixed_precision_is_for_gpus(device: str, asked: Any, given: Any) -> None:
    setup = TrainingSetup("data.yaml", "fingerprint", device=device, hyperparameters={"amp": asked})
    assert arguments(setup)["amp"] == given
