"""Training under a teacher, with real networks: what it changes, how it goes on, what is left of it."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunetune.pruning.training import trainer
from prunetune.pruning.training.batchnorm import norm_layers
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.sparsity import Sparsity, resolve, sparse_phase
from prunetune.pruning.training.trainer import TrainingState, train
from prunetune.pruning.training.values import Phase, TrainingSetup, recovery_phase
from prunetune.pruning.yolo.detector import Detector, scaled_width

pytestmark = [pytest.mark.slow, pytest.mark.core]

WEIGHT = 6.0


@pytest.fixture(scope="module")
def teacher() -> Detector:
    return Detector.load("yolov5n.yaml", ("square", "disc"))


@pytest.fixture(scope="module")
def student(teacher: Detector) -> Detector:
    return Detector.build(scaled_width(teacher.model.yaml, 0.5), ("square", "disc"), seed=1)


@pytest.fixture(scope="module")
def sparsity(loaders: DataLoaders) -> Sparsity:
    return resolve(0.1, "pull", 2, loaders.steps_per_epoch, 0.001)


def through_a_file(state: TrainingState, folder: Path) -> TrainingState:
    torch.save(state.as_dict(), folder / "state.pt")
    return TrainingState.from_dict(torch.load(folder / "state.pt", weights_only=True))


def unequal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def same_state(one: TrainingState, other: TrainingState) -> bool:
    """Whether all that decides how a training goes on and what it ends with is equal in every bit."""
    moments = [state.optimizer["optimizer"]["state"] for state in (one, other)]
    assert moments[0].keys() == moments[1].keys()
    return (
        not unequal(one.model, other.model)
        and not unequal(one.ema, other.ema)
        and not unequal(one.projections, other.projections)
        and not any(unequal(moments[0][index], moments[1][index]) for index in moments[0])
        and [record.losses for record in one.history] == [record.losses for record in other.history]
    )


class KilledError(Exception):
    pass


def test_a_training_that_was_cut_off_ends_the_same(
    student: Detector, teacher: Detector, setup: TrainingSetup, loaders: DataLoaders, tmp_path: Path
) -> None:
    phase = recovery_phase(3, "map50_95").taught(WEIGHT, "original-0")
    whole, end = train(student, phase, setup, loaders, teacher=teacher)
    kept: list[TrainingState] = []

    def dies(state: TrainingState) -> None:
        kept.append(through_a_file(state, tmp_path))
        raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            state = kept[-1] if kept else None
            train(student, phase, setup, DataLoaders(setup), teacher=teacher, state=state, on_state=dies)
    assert [state.epoch for state in kept] == [1, 2]
    resumed, resumed_end = train(student, phase, setup, DataLoaders(setup), teacher=teacher, state=kept[-1])
    assert same_state(resumed_end, end)
    assert unequal(resumed.model.state_dict(), whole.model.state_dict()) == []
    assert unequal(kept[0].projections, end.projections) == list(end.projections), "they are trained"


def test_a_shorter_sparse_phase_is_a_checkpoint_of_a_longer_one(
    student: Detector, teacher: Detector, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders, tmp_path: Path
) -> None:
    phase = sparse_phase(2, sparsity).taught(WEIGHT, "original-0")
    gammas = [gamma.detach().clone() for gamma in [norm.weight for norm in norm_layers(teacher.model).values()]]
    states: list[TrainingState] = []
    _, end = train(student, phase, setup, loaders, teacher=teacher, on_state=states.append)
    _, short = train(student, replace(phase, epochs=1), setup, loaders, teacher=teacher)
    assert same_state(short, states[0])
    _, extended = train(student, phase, setup, loaders, teacher=teacher, state=through_a_file(short, tmp_path))
    assert same_state(extended, end)
    for gamma, before in zip([norm.weight for norm in norm_layers(teacher.model).values()], gammas, strict=True):
        assert torch.equal(gamma, before), "the penalty is the student's alone"


@pytest.mark.parametrize("kind", ["recovery", "sparse"])
def test_a_weight_of_zero_is_the_training_without_a_teacher(
    student: Detector, teacher: Detector, sparsity: Sparsity, setup: TrainingSetup, loaders: DataLoaders, kind: str
) -> None:
    phase = recovery_phase(1, "map50_95") if kind == "recovery" else sparse_phase(1, sparsity)
    _, alone = train(student, phase, setup, loaders)
    _, untaught = train(student, phase.taught(0.0, "original-0"), setup, loaders, teacher=teacher)
    assert same_state(alone, untaught)
    assert untaught.projections == {}
    _, taught = train(student, phase.taught(WEIGHT, "original-0"), setup, loaders, teacher=teacher)
    assert unequal(alone.model, taught.model) != []
    assert "dis_loss" in taught.history[-1].losses
    assert "dis_loss" not in alone.history[-1].losses


class Watched:
    """A training with the teacher's forward passes, and the student's weights after each step."""

    def __init__(self, student: Detector, teacher: Detector, phase: Phase, setup: TrainingSetup, loaders: DataLoaders):
        self.steps: list[dict[str, torch.Tensor]] = []
        self.passes: list[tuple[bool, bool]] = []

        class Loop(trainer._Loop):
            def setup_model(loop) -> None:
                super().setup_model()
                self.teacher: nn.Module = loop.model.teacher_model
                self.teacher.register_forward_hook(
                    lambda module, inputs, output: self.passes.append(
                        (torch.is_grad_enabled(), any(part.training for part in module.modules()))
                    )
                )

            def optimizer_step(loop) -> None:
                super().optimizer_step()
                self.hooks = [hook for module in loop.ema.ema.modules() for hook in module._forward_hooks.values()]
                self.steps.append({name: value.clone() for name, value in loop._network.state_dict().items()})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "_Loop", Loop)
            self.detector, self.end = train(student, phase, setup, loaders, teacher=teacher)


@pytest.fixture(scope="module")
def watched(student: Detector, teacher: Detector, setup: TrainingSetup, loaders: DataLoaders) -> Watched:
    phase = recovery_phase(2, "map50_95").taught(WEIGHT, "original-0")
    return Watched(student, teacher, phase, setup, loaders)


def test_the_teacher_runs_once_a_step_and_learns_nothing(
    watched: Watched, teacher: Detector, loaders: DataLoaders
) -> None:
    assert watched.passes == [(False, False)] * (2 * loaders.steps_per_epoch)
    assert unequal(watched.teacher.state_dict(), teacher.model.state_dict()) == []
    assert all(weight.grad is None for weight in watched.teacher.parameters())


def test_the_average_is_that_of_the_student(watched: Watched, student: Detector) -> None:
    average = {name: value.clone() for name, value in student.model.state_dict().items()}
    for number, weights in enumerate(watched.steps, start=1):
        decay = 0.9999 * (1 - torch.exp(torch.tensor(-number / 2000)).item())
        for name in average:
            if average[name].dtype.is_floating_point:
                average[name].lerp_(weights[name], 1 - decay)
    for name, value in watched.end.ema.items():
        assert torch.allclose(value, average[name], atol=1e-6), name
    assert watched.hooks == [], "it holds no features of the images that it was validated on"


def test_the_teacher_is_approached(
    student: Detector, teacher: Detector, setup: TrainingSetup, loaders: DataLoaders
) -> None:
    _, end = train(student, recovery_phase(8, "last").taught(WEIGHT, "original-0"), setup, loaders, teacher=teacher)
    distances = [record.losses["dis_loss"] for record in end.history]
    assert distances[-1] < 0.5 * distances[0]


def test_nothing_of_the_teacher_ships(watched: Watched, student: Detector, tmp_path: Path) -> None:
    names = list(student.model.state_dict())
    assert list(watched.end.model) == list(watched.end.ema) == names
    assert watched.end.best is not None
    assert list(watched.end.best["weights"]) == names
    watched.detector.save(tmp_path / "student.pt", {}, {})
    student.save(tmp_path / "fresh.pt", {}, {})
    with zipfile.ZipFile(tmp_path / "student.pt") as file:
        pickled = next(file.read(name) for name in file.namelist() if name.endswith("data.pkl"))
    assert b"istill" not in pickled
    assert b"FeatureHook" not in pickled
    sizes = [(tmp_path / name).stat().st_size for name in ("student.pt", "fresh.pt")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert not any(module._forward_hooks for module in watched.detector.model.modules())
    assert not any(module._forward_hooks for module in student.model.modules()), "the start is left as it was"


def test_a_phase_with_distillation_needs_a_teacher(student: Detector, setup: TrainingSetup, loaders: Any) -> None:
    with pytest.raises(ValueError, match="needs a teacher"):
        train(student, recovery_phase(1, "last").taught(WEIGHT, "original-0"), setup, loaders)
