"""A network as its study shows it: whose it is, what it is called, and what is known of it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunetune.results.record import NetworkFigures, NetworkFiles, NetworkResult, TrialRecord
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.deployment import Deployment, size_text
from prunetune.spaces.named_networks import Splice, title_of_network
from prunetune.spaces.recipe import Recipe, Threshold
from prunetune.targets.latency import NormalizedLatency


@dataclass(frozen=True)
class StudyNetwork:
    """A network of a trial after one of its rounds, or a baseline."""

    name: str
    """`7` is what trial 7 came to, `7.1` what it had after the first of several rounds, `dense` a baseline; `7@96` and
    `dense@96-int8` are the same networks at other deployments than those that they were trained for."""
    result: NetworkResult
    """With the last measurement's latencies, and the exported file where there is one."""
    trial: int | None = None
    """The trial's number; None for a baseline."""
    recipe: Recipe | Splice | None = None
    """The whole trial's."""
    rounds: int = 1
    """Of the whole recipe."""
    thresholds: tuple[Threshold, ...] = ()
    """Those that were found for a latency, up to this network's round."""
    target: str = ""
    """The target whose latency counts most."""

    @property
    def is_earlier_round(self) -> bool:
        """Whether its recipe has further rounds."""
        return self.result.round < self.rounds

    @property
    def own_name(self) -> str:
        """The name of the same network at the deployment that it was trained for: `7` of `7@96`."""
        name, _, label = self.name.rpartition("@")
        return name if name and label in labels(self.deployment) else self.name

    @property
    def is_deployed_further(self) -> bool:
        """Whether it is another one of the study's networks at a further deployment, without training of its own."""
        return self.own_name != self.name

    @property
    def title(self) -> str:
        """What it is called: `trial 7`, `trial 7, round 1`, `dense at 96 px`."""
        return title_of_network(self.name)

    @property
    def deployment(self) -> Deployment:
        """Its input size and precision."""
        return self.result.deployment

    @property
    def imgsz_text(self) -> str:
        """Its input size in px: `640`, `384x640`."""
        return size_text(self.deployment.imgsz)

    @property
    def recipe_text(self) -> str:
        """How it was made, on one line; empty for a baseline."""
        return recipe_text(self.recipe, self.thresholds, self.result.round if self.is_earlier_round else None)

    @property
    def accuracy(self) -> Accuracy:
        """On `val`."""
        return self.result.accuracy

    @property
    def figures(self) -> NetworkFigures:
        """What does not depend on its weights."""
        return self.result.figures

    @property
    def map50_95(self) -> float:
        """On `val`."""
        return self.result.accuracy.map50_95

    @property
    def latencies(self) -> Mapping[str, NormalizedLatency]:
        """By target."""
        return self.result.figures.latencies

    @property
    def latency(self) -> NormalizedLatency | None:
        """On the target that counts most; None where it was not measured there."""
        return self.latencies.get(self.target)

    @property
    def latency_ms(self) -> float | None:
        """The same in ms."""
        return None if self.latency is None else self.latency.ms

    @property
    def checkpoint(self) -> str | None:
        """Path relative to the study's folder."""
        return self.result.files.checkpoint

    @property
    def onnx(self) -> str | None:
        """Path relative to the study's folder."""
        return self.result.files.onnx

    def on(self, target: str) -> StudyNetwork:
        """The same with another target as the one that counts most."""
        return replace(self, target=target)

    def within(self, folder: Path | None) -> StudyNetwork:
        """The same with paths that start where the study's folder does, and not in it; as it is without a folder."""
        if folder is None:
            return self
        there = {name: None if path is None else str(folder / path) for name, path in vars(self.result.files).items()}
        return replace(self, result=replace(self.result, files=NetworkFiles(**there)))

    def as_dict(self) -> dict[str, Any]:
        """One flat row of strict JSON: what `front --json` prints."""
        accuracy, figures, latency = self.accuracy, self.figures, self.latency
        found = {"threshold_found": [item.as_json() for item in self.thresholds]} if self.thresholds else {}
        return {
            "network": self.name,
            "trial": self.trial,
            "round": None if self.trial is None else self.result.round,
            "deployment": self.deployment.as_dict(),
            "recipe": None if self.recipe is None else {**self.recipe.as_dict(), **found},
            **{name: getattr(accuracy, name) for name in ("map50", "map50_95", "precision", "recall", "f1")},
            "confidence": accuracy.confidence,
            "latency_ms": None if latency is None else latency.ms,
            "latency_ratio": None if latency is None else latency.ratio_to_dense,
            "latencies": latencies_document(self.latencies),
            **{name: getattr(figures, name) for name in ("gflops", "params", "bytes", "memory_mb")},
            **{name: getattr(figures, name) for name in ("channels_removed", "params_removed", "blocks_removed")},
            "checkpoint": self.checkpoint,
            "onnx": self.onnx,
        }


def latencies_document(latencies: Mapping[str, NormalizedLatency]) -> dict[str, dict[str, Any]]:
    """Latencies by target in strict JSON, under the names that every output has for them."""
    return {
        target: {
            "latency_ms": latency.ms,
            "latency_ratio": latency.ratio_to_dense,
            "latency_low_ms": latency.low_ms,
            "latency_spread_ms": latency.spread_ms,
            "latency_uncertainty": latency.uncertainty,
            "predicted": latency.predicted,
        }
        for target, latency in latencies.items()
    }


def deployed_name(name: str, deployment: Deployment, own: Deployment) -> str:
    """What a network is called at another deployment than its own: `7@96`, `dense@96-int8`."""
    return f"{name}@{deployment.label(own)}"


def labels(deployment: Deployment) -> tuple[str, str]:
    """What may stand for a deployment in a network's name: `96`, `96-int8`."""
    size = size_text(deployment.imgsz)
    return size, f"{size}-{deployment.precision}"


def network_name(trial: int, round_number: int, rounds: int) -> str:
    """`7`, or `7.1` after the first of several rounds."""
    return str(trial) if round_number >= rounds else f"{trial}.{round_number}"


def networks_of(number: int, record: TrialRecord, target: str = "") -> list[StudyNetwork]:
    """The networks of a trial, as they were when it ended."""
    rounds = max([record.rounds_asked, *(result.round for result in record.networks)])  # also without its recipe
    firsts = {result.round: result for result in reversed(record.networks)}

    def name(result: NetworkResult) -> str:
        name, first = network_name(number, result.round, rounds), firsts[result.round]
        return name if result is first else deployed_name(name, result.deployment, first.deployment)

    return [
        StudyNetwork(
            name=name(result),
            result=result,
            trial=number,
            recipe=record.recipe,
            rounds=rounds,
            thresholds=record.thresholds[: result.round],
            target=target,
        )
        for result in record.networks
    ]


def recipe_text(
    recipe: Recipe | Splice | None, thresholds: tuple[Threshold, ...] = (), round_number: int | None = None
) -> str:
    """A recipe on one line, with the thresholds that were found for it; empty where there is none.

    Args:
        recipe: The trial's.
        thresholds: Those that were found, one for each round.
        round_number: The round of the network that is meant, if further ones follow it.
    """
    if recipe is None:
        return ""
    words = str(recipe).removeprefix("(")
    words = words.removesuffix(")") if len(words) < len(str(recipe)) else words
    if thresholds:
        words += f", found threshold{'s' * (len(thresholds) > 1)} {', '.join(map(str, thresholds))}"
    if round_number is not None and isinstance(recipe, Recipe):
        words += f", after round {round_number} of {recipe.rounds}"
    return words
