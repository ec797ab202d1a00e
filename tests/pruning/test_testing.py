"""The public conformance suites themselves: what they must catch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn import modules

from prunetune.pruning.planning.importance import Gamma, Judge
from prunetune.pruning.planning.plan import PruningPlan
from prunetune.pruning.structure.groups import ChannelGroup, Reader
from prunetune.pruning.testing import Family, FamilyTestCase, JudgeTestCase
from prunetune.pruning.yolo.detector import Detector
from prunetune.spaces.recipe import Importance

ROWS = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C3", [32]]]
DESCRIPTION = {"nc": 2, "backbone": ROWS, "head": [[[1, 2], 1, "Detect", ["nc"]]]}
"""A detector of few layers."""

SUITE = FamilyTestCase()


class Conv(modules.Conv):
    """ultralytics' block, in this module."""


@pytest.fixture
def family() -> Family:
    return Family.build(DESCRIPTION)


def test_a_sound_family_passes(family: Family, tmp_path: Path) -> None:
    SUITE.test_channels_are_found(family)
    SUITE.test_half_of_the_width(family)
    SUITE.test_stronger_pruning_keeps_whole_blocks_of_what_weaker_pruning_keeps(family, 8)
    SUITE.test_a_pruned_network_computes_what_the_dense_one_does_without_the_channels(family, 0.6)
    SUITE.test_what_is_no_width_stays_as_it_was(family)
    SUITE.test_a_pruned_network_can_be_pruned_again(family)
    SUITE.test_a_pruned_network_learns(family)
    SUITE.test_a_checkpoint_is_stock_ultralytics(family, tmp_path)


def with_groups(family: Family, change: Callable[[ChannelGroup], ChannelGroup]) -> Family:
    """The same network, with other groups than it has."""
    broken = Family(family.dense)
    broken.__dict__["groups"] = tuple(change(group) for group in family.groups)  # where cached_property keeps them
    return broken


def reversed_readers(group: ChannelGroup) -> ChannelGroup:
    readers = [replace(reader, channels=reader.channels[::-1]) for reader in group.readers]
    return replace(group, readers=tuple(readers))


def test_channels_that_arrive_elsewhere_are_caught(family: Family) -> None:
    wrong = with_groups(family, reversed_readers)
    with pytest.raises(AssertionError, match="not close"):
        SUITE.test_a_pruned_network_computes_what_the_dense_one_does_without_the_channels(wrong, 0.6)


def test_a_reader_that_is_not_known_is_caught(family: Family) -> None:
    def forget(group: ChannelGroup) -> ChannelGroup:
        return replace(group, readers=tuple[Reader, ...]())

    with pytest.raises(RuntimeError, match="channels"):
        SUITE.test_a_pruned_network_computes_what_the_dense_one_does_without_the_channels(
            with_groups(family, forget), 0.6
        )


def test_a_layer_that_is_not_followed_is_caught(family: Family) -> None:
    partial = Family(family.dense)
    partial.__dict__["groups"] = family.groups[1:]
    with pytest.raises(AssertionError):
        SUITE.test_channels_are_found(partial)


def test_groups_that_cannot_shrink_are_caught(family: Family) -> None:
    with pytest.raises(AssertionError, match="at most 0% of the channels can go"):
        SUITE.test_channels_are_found(with_groups(family, lambda group: replace(group, whole=True)))


class Unaligned(Family):
    def plan(self, strength: float, alignment: int = 8) -> PruningPlan:
        return super().plan(strength, 1)


def test_widths_that_are_not_aligned_are_caught(family: Family) -> None:
    with pytest.raises(AssertionError, match="no multiples of 16"):
        SUITE.test_stronger_pruning_keeps_whole_blocks_of_what_weaker_pruning_keeps(Unaligned(family.dense), 16)


def test_a_class_of_another_package_is_caught(family: Family, tmp_path: Path) -> None:
    block = family.dense.model.model[0]
    block.__class__ = Conv
    with pytest.raises(AssertionError, match=f"{Conv.__module__}.Conv"):
        SUITE.test_a_checkpoint_is_stock_ultralytics(family, tmp_path)


class Stuck(Family):
    def pruned(self, strength: float) -> Detector:
        detector = super().pruned(strength)
        detector.model.model[1].conv.register_forward_hook(lambda _, __, output: output.detach())
        return detector


def test_a_layer_that_learns_nothing_is_caught(family: Family) -> None:
    with pytest.raises(AssertionError, match=r"no finite gradient.*model\.0\.conv\.weight"):
        SUITE.test_a_pruned_network_learns(Stuck(family.dense))


# Importances


@dataclass(frozen=True)
class Wrong:
    """Gammas, and what is done to them."""

    spoil: Callable[[Any, list[Tensor]], list[Tensor]]
    importance: Importance = "gamma"

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
        return self.spoil(model, Gamma().scores(model, groups))


def fuse(model: Any, scores: list[Tensor]) -> list[Tensor]:
    model.model[0].bn.weight.data += 1
    return scores


@pytest.mark.parametrize(
    ("test", "spoil"),
    [
        (JudgeTestCase.test_every_channel_has_a_score, lambda _, scores: [score[:-1] for score in scores]),
        (JudgeTestCase.test_every_channel_has_a_score, lambda _, scores: [score.float() for score in scores]),
        (JudgeTestCase.test_every_channel_has_a_score, lambda _, scores: [score - 1 for score in scores]),
        (JudgeTestCase.test_every_channel_has_a_score, lambda _, scores: [score / 0 for score in scores]),
        (JudgeTestCase.test_every_channel_has_a_score, lambda _, scores: [score * 0 for score in scores]),
        (JudgeTestCase.test_every_channel_has_a_score, lambda _, scores: [torch.rand_like(score) for score in scores]),
        (JudgeTestCase.test_the_detector_is_left_as_it_was, fuse),
        (
            JudgeTestCase.test_the_detector_is_left_as_it_was,
            lambda model, scores: model.train(not model.training) and scores,
        ),
    ],
    ids=["too few", "single precision", "negative", "infinite", "equal", "by chance", "weights", "mode"],
)
def test_scores_that_are_wrong_are_caught(
    family: Family, test: Callable[[JudgeTestCase, Family], None], spoil: Callable[[Any, list[Tensor]], list[Tensor]]
) -> None:
    class Case(JudgeTestCase):
        def judge(self) -> Judge:
            return Wrong(spoil)

    with pytest.raises(AssertionError):
        test(Case(), family)
