"""Conformance tests for importances. What judges channels is right when a subclass of `JudgeTestCase` passes.

Example:
    class TestMyImportance(JudgeTestCase):
        def judge(self) -> Judge:
            return MyImportance()
"""

from __future__ import annotations

import copy
import math

import pytest
import torch

from prunetune.pruning.planning.importance import Judge
from prunetune.pruning.planning.plan import PruningPlan, plan_pruning
from prunetune.pruning.testing.family import Family, family_of
from prunetune.spaces.errors import ModelError
from prunetune.spaces.recipe import Threshold

_BROKEN = ("model.3.conv", "model.3.bn")
"""Layers of the network that `JudgeTestCase` breaks, as a training does that diverges."""


class JudgeTestCase:
    """What every importance must do. Subclasses give `judge`."""

    def judge(self) -> Judge:
        """The one under test, newly made."""
        raise NotImplementedError

    @pytest.fixture
    def family(self) -> Family:
        """A network with random gammas and betas. It is shared, so that tests must not change it."""
        return family_of("yolov5n.yaml")

    def test_every_channel_has_a_score(self, family: Family) -> None:
        """A finite number from 0 on, in double precision on the CPU; the same each time."""
        judged = [group for group in family.groups if group.can_shrink]
        found, again = (self.judge().scores(family.dense.model, judged) for _ in range(2))
        assert [score.shape for score in found] == [(group.width,) for group in judged]
        assert {(score.dtype, score.device.type) for score in found} == {(torch.float64, "cpu")}
        assert all(bool((torch.isfinite(score) & (score >= 0)).all()) for score in found)
        assert any(bool((score != score[0]).any()) for score in found), "all channels are equal"
        assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))

    def test_the_detector_is_left_as_it_was(self, family: Family) -> None:
        """Weights, statistics, gradients and modes."""
        model = family.dense.model
        before = copy.deepcopy(model.state_dict())
        flags = [parameter.requires_grad for parameter in model.parameters()]
        modes = [module.training for module in model.modules()]
        self.judge().scores(model, [group for group in family.groups if group.can_shrink])
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert [parameter.requires_grad for parameter in model.parameters()] == flags
        assert all(parameter.grad is None for parameter in model.parameters())
        assert [module.training for module in model.modules()] == modes

    def test_a_plan_says_what_it_was_judged_by(self, family: Family) -> None:
        """And is read back from its JSON."""
        plan = plan_pruning(family.dense.model, Threshold.everywhere(1.0), 8, groups=family.groups, judge=self.judge())
        assert plan.importance == self.judge().importance
        assert PruningPlan.from_dict(plan.as_dict()) == plan
        assert plan.keep, "at a threshold of 1 some channels go"

    def test_a_diverged_detector_is_told(self, family: Family) -> None:
        """The error names the layer that has a weight which is no number."""
        broken = family.dense.copy()
        for name in _BROKEN:
            broken.model.get_submodule(name).weight.data[0] = math.nan
        with pytest.raises(ModelError, match=r"model\.3\.(conv|bn): .* not finite, the training diverged"):
            plan_pruning(broken.model, Threshold.everywhere(0.5), 8, groups=family.groups, judge=self.judge())
