"""Conformance tests for families of detectors. A detector can be searched when a subclass of `FamilyTestCase` passes.

Example:
    class TestMyDetector(FamilyTestCase):
        model = "my-detector.yaml"
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunetune.pruning.planning.plan import PruningPlan, plan_pruning
from prunetune.pruning.structure.groups import ChannelGroup, first_channel, module_of
from prunetune.pruning.structure.layers import convolutions, is_depthwise
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.batchnorm import recalibrate
from prunetune.pruning.yolo.detector import Detector, read_description, scaled_width
from prunetune.spaces.recipe import Threshold

NAMES = ("square", "disc")
"""Classes of the networks under test."""

STRENGTHS = (0.3, 0.6, 0.9)
"""Thresholds. The gammas under test lie evenly between 0 and 1."""

LEAST_REMOVED = 0.4
"""Share of its channels that the strongest pruning takes from a network, at least."""

STOCK = {"torch", "ultralytics"}
"""Where the classes in a checkpoint come from, beside Python itself."""


@dataclass(frozen=True, eq=False)
class Family:
    """A network with random gammas, betas and statistics, and what surgery makes of it."""

    dense: Detector
    _cut: dict[float, Detector] = field(default_factory=dict, repr=False)
    """What surgery has made of it, by threshold."""

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> Family:
        """The network of a model description, as `read_description` gives it. It has two classes."""
        detector = Detector.build(description, NAMES)
        generator = torch.Generator().manual_seed(0)
        for norm in norms_of(detector.model).values():
            norm.weight.data.uniform_(0, 1, generator=generator)
            norm.bias.data.normal_(0, 0.1, generator=generator)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
        return cls(detector)

    @property
    def name(self) -> str:
        """That of its description."""
        return Path(self.dense.source).stem

    @property
    def imgsz(self) -> int:
        """The side of its images in px: few cells, but more than one."""
        return 2 * self.dense.stride

    @cached_property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """Its layers by the channels that they share."""
        return channel_groups(self.dense.model)

    def images(self, count: int) -> Tensor:
        """Random images, always the same."""
        shape = (count, *self.dense.input_shape(self.imgsz)[1:])
        return torch.rand(shape, generator=torch.Generator().manual_seed(1))

    def plan(self, strength: float, alignment: int = 8) -> PruningPlan:
        """What stays at a threshold, everywhere the same."""
        return plan_pruning(self.dense.model, Threshold.everywhere(strength), alignment, groups=self.groups)

    def pruned(self, strength: float) -> Detector:
        """The network without what is below a threshold; a copy, to be changed."""
        if strength not in self._cut:
            pruned = apply_plan(self.dense.model, self.plan(strength), groups=self.groups)
            self._cut[strength] = Detector(pruned, self.dense.source)
        return self._cut[strength].copy()

    def silenced(self, plan: PruningPlan) -> nn.Module:
        """The dense network, with gamma and beta of all channels at zero that a plan does not keep."""
        model = copy.deepcopy(self.dense.model)
        keep, norms = dict(plan.keep), norms_of(model)
        for group in (group for group in self.groups if group.root in keep):
            for name in group.norms:
                first = first_channel(name, group.width)
                lost = [first + channel for channel in range(group.width) if channel not in keep[group.root]]
                norms[module_of(name)].weight.data[lost] = 0
                norms[module_of(name)].bias.data[lost] = 0
        return model

    def assert_equal_outputs(self, one: nn.Module, other: nn.Module, tolerance: float) -> None:
        """Fails where two networks compute different things of the same images, up to an absolute tolerance."""
        images = self.images(2)
        for ours, theirs in zip(outputs(one, images), outputs(other, images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=1e-5)


@cache
def family_of(model: str) -> Family:
    """The network of a yaml, by file or by name; built once."""
    return Family.build(read_description(model))


class FamilyTestCase:
    """What prunetune needs of a detector, from its description alone: nothing is trained. Subclasses give `model`."""

    model: str
    """A yaml, as the key `model` of a study takes it. Its smallest size is enough."""

    @pytest.fixture
    def family(self) -> Family:
        """The network under test. It is shared, so that tests must not change it."""
        return family_of(self.model)

    # Before surgery

    def test_channels_are_found(self, family: Family) -> None:
        """Each layer's channels are followed to who reads them, and most of them can go."""
        written = {module_of(layer) for group in family.groups for layer in group.layers}
        assert written == {name for name in family.dense.channels if ".dfl." not in name}
        judged = [group for group in family.groups if group.can_shrink]
        assert all(len(group.norms) >= len(group.layers) for group in judged)
        removed = family.plan(2.0).channels.removed(family.dense.channels)
        assert removed > LEAST_REMOVED, f"at most {removed:.0%} of the channels can go"

    def test_half_of_the_width(self, family: Family) -> None:
        """The control `half-width` can be built. It has the same layers, and fewer parameters."""
        half = Detector.build(scaled_width(family.dense.model.yaml, 0.5), NAMES)
        assert half.channels.keys() == family.dense.channels.keys()
        assert half.params < family.dense.params

    @pytest.mark.parametrize("alignment", [4, 16])
    def test_stronger_pruning_keeps_whole_blocks_of_what_weaker_pruning_keeps(
        self, family: Family, alignment: int
    ) -> None:
        """Widths are multiples of the alignment, or whole, and never grow with the threshold."""
        dense = family.dense.channels
        plans = [family.plan(strength, alignment) for strength in (0.0, *STRENGTHS, 2.0)]
        assert plans[0].keep == ()
        for plan in plans:
            odd = {name: kept for name, kept in plan.channels.items() if kept != dense[name] and kept % alignment}
            assert not odd, f"no multiples of {alignment}: {odd}"
        for weaker, stronger in itertools.pairwise(plans):
            assert all(stronger.channels[name] <= weaker.channels[name] for name in dense)
            assert all(set(dict(stronger.keep)[root]) <= set(kept) for root, kept in weaker.keep)

    # Surgery

    @pytest.mark.parametrize("strength", STRENGTHS)
    def test_a_pruned_network_computes_what_the_dense_one_does_without_the_channels(
        self, family: Family, strength: float
    ) -> None:
        """Surgery leaves the widths that were planned, and takes the right channels out of every reader."""
        plan, pruned = family.plan(strength), family.pruned(strength)
        assert pruned.channels == plan.channels
        assert pruned.channels.removed(family.dense.channels) > 0.05
        family.assert_equal_outputs(pruned.model, family.silenced(plan), 1e-4)

    def test_what_is_no_width_stays_as_it_was(self, family: Family) -> None:
        """Settings of BatchNorms, groups of convolutions, stride and precision."""
        dense, pruned = family.dense.model, family.pruned(0.6).model
        for name, norm in norms_of(pruned).items():
            before = dense.get_submodule(name)
            assert (norm.eps, norm.momentum) == (before.eps, before.momentum)
            assert norm.running_var is not None
            assert norm.num_features == len(norm.running_var)
        for name, layer in convolutions(pruned):
            if is_depthwise(dense.get_submodule(name)):
                assert layer.groups == layer.in_channels == layer.out_channels == len(layer.weight)
            else:
                assert layer.groups == dense.get_submodule(name).groups
        assert {weight.dtype for weight in pruned.parameters()} == {torch.float32}
        assert torch.equal(pruned.stride, dense.stride)

    def test_a_pruned_network_can_be_pruned_again(self, family: Family) -> None:
        """Its channels are found as those of the dense one were."""
        once = family.pruned(0.6)
        groups = channel_groups(once.model)
        assert [group.layers for group in groups] == [group.layers for group in family.groups]
        plan = plan_pruning(once.model, Threshold.everywhere(0.8), 8, groups=groups)
        twice = Detector(apply_plan(once.model, plan, groups=groups), "twice")
        assert twice.params < once.params
        assert all(bool(tensor.isfinite().all()) for tensor in outputs(twice.model, family.images(1)))

    def test_a_pruned_network_learns(self, family: Family) -> None:
        """Every weight gets a gradient from ultralytics' loss, and a step keeps the widths."""
        from ultralytics.cfg import get_cfg

        pruned = family.pruned(0.6)
        model = pruned.model.train()
        model.args = get_cfg()
        loss, _ = model.loss(labelled(family))
        loss.sum().backward()
        trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        fixed = {name for name, _ in model.named_parameters()} - set(trainable)
        assert all(".dfl." in name for name in fixed)
        lost = [name for name, weight in trainable.items() if weight.grad is None or not weight.grad.isfinite().all()]
        assert not lost, f"no finite gradient: {lost}"
        head = f"model.{len(model.model) - 1}."
        idle = {name for name, weight in trainable.items() if not weight.grad.any()}
        assert all(name.startswith(head) for name in idle), "only a level without an object may learn nothing"
        before = {name: weight.detach().clone() for name, weight in trainable.items()}
        torch.optim.SGD(trainable.values(), lr=0.01).step()
        moved = {name for name, weight in trainable.items() if not torch.equal(before[name], weight)}
        assert next(iter(trainable)) in moved
        assert any(name.startswith(head) for name in moved)
        assert pruned.channels == family.plan(0.6).channels

    # What leaves prunetune

    def test_a_checkpoint_is_stock_ultralytics(self, family: Family, tmp_path: Path) -> None:
        """It names no class that is not torch's or ultralytics', and `YOLO(file)` computes the same to the bit."""
        from ultralytics import YOLO

        pruned, file = family.pruned(0.6), tmp_path / f"{family.name}.pt"
        pruned.save(file, {"epochs": 1}, {"task": pruned.task, "imgsz": family.imgsz})
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        assert {name.partition(".")[0] for name in named} <= STOCK, named
        loaded = Detector.load(file)
        assert (loaded.task, loaded.channels, loaded.names) == (pruned.task, pruned.channels, NAMES)
        weights = loaded.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in pruned.model.state_dict().items())
        family.assert_equal_outputs(YOLO(file).model, pruned.model, 0.0)

    def test_an_exported_network_computes_the_same(self, family: Family, tmp_path: Path) -> None:
        """ONNX Runtime finds in the ONNX file what the network finds."""
        import onnxruntime

        pruned, images = family.pruned(0.6), family.images(1)
        recalibrate(pruned.model, [family.images(8)])
        pruned.export_onnx(tmp_path / "pruned.onnx", family.imgsz)
        session = onnxruntime.InferenceSession(tmp_path / "pruned.onnx", providers=["CPUExecutionProvider"])
        got = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        model = copy.deepcopy(pruned.model).eval()
        model.model[-1].export = True
        with torch.no_grad():
            expected = [tensor.numpy() for tensor in tensors_in(model(images))]
            exact = [tensor.numpy() for tensor in tensors_in(model.double()(images.double()))]
        assert len(got) == len(expected)
        for ours, theirs, best in zip(got, expected, exact, strict=True):
            # Boxes of random weights reach hundreds of px, where fp32 itself errs by more than 1e-3 px.
            error = np.abs(theirs - best).max()
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3 + 3 * error)


