"""What the report's panels show of each network that a reader can select, as plain values for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from optuna.trial import FrozenTrial

from prunetune.results.figures.recoveries import recovery_curve
from prunetune.results.figures.style import REGIONS, escape
from prunetune.results.findings.findings import Findings, outcome_text
from prunetune.results.findings.histories import GammaHistogram, read_gammas
from prunetune.results.findings.study_network import StudyNetwork, recipe_text
from prunetune.results.record import TrialRecord
from prunetune.results.tables.rows import (
    baseline_text,
    blocks_text,
    decimals,
    memory_text,
    normalized_text,
    percent,
    significant,
    size,
    with_interval,
)
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.cost import Cost
from prunetune.spaces.recipe import Recipe, Threshold

Value = TypeVar("Value")

ANIMATED = 24
"""So many networks have their gammas in the report: the one that is shown first, the front, the nearest miss."""

FRAMES = 60
"""A longer animation is thinned to so many epochs, those right before a surgery among them."""


@dataclass(frozen=True)
class Networks:
    """All networks of a study, for the panels: each by its name, a trial without one by its number.

    Args:
        found: The study.
        folder: The study's folder, where curves and gamma histograms are.
        first: The key of the panel that the page shows first.
    """

    found: Findings
    folder: Path
    first: str | None

    def as_dict(self) -> dict[str, Any]:
        """For the page. Names of layers and classes are escaped for plotly; all others are plain text."""
        study, baselines = self.found.study, self.found.baselines
        layers = [layer for layer, width in study.channels_dense.items() if width > 0]
        panels = {
            name: self._network_document(network, self._baseline_facts(name), layers)
            for name, network in baselines.items()
        }
        for trial in self.found.trials:
            record, networks = self.found.records[trial.number], self.found.networks_of(trial.number)
            last = self.found.last_network(trial.number)
            for network in networks:
                is_last = network is last
                panel = self._network_document(network, self._trial_facts(trial, network, is_last), layers)
                if not network.is_deployed_further:
                    curve = recovery_curve(record, self.folder, None if is_last else network.result.round)
                    panel |= _known({"curve": _rounded(curve)})
                panels[network.name] = panel
            if not networks:
                facts = _known(self._trial_facts(trial, None, True))
                curve = recovery_curve(record, self.folder)
                panels[str(trial.number)] = _known(
                    {"title": f"trial {trial.number}", "facts": facts, "curve": _rounded(curve)}
                )
        classes = list(dict.fromkeys(name for panel in panels.values() for name in panel.get("classes", ())))
        for panel in panels.values():
            if "classes" in panel:  # their names once, and not with each network
                panel["classes"] = [panel["classes"].get(name) for name in classes]
        return {
            "first": self.first,
            "front": [network.name for network in self.found.front],
            "controls": list(baselines),
            "layers": [escape(layer) for layer in layers],
            "regions": [region_of(self.found, layer) for layer in layers],
            "dense": [study.channels_dense[layer] for layer in layers],
            "half": [study.channels_half.get(layer) for layer in layers],
            "classes": classes,
            "networks": panels,
            "gammas": self._gammas_document(),
        }

    def _network_document(
        self, network: StudyNetwork, facts: Mapping[str, str | None], layers: Sequence[str]
    ) -> dict[str, Any]:
        channels = self.found.study.kept(network.figures.channels)
        own = {
            "kept": _kept(channels, layers),
            "removed": _removed(self.found, channels, layers),
            "blocks": blocks_removed_text(network),
        }
        return _known(
            {
                "title": network.title,
                "facts": _known(facts),
                # The page takes channels, gammas and curves of a further deployment from the network itself.
                **({"of": network.own_name} if network.is_deployed_further else own),
                "classes": _classes(network.accuracy),
            }
        )

    def _baseline_facts(self, name: str) -> dict[str, str | None]:
        network = self.found.baselines[name]
        told = ["control", baseline_text(self.found, network)]
        return {"ended": ", ".join(filter(None, told)), **_figures(self.found, network)}

    def _trial_facts(self, trial: FrozenTrial, network: StudyNetwork | None, is_last: bool) -> dict[str, str | None]:
        """In words; what is said of the whole trial stands with what it came to."""
        record = self.found.records[trial.number]
        ended = outcome_text(trial, record).replace("_", " ").lower()
        if network is not None and network in self.found.front:
            ended = "on the front"
        elif network is not None and network.is_deployed_further:
            ended = f"{self.found.title(network.own_name)}, not trained for this deployment"
        elif not is_last:
            ended = "recovered, and pruned on"
        if is_last and record.duplicate_of is not None:
            ended += f", duplicate of trial {record.duplicate_of}"
        return {
            "recipe": recipe_text(record.recipe, record.thresholds) if network is None else network.recipe_text,
            "reason": record.reason if is_last else None,
            "warning": "; ".join(record.warnings) if is_last else None,
            "ended": ended,
            **({} if network is None else _figures(self.found, network)),
            **(_spent(record.cost) if is_last else {}),
        }

    def _gammas_document(self) -> dict[str, Any]:
        near = self.found.nearest
        members = [network.name for network in self.found.front]
        named = filter(None, [self.first, *members, near.name if near else None])
        known = {name: self.found.network(name) for name in named}
        chosen = dict.fromkeys(name if network is None else network.own_name for name, network in known.items())
        told = {name: self._animation_document(name) for name in list(chosen)[:ANIMATED]}
        return {name: frames for name, frames in told.items() if frames is not None}

    def _animation_document(self, key: str) -> dict[str, Any] | None:
        network = self.found.network(key)
        number = int(key) if network is None else network.trial
        if number is None:
            return None
        record = self.found.records[number]
        histograms = read_gammas(record, self.folder)
        if network is not None:
            histograms = tuple(item for item in histograms if item.round <= network.result.round)
        return animation_document(histograms, record)


def animation_document(histograms: Sequence[GammaHistogram], record: TrialRecord) -> dict[str, Any] | None:
    """How the gammas moved in the sparse phases, epoch by epoch; None without histograms.

    Returns:
        `edges` of the bins up to the last that ever holds anything; `frames`, each with `round`, `epoch`, the share of
        the region's channels per bin in `backbone` and `head` (percent), and the `threshold` of each, or None.
    """
    if not histograms:
        return None
    edges = max((item.edges for item in histograms), key=len)
    alike = [item for item in histograms if item.edges == edges]
    bins = max((_filled(item) for item in alike), default=1)
    frames: list[dict[str, Any]] = []
    for item in _thinned(sorted(alike, key=lambda item: (item.round, item.epoch))):
        shares = {}
        for region, counts in item.counts.items():
            total = sum(counts)
            if total > 0:
                shares[region] = [round(100 * count / total, 2) for count in counts[:bins]]
        thresholds = {region: threshold(record, region, item.round) for region in shares}
        frames.append({"round": item.round, "epoch": item.epoch, "shares": shares, "thresholds": thresholds})
    regions = [region for region in REGIONS if any(region in frame["shares"] for frame in frames)]
    return {"edges": list(edges[: bins + 1]), "regions": regions, "frames": frames} if regions else None


def threshold(record: TrialRecord, region: str, round_number: int) -> float | None:
    """Where a trial cuts a region's gammas in a round: what its recipe says, or what was found in its place.

    None where it cuts by another importance than gammas, or by no threshold.
    """
    recipe, found = record.recipe, record.thresholds
    if not isinstance(recipe, Recipe) or recipe.importance != "gamma":
        return None
    cut = found[round_number - 1] if 0 < round_number <= len(found) else recipe.cut(round_number)
    if not isinstance(cut, Threshold):
        return None
    by_region = {"backbone": cut.backbone, "neck": cut.for_region("neck"), "head": cut.head}
    return by_region.get(region, cut.backbone if len(set(cut.values)) == 1 else None)


def region_of(found: Findings, layer: str) -> str:
    """`backbone`, `neck`, `head`, or an empty string where the study does not say."""
    region = found.study.regions.get(layer, "")
    return region if region in REGIONS else ""


def blocks_removed_text(network: StudyNetwork) -> str:
    """What a picture of channels says of residual blocks, behind a comma; empty where all are there."""
    count = network.figures.blocks_removed
    return f", {blocks_text(count)} removed" if count else ""


def _figures(found: Findings, network: StudyNetwork) -> dict[str, str | None]:
    confirmed, accuracy, figures = found.study.confirmation, network.accuracy, network.figures
    known = None if confirmed is None else confirmed.of(network.name)
    sure = None if known is None else known.map50_95
    tested = found.test_accuracy(network.name)
    split = "test" if confirmed is None else confirmed.split
    latencies = {
        "latency" if len(network.latencies) == 1 else f"latency on {target}": normalized_text(latency)
        + (" predicted" if latency.predicted else "")
        for target, latency in network.latencies.items()
    }
    on_split = "" if tested is None else decimals(tested.map50_95)
    if sure is not None:
        on_split = with_interval(sure.value, sure)
    return {
        "input": str(network.deployment),
        "mAP50-95": decimals(accuracy.map50_95),
        f"mAP50-95 on {split}": on_split,
        "mAP50": decimals(accuracy.map50),
        "precision": decimals(accuracy.precision),
        "recall": decimals(accuracy.recall),
        "F1": decimals(accuracy.f1),
        "at confidence": decimals(accuracy.confidence),
        **latencies,
        "memory": memory_text(figures.memory_mb),
        "GFLOPs": significant(figures.gflops),
        "parameters": size(figures.params),
        "parameters removed": percent(figures.params_removed),
        "channels removed": percent(figures.channels_removed),
        "blocks removed": str(figures.blocks_removed or ""),
        "file": network.checkpoint,
    }


def _spent(cost: Cost) -> dict[str, str | None]:
    return {
        "epochs": f"{cost.epochs_trained} trained, {cost.epochs_reused} reused" if cost.stages else None,
        "time": duration(cost.total_s) if cost.total_s else None,
    }


def duration(spent: float) -> str:
    """Seconds in the unit a reader would choose: 43 s, 12 min 5 s, 3 h 20 min."""
    whole = round(spent)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _kept(kept: Mapping[str, int], layers: Sequence[str]) -> list[int | None] | None:
    told = [kept.get(layer) for layer in layers]
    return told if any(width is not None for width in told) else None


def _removed(found: Findings, kept: Mapping[str, int], layers: Sequence[str]) -> dict[str, str] | None:
    """The removed share of each region's channels, in words."""
    told = {}
    for region in REGIONS:
        members = [layer for layer in layers if layer in kept and region_of(found, layer) == region]
        if members:
            left = sum(kept[layer] for layer in members) / sum(found.study.channels_dense[layer] for layer in members)
            told[region] = percent(1 - left)
    return told or None


def _classes(accuracy: Accuracy) -> dict[str, float] | None:
    """map50_95 of each class."""
    known = {name: values.get("map50_95") for name, values in (accuracy.classes or {}).items()}
    return {escape(name): round(value, 3) for name, value in known.items() if value is not None} or None


def _rounded(curve: Sequence[tuple[int, float]]) -> list[list[float]]:
    return [[epoch, round(value, 3)] for epoch, value in curve]


def _known(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value}


def _filled(item: GammaHistogram) -> int:
    """How many bins there are up to the last that holds anything."""
    return 1 + max((place for bins in item.counts.values() for place, count in enumerate(bins) if count > 0), default=0)


def _thinned(items: Sequence[GammaHistogram]) -> list[GammaHistogram]:
    step = max(1, -(-len(items) // FRAMES))
    last = {item.round: item for item in items}  # the epoch right before each surgery
    return [item for place, item in enumerate(items) if place % step == 0 or last[item.round] is item]
