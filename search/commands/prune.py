"""The command `prune`: one surgery, without a study and without training."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.pipeline import mismatch
from prunetune.pruning.planning.importance import Losses, create_judge
from prunetune.pruning.planning.plan import Scores
from prunetune.pruning.planning.separation import unseparated
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.pruning.structure.tracing import channel_groups
from prunetune.pruning.surgery.surgery import apply_plan
from prunetune.pruning.training.evaluation import losses
from prunetune.pruning.training.loaders import DataLoaders
from prunetune.pruning.training.values import TrainingSetup
from prunetune.pruning.yolo.detector import Detector
from prunetune.pruning.yolo.tasks import FINDS
from prunetune.spaces import ConfigError, ModelError, Threshold
from prunetune.spaces.files import publish, write_text
from prunetune.spaces.recipe import Importance

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrunedOnce:
    """What one surgery made of a detector."""

    params: int
    gflops: float
    channels: ChannelConfig
    """Of the pruned network."""
    params_dense: int
    gflops_dense: float
    channels_removed: float
    """As a share of the dense network's."""
    imgsz: int
    """Side of the square input in px, for the GFLOPs."""
    warning: str | None
    """Why the threshold may be wrong: it removes nothing or all that may go, or lies where no gammas separate."""
    out: str | None
    """Where it was written."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "channels": self.channels.as_dict()}


def prune_once(
    model: str,
    threshold: Threshold,
    *,
    alignment: int,
    imgsz: int,
    out: Path | None = None,
    importance: Importance = "gamma",
    data: str | None = None,
    floor: float = 0.0,
) -> PrunedOnce:
    """Prunes a detector as it is.

    Args:
        model: A .pt, or a yaml.
        threshold: Channels with an importance below it go.
        alignment: Channels are kept in multiples of this.
        imgsz: Side of the input in px.
        out: Where to write the pruned .pt.
        importance: What channels are judged by.
        data: The data set's yaml, for `taylor`.
        floor: The least share of its channels that every layer keeps.

    Raises:
        ConfigError: The importance needs training images, or none; those have other classes or channels; the size does
            not fit the detector's stride; the floor is no share; or the pruned network would replace the one that it is
            made of.
        ModelError: The model cannot be loaded or pruned.
    """
    if data is not None and importance != "taylor":
        raise ConfigError(f"data: importance: {importance} looks at no images; leave data out, or take taylor")
    if out is not None and out.exists() and Path(model).exists() and out.samefile(model):
        raise ConfigError(f"out: {out} is the network that is pruned; write to another file")
    dense = Detector.load(model)
    if problem := dense.imgsz_problem(imgsz):
        raise ConfigError(f"--imgsz: {problem}")
    if importance == "taylor" and dense.task != "detect":
        raise ConfigError(
            f"importance: taylor judges by the loss on images, and {model} finds {FINDS[dense.task]}, for which there "
            "is none yet; take gamma, l1, l2 or lamp"
        )
    try:
        groups = channel_groups(dense.model)
        with tempfile.TemporaryDirectory() as folder:
            wanted = _losses(dense, model, data, imgsz, Path(folder)) if importance == "taylor" else None
            scores = Scores.of(dense.model, alignment, groups, create_judge(importance, wanted), floor)
        plan = scores.plan(threshold)
    except ModelError as error:
        raise ModelError(f"{model}: {error}") from error
    pruned = Detector(apply_plan(dense.model, plan, groups=groups), dense.source)
    if out is not None:
        record = {"plan": plan.as_dict(), "channels": pruned.channels.as_dict()}
        with publish(out) as draft:
            pruned.save(draft, record, {"task": dense.task, "imgsz": imgsz, "model": model})
    if pruned.channels == dense.channels:
        warning = _untouched(scores, threshold, floor)
    elif scores.is_least(plan):
        beyond = f", with a floor of {floor:g}" if floor else ""
        warning = f"threshold {threshold} is above all that could go: every layer keeps its least{beyond}"
    else:
        warning = unseparated(scores, threshold) if importance == "gamma" else None
    return PrunedOnce(
        params=pruned.params,
        gflops=pruned.gflops(imgsz),
        channels=pruned.channels,
        params_dense=dense.params,
        gflops_dense=dense.gflops(imgsz),
        channels_removed=pruned.channels.removed(dense.channels),
        imgsz=imgsz,
        warning=warning,
        out=None if out is None else str(out),
    )


def write_pruned(pruned: PrunedOnce, console: Console) -> None:
    """Shows what `prune_once` did."""
    table = Table("", "before", "after")
    table.add_row("parameters", f"{pruned.params_dense:,}", f"{pruned.params:,}")
    table.add_row(f"GFLOPs at {pruned.imgsz} px", f"{pruned.gflops_dense:.2f}", f"{pruned.gflops:.2f}")
    table.add_row("channels removed", "", f"{pruned.channels_removed:.1%}")
    console.print(table)
    for line in (pruned.warning, pruned.out):
        if line is not None:
            console.print(Text(line), soft_wrap=True)


def _losses(dense: Detector, model: str, data: str | None, imgsz: int, folder: Path) -> Losses:
    """The detector's losses on a data set; what has to be written lies in a folder."""
    if data is None:
        raise ConfigError("importance: taylor needs training images; give --data data.yaml")
    setup = setup_on(data, dense, model, imgsz, folder)
    return partial(losses, setup=setup, loaders=DataLoaders(setup))


def setup_on(
    data: str, dense: Detector, model: str, imgsz: int, folder: Path, batch: int = 16, device: str = "cpu"
) -> TrainingSetup:
    """A data set, checked against a detector, as networks are judged on it.

    Args:
        data: Its yaml.
        dense: The detector.
        model: What the user calls that.
        imgsz: Side of the input in px.
        folder: Where the copy of the yaml goes that names what is used.
        batch: Images in a batch.
        device: ultralytics' `device`.

    Raises:
        ConfigError: It has other classes or channels than the detector.
    """
    dataset = inspect_dataset(data)
    if problem := mismatch(dense, dataset.names, dataset.channels):
        raise ConfigError(f"data: {data}: {model} {problem}")
    if dataset.facts.left_out is not None:
        reasons = "".join(f"\n  - {reason}" for reason in dataset.left_out.values())
        _LOGGER.warning("data: %s: %s:%s", data, dataset.facts.left_out, reasons)
    copy = folder / "data.yaml"
    write_text(copy, dataset.as_yaml())
    return TrainingSetup(str(copy), dataset.fingerprint, imgsz, batch=batch, device=device)


def _untouched(scores: Scores, threshold: Threshold, floor: float) -> str | None:
    """Why a threshold removes nothing, unless it is 0."""
    judged = [(score, item.limit(threshold)) for item in scores.groups for score in item.scores.tolist()]
    if not any(threshold.values) or not judged:
        return None
    values = [score for item in scores.groups for score in item.scores.float().tolist()]  # equal ones are equal
    below = sum(score < limit for score, limit in judged)
    beyond = f" beyond what floor {floor:g} keeps" if floor else ""
    return (
        f"nothing is removed at threshold {threshold}: {below} of {len(values)} channels are below it, and no layer "
        f"has a whole block of them{beyond}; their {scores.importance} is from {min(values):.3g} to {max(values):.3g}"
    )
