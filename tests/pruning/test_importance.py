"""What channels are judged by: scores worked out by hand, and first order against what really changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from prunetune.pruning import Detector, StageRunner, StageStore, TrainingSetup, plan_pruning
from prunetune.pruning.planning.importance import Judge, create_judge
from prunetune.pruning.structure.groups import ChannelGroup
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.testing import JudgeTestCase
from prunetune.spaces import ConfigError, Threshold
from prunetune.spaces.recipe import Importance

IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
RELATIVE: tuple[Importance, ...] = ("l1", "l2", "taylor", "lamp")

Groups = tuple[ChannelGroup, ...]


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A detector with random gammas and betas."""
    made, generator = Detector.load("yolov5n.yaml", names=("square", "disc")), torch.Generator().manual_seed(0)
    for module in made.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.rand(module.weight.shape, generator=generator)
            module.bias.data = 0.1 * torch.randn(module.bias.shape, generator=generator)
    return made


@pytest.fixture(scope="module")
def groups(detector: Detector) -> Groups:
    return tuple(group for group in channel_groups(detector.model) if len(group.norms) >= len(group.layers))


@pytest.fixture(scope="module")
def stages(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> StageRunner:
    setup = TrainingSetup(str(shapes), "shapes", imgsz=64, batch=8)
    return StageRunner(setup, StageStore(tmp_path_factory.mktemp("store")))


def judge_of(importance: Importance, stages: StageRunner) -> Judge:
    return create_judge(importance, stages.losses)


def filters(detector: Detector, name: str) -> Tensor:
    layer: Tensor = detector.model.get_submodule(name).weight.detach().double().flatten(1)
    return layer


def tied(groups: Groups) -> ChannelGroup:
    return max(groups, key=lambda group: len(group.layers))


@pytest.mark.parametrize("importance", IMPORTANCES)
class TestJudges(JudgeTestCase):
    @pytest.fixture(autouse=True)
    def _importance(self, importance: Importance, stages: StageRunner) -> None:
        self.importance, self.stages = importance, stages

    def judge(self) -> Judge:
        return judge_of(self.importance, self.stages)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_judge_is_called_by_its_name(importance: Importance, stages: StageRunner) -> None:
    assert judge_of(importance, stages).importance == importance


@pytest.mark.parametrize("importance", RELATIVE)
def test_a_score_of_one_is_an_average_channel(
    importance: Importance, detector: Detector, groups: Groups, stages: StageRunner
) -> None:
    found = judge_of(importance, stages).scores(detector.model, groups)
    assert float(torch.cat(found).mean()) == pytest.approx(1)
    if importance in ("l1", "l2"):
        assert all(float(score.mean()) == pytest.approx(1) for score in found), "of its own layer"


def test_a_gamma_is_what_it_is(detector: Detector, groups: Groups) -> None:
    group = tied(groups)
    (score,) = create_judge("gamma").scores(detector.model, [group])
    gammas = torch.stack([detector.model.get_submodule(name).weight.detach().abs().double() for name in group.norms])
    assert torch.equal(score, gammas.amax(dim=0))


@pytest.mark.parametrize(("importance", "order"), [("l1", 1), ("l2", 2)])
def test_a_norm_is_that_of_the_filter(importance: Importance, order: int, detector: Detector, groups: Groups) -> None:
    alone = next(group for group in groups if len(group.layers) == 1)
    (score,) = create_judge(importance).scores(detector.model, [alone])
    norms = filters(detector, alone.root).norm(p=order, dim=1)
    assert torch.allclose(score, norms / norms.mean())


@pytest.mark.parametrize("importance", ["l1", "l2", "lamp"])
def test_the_scale_of_a_layer_does_not_matter(importance: Importance, detector: Detector, groups: Groups) -> None:
    """BatchNorm makes it arbitrary."""
    scaled = detector.copy()
    scaled.model.get_submodule(tied(groups).layers[1]).weight.data *= 7
    pairs = zip(*(create_judge(importance).scores(item.model, groups) for item in (detector, scaled)), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-5) for one, other in pairs)


