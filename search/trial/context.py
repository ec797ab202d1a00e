"""What a trial works with, and what it sees of the study's other trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from prunetune.pruning.data.dataset import Dataset
from prunetune.pruning.pipeline import Pipeline
from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.stages.stage_runner import StageRunner
from prunetune.pruning.stages.store import StageStore
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.results.record import NetworkResult, StudiedFigure, TrialRecord
from prunetune.search.latency.meter import LatencyMeter
from prunetune.search.latency.shipping import Shipping
from prunetune.search.study.deploy import further
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.trial_files import StudyFiles
from prunetune.spaces import Deployment, ImageSize, Recipe
from prunetune.targets import FIGURES


class Peers(Protocol):
    """The other trials of a study, seen from one of them."""

    def records(self) -> Mapping[int, TrialRecord]:
        """By number, those that are complete and those that run (`outcome` is None)."""

    def earlier_attempts(self) -> Sequence[TrialRecord]:
        """What was stored by attempts at the same recipe, under this trial's number or another one."""

    def publish(self, record: TrialRecord) -> None:
        """Shows the others what this trial has so far.

        Raises:
            TrialLostError: The trial was given to another process.
        """


class NoPeers:
    """The peers of a trial outside of any study."""

    def records(self) -> Mapping[int, TrialRecord]:
        """None."""
        return {}

    def earlier_attempts(self) -> Sequence[TrialRecord]:
        """None."""
        return ()

    def publish(self, record: TrialRecord) -> None:
        """Nobody looks."""


@dataclass(frozen=True)
class TrialContext:
    """All that is needed to carry out a recipe. One for a study and process; `for_trial` makes that of a trial."""

    spec: StudySpec
    dataset: Dataset
    pipeline: Pipeline
    meter: LatencyMeter
    shipping: Shipping
    files: StudyFiles
    dense_channels: ChannelConfig
    dense_params: int
    sizes: tuple[ImageSize, ...] = ()
    """The input sizes that the study deploys at, the largest first."""
    figures: tuple[StudiedFigure, ...] = ()
    """What the study minimises or limits beside latency."""
    number: int | None = None
    """The trial's; None outside of any study."""
    peers: Peers = field(default_factory=NoPeers)

    def for_trial(self, number: int, peers: Peers) -> TrialContext:
        """The same for one trial of the study.

        Args:
            number: The trial's.
            peers: The other trials, as it sees them.
        """
        return replace(self, number=number, peers=peers)

    def deployment(self, recipe: Recipe) -> Deployment:
        """What a recipe's networks are recovered for."""
        own = self.shipping.deployment
        return own if recipe.imgsz is None else replace(own, imgsz=recipe.imgsz)

    def further(self, own: Deployment) -> list[Deployment]:
        """Where a network is looked at as well, without training it for that; see `search.deploy.further`."""
        return further(own, self.sizes, self.spec.deploy.precision or (own.precision,))

    @property
    def name(self) -> str:
        """What the trial's files are called: `trial-7`."""
        return "trial" if self.number is None else f"trial-{self.number}"

    @property
    def title(self) -> str:
        """What the trial is called in messages: `trial 7`."""
        return "the trial" if self.number is None else f"trial {self.number}"

    @property
    def folder(self) -> Path:
        """The study's."""
        return self.files.folder

    @property
    def stages(self) -> StageRunner:
        """Runs, or reads back, single stages."""
        return self.pipeline.stages

    @property
    def store(self) -> StageStore:
        """Where stages are kept."""
        return self.stages.store

    @property
    def cost_meter(self) -> CostMeter:
        """Counts what this process spends."""
        return self.stages.meter

    def values(self, network: NetworkResult) -> tuple[float, ...]:
        """The objectives: map50_95, then what is minimised, latencies in ms."""
        figures = network.figures
        latencies = (figures.latencies[target].ms for target in self.spec.judged)
        minimised = [getattr(figures, key) if key in FIGURES else next(latencies) for key in self.spec.objectives[1:]]
        return (network.accuracy.map50_95, *map(float, minimised))
