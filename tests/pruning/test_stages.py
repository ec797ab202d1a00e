"""What stages are called: names that were given once stay, and what changes the result changes the name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prunetune.pruning.stages.stage import training_stage, trunk
from prunetune.pruning.training.sparsity import resolve, sparse_phase
from prunetune.pruning.training.values import Phase, TrainingSetup, recovery_phase

SETUP = TrainingSetup("data.yaml", "fingerprint", imgsz=64, batch=8)
RECOVERY = recovery_phase(3, "map50_95")
SPARSE = sparse_phase(2, resolve(0.5, "pull", 4, 10, 0.001))


def digest(phase: Phase, kind: str = "recovery") -> str:
    return training_stage(kind, "pruning-0", SETUP, phase).digest


def test_trainings_without_options_keep_their_names() -> None:
    """Stores are full of them."""
    assert digest(RECOVERY) == "recovery-d8c83fd910c6dd01afe7"
    assert digest(SPARSE, "sparse") == "sparse-5aa461ee606f3da81b4b"
    assert trunk("sparse", "pruning-0", SETUP, SPARSE) == "sparse-afc733a705d94c3fde77"


@pytest.mark.parametrize("phase", [RECOVERY, SPARSE])
def test_a_weight_of_zero_is_a_training_without_a_teacher(phase: Phase) -> None:
    assert phase.taught(0.0, "original-1") == phase


@pytest.mark.parametrize("changes", [{"distillation": 3.0}, {"teacher": "original-2"}])
def test_the_name_holds_weight_and_teacher(changes: dict[str, Any]) -> None:
    taught = RECOVERY.taught(6.0, "original-1")
    assert len({digest(RECOVERY), digest(taught), digest(replace(taught, **changes))}) == 3


def test_the_name_holds_how_gammas_are_penalised() -> None:
    option: dict[str, Any] = {"shrinkage": "subgradient"}
    assert digest(replace(SPARSE, **option)) != digest(SPARSE)
    unpenalised = replace(SPARSE, penalty=0.0)
    assert digest(replace(unpenalised, **option)) == digest(unpenalised), "there is nothing that it changes"
    assert trunk("sparse", "p", SETUP, replace(SPARSE, **option)) == trunk(
        "sparse", "p", SETUP, replace(SPARSE, epochs=9, **option)
    )


@pytest.mark.parametrize("phase", [RECOVERY, SPARSE])
def test_the_name_holds_what_the_learning_rate_is_multiplied_by(phase: Phase) -> None:
    assert digest(replace(phase, lr_factor=1.0)) == digest(phase)
    assert len({digest(replace(phase, lr_factor=factor)) for factor in (0.5, 1.0, 2.0)}) == 3


def test_all_lengths_of_a_sparse_phase_under_a_teacher_share_a_trunk() -> None:
    taught = SPARSE.taught(6.0, "original-1")
    longer = replace(taught, epochs=4)
    assert trunk("sparse", "p", SETUP, taught) == trunk("sparse", "p", SETUP, longer)
    assert trunk("sparse", "p", SETUP, taught) != trunk("sparse", "p", SETUP, SPARSE)
    assert digest(taught, "sparse") != digest(longer, "sparse")