@pytest.mark.parametrize("importance", ["gamma", "l1", "l2", "lamp"])
def test_a_tied_channel_stays_if_one_of_its_layers_wants_it(
    importance: Importance, detector: Detector, groups: Groups
) -> None:
    changed, group = detector.copy(), tied(groups)
    for name in (*group.layers, *group.norms):
        changed.model.get_submodule(name).weight.data[:2] = 0
    for name in (group.layers[-1], group.norms[-1]):
        changed.model.get_submodule(name).weight.data[1] = 100
    (score,) = create_judge(importance).scores(changed.model, [group])
    assert score[0] == 0
    assert score[1] == score.max()


def test_lamp_is_a_share_of_what_is_as_large_or_larger(detector: Detector, groups: Groups) -> None:
    changed, group = detector.copy(), next(group for group in groups if len(group.layers) == 1)
    weight = changed.model.get_submodule(group.root).weight.data
    weight.zero_()
    weight[:4, 0, 0, 0] = torch.tensor([3.0, 1.0, 2.0, 1.0])
    (score,) = create_judge("lamp").scores(changed.model, [group])
    by_hand = torch.tensor([9 / 9, 1 / 14, 4 / 13, 1 / 15]).double()  # of two equal ones the first is the larger
    assert torch.allclose(score[:4] / score[0], by_hand)
    assert not score[4:].any()


def test_taylor_is_the_effect_on_the_loss_of_all_tied_layers_together(detector: Detector, groups: Groups) -> None:
    """A loss that is linear in gammas and betas: what removal changes is known."""
    group = tied(groups)
    generator = torch.Generator().manual_seed(1)
    slopes = torch.randn(2, len(group.norms), 2, group.width, generator=generator).double()

    def losses(model: nn.Module) -> Iterator[Tensor]:
        for batch in slopes:
            norms: list[Any] = [model.get_submodule(name) for name in group.norms]
            values = torch.stack([torch.stack([norm.weight, norm.bias]) for norm in norms])
            yield (batch * values).sum()

    (score,) = create_judge("taylor", losses).scores(detector.model, [group])
    values = torch.stack(
        [
            torch.stack([norm.weight.detach().double(), norm.bias.detach().double()])
            for norm in map(detector.model.get_submodule, group.norms)
        ]
    )
    change = (slopes * values).sum(dim=(1, 2))
    by_hand = change.square().mean(dim=0).sqrt()
    assert torch.allclose(score, by_hand / by_hand.mean(), rtol=1e-4)


def test_taylor_foretells_what_removing_a_channel_changes(detector: Detector, groups: Groups) -> None:
    # A smooth loss: that of training compares with targets that follow the predictions, which no gradient sees.
    images = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(2))

    def losses(model: Any) -> Iterator[Tensor]:
        for batch in images:
            yield model(batch.to(next(model.parameters()).dtype))[1]["boxes"].square().mean()

    group = next(group for group in groups if group.root == "model.3.conv")
    (score,) = create_judge("taylor", losses).scores(detector.model, [group])

    def lessened(channels: list[int]) -> Tensor:
        probe = detector.copy().model.eval().double()
        for norm in map(probe.get_submodule, group.norms):
            norm.weight.data[channels] *= 0.9
            norm.bias.data[channels] *= 0.9
        with torch.no_grad():
            return torch.stack([*losses(probe)])

    whole, chosen = lessened([]), list(range(0, group.width, 2))
    changes = [float((lessened([channel]) - whole).square().mean().sqrt()) for channel in chosen]
    assert spearmanr(score[chosen].numpy(), changes).statistic > 0.9


def test_taylor_says_what_it_needs(detector: Detector, groups: Groups) -> None:
    with pytest.raises(ConfigError, match="taylor needs training images"):
        create_judge("taylor")
    with pytest.raises(ConfigError, match="at least one batch"):
        create_judge("taylor", lambda model: iter(())).scores(detector.model, groups)


def test_a_threshold_of_one_takes_what_is_below_the_average(detector: Detector) -> None:
    plan = plan_pruning(detector.model, Threshold.everywhere(1.0), 8, judge=create_judge("l1"))
    removed = plan.channels.removed(detector.channels)
    assert 0.2 < removed < 0.6, "below the average are about as many as above, and blocks are filled up"