def norms_of(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """All BatchNorms by name."""
    return {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """All tensors that a network computes of images: what it finds, and what its branches say before decoding."""
    return tensors_in(copy.deepcopy(model).eval()(images))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists and mappings, but for `feats`: these are channels, not results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return tensors_in([part for name, part in value.items() if name != "feats"])
    return [tensor for part in value for tensor in tensors_in(part)]


def labelled(family: Family) -> dict[str, Tensor]:
    """Two images with an object each, as a loader gives them for the network's task."""
    boxes = torch.tensor([[0.5, 0.5, 0.6, 0.5], [0.4, 0.6, 0.5, 0.7]])
    batch = {
        "img": family.images(2),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": boxes,
    }
    if family.dense.task == "obb":
        batch["bboxes"] = torch.cat([boxes, torch.tensor([[0.3], [-0.2]])], dim=1)
    elif family.dense.task == "pose":
        points = family.dense.model.yaml["kpt_shape"]
        batch["keypoints"] = torch.rand(2, *points, generator=torch.Generator().manual_seed(2))
    elif family.dense.task == "segment":
        side = family.imgsz // 4
        batch["masks"] = torch.zeros(2, side, side)
        batch["masks"][:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1.0
        batch["sem_masks"] = torch.zeros(2, side, side)
    return batch
