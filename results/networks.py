"""What the report's panels show of each network that a reader can select, as plain values for the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from prunetune.results.certainty import Confirmation, confirmation
from prunetune.results.entries import (
    FOUND,
    Entry,
    channels,
    integer,
    is_predicted,
    mapping,
    number,
    outcome,
    recipe_text,
    text,
    trained_text,
    unseparated,
    widths,
)
from prunetune.results.findings import Findings
from prunetune.results.histories import GammaHistogram, read_gammas
from prunetune.results.recoveries import last_curve
from prunetune.results.style import REGIONS, escape
from prunetune.results.tables import decimals, percent, reading_text, significant, size
from prunetune.results.trials import seconds
from prunetune.spaces.recipe import OPTIONS

ANIMATED = 24
"""So many networks have their gammas in the report: the one that is shown first, the front, the nearest miss."""

FRAMES = 60
"""A longer animation is thinned to so many epochs, those right before a surgery among them."""


@dataclass(frozen=True)
class Networks:
    """All networks of a study, for the panels.

    Args:
        found: The study.
        folder: The study's folder, where curves and gamma histograms are.
        first: The trial that the page shows first.
    """

    found: Findings
    folder: Path
    first: FrozenTrial | None

    def as_dict(self) -> dict[str, Any]:
        """For the page. Names of layers and classes are escaped for plotly; all others are plain text."""
        found = self.found
        layers = [layer for layer, width in found.dense_channels.items() if width > 0]
        members = [item.trial for item in found.front]
        confirmed = confirmation(found)
        trials = {
            str(trial.number): self._trial(trial, trial.number in members, layers, confirmed) for trial in found.trials
        }
        controls = {name: self._control(name, item, layers, confirmed) for name, item in found.controls.items()}
        networks = {**controls, **trials}
        classes = list(dict.fromkeys(name for network in networks.values() for name in network.get("classes", ())))
        for network in networks.values():
            if "classes" in network:  # their names once, and not with each network
                network["classes"] = [network["classes"].get(name) for name in classes]
        return {
            "first": None if self.first is None else str(self.first.number),
            "front": [str(number) for number in members],
            "controls": list(controls),
            "layers": [escape(layer) for layer in layers],
            "regions": [region_of(found, layer) for layer in layers],
            "dense": [found.dense_channels[layer] for layer in layers],
            "half": [found.half_channels.get(layer) for layer in layers],
            "classes": classes,
            "networks": networks,
            "gammas": self._gammas(members),
        }

    def _trial(
        self, trial: FrozenTrial, is_member: bool, layers: Sequence[str], confirmed: Confirmation | None
    ) -> dict[str, Any]:
        item = self.found.entry(trial)
        attributes = trial.user_attrs
        told = _known(
            {
                "recipe": recipe_text(item.recipe),
                "reason": text(attributes.get("reason")),
                "warning": unseparated(trial),
                "ended": _ending(trial, is_member),
                **_figures(self.found, str(trial.number), item, confirmed, predicted=is_predicted(trial)),
                **_spent(trial),
                "file": item.checkpoint,
            }
        )
        return _known(
            {
                "title": f"trial {trial.number}",
                "facts": told,
                "kept": _kept(channels(trial), layers),
                "removed": _removed(self.found, channels(trial), layers),
                "classes": _classes(attributes.get("accuracy")),
                "curve": [[epoch, round(value, 3)] for epoch, value in last_curve(trial, self.folder)],
            }
        )

    def _control(self, name: str, item: Entry, layers: Sequence[str], confirmed: Confirmation | None) -> dict[str, Any]:
        stored = mapping(mapping(self.found.attributes.get("controls")).get(name))
        kept = widths(stored.get("channels"))
        trained = trained_text(stored)
        told = _known(
            {
                "ended": "control" + (f", {trained}" if trained else ""),
                **_figures(self.found, name, item, confirmed),
                "file": item.checkpoint,
            }
        )
        return _known(
            {
                "title": name,
                "facts": told,
                "kept": _kept(kept, layers),
                "removed": _removed(self.found, kept, layers),
                "classes": _classes(stored) or _classes(stored.get("accuracy")),
            }
        )

    def _gammas(self, members: Iterable[int | None]) -> dict[str, Any]:
        near = self.found.nearest
        wanted = [self.first.number if self.first else None, *members, near.trial if near else None]
        chosen = [number for number in dict.fromkeys(wanted) if number is not None][:ANIMATED]
        by_number = {trial.number: trial for trial in self.found.trials}
        told = {
            str(number): animation(read_gammas(trial, self.folder), self.found.entry(trial).recipe)
            for number in chosen
            if (trial := by_number.get(number)) is not None
        }
        return {number: frames for number, frames in told.items() if frames is not None}


def animation(histograms: Sequence[GammaHistogram], recipe: Mapping[str, Any] | None) -> dict[str, Any] | None:
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
        thresholds = {region: threshold(recipe, region, item.round) for region in shares}
        frames.append({"round": item.round, "epoch": item.epoch, "shares": shares, "thresholds": thresholds})
    regions = [region for region in REGIONS if any(region in frame["shares"] for frame in frames)]
    return {"edges": list(edges[: bins + 1]), "regions": regions, "frames": frames} if regions else None


def threshold(recipe: Mapping[str, Any] | None, region: str, round_number: int) -> float | None:
    """Where a recipe cuts a region's gammas in a round: what it says, or what was found in its place.

    None where it cuts by another importance than gammas, or by no threshold.
    """
    if (recipe or {}).get("importance", OPTIONS["importance"]) != "gamma":
        return None
    found = (recipe or {}).get(FOUND)
    told = (recipe or {}).get("threshold")
    later = (recipe or {}).get("later_thresholds")
    if isinstance(later, list) and later and round_number > 1:
        told = later[min(round_number - 2, len(later) - 1)]
    if isinstance(found, list) and 0 < round_number <= len(found):
        told = found[round_number - 1]
    if isinstance(told, Mapping):
        return number(told.get("head" if region == "neck" and "neck" not in told else region))
    return number(told)


def region_of(found: Findings, layer: str) -> str:
    """`backbone`, `neck`, `head`, or an empty string where the study does not say."""
    region = mapping(found.attributes.get("regions")).get(layer)
    return region if region in REGIONS else ""


def _figures(
    found: Findings, name: str, item: Entry, confirmed: Confirmation | None, predicted: bool = False
) -> dict[str, str | None]:
    network = None if confirmed is None else confirmed.of(name)
    sure = None if network is None else network.map50_95
    tested = number(found.test_accuracy(name).get("map50_95"))
    split = "test" if confirmed is None else confirmed.split
    latencies = {
        "latency" if len(item.latencies) == 1 else f"latency on {target}": reading_text(reading)
        + (" predicted" if predicted else "")
        for target, reading in item.latencies.items()
    }
    return {
        "mAP50-95": decimals(item.map50_95),
        f"mAP50-95 on {split}": decimals(tested)
        if sure is None
        else f"{sure.value:.3f} ({sure.low:.3f} to {sure.high:.3f})",
        "mAP50": decimals(item.map50),
        "precision": decimals(item.precision),
        "recall": decimals(item.recall),
        "F1": decimals(item.f1),
        "at confidence": decimals(item.confidence),
        **latencies,
        "GFLOPs": significant(item.gflops),
        "parameters": size(item.params),
        "parameters removed": percent(item.params_removed),
        "channels removed": percent(item.channels_removed),
    }


def _ending(trial: FrozenTrial, is_member: bool) -> str:
    told = "on the front" if is_member else outcome(trial).replace("_", " ").lower()
    equal = integer(trial.user_attrs.get("equals"))
    return told if equal is None else f"{told}, equals trial {equal}"


def _spent(trial: FrozenTrial) -> dict[str, str | None]:
    epochs = mapping(trial.user_attrs.get("epochs"))
    trained, reused = number(epochs.get("trained")), number(epochs.get("reused"))
    spent = sum(seconds(trial).values())
    return {
        "epochs": None if trained is None else f"{trained:.0f} trained, {reused or 0:.0f} reused",
        "time": duration(spent) if spent else None,
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
            left = sum(kept[layer] for layer in members) / sum(found.dense_channels[layer] for layer in members)
            told[region] = percent(1 - left)
    return told or None


def _classes(accuracy: Any) -> dict[str, float] | None:
    """map50_95 of each class."""
    told = mapping(mapping(accuracy).get("classes"))
    found = {escape(str(name)): number(mapping(values).get("map50_95")) for name, values in told.items()}
    return {name: round(value, 3) for name, value in found.items() if value is not None} or None


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _filled(item: GammaHistogram) -> int:
    """How many bins there are up to the last that holds anything."""
    return 1 + max((place for bins in item.counts.values() for place, count in enumerate(bins) if count > 0), default=0)


def _thinned(items: Sequence[GammaHistogram]) -> list[GammaHistogram]:
    step = max(1, -(-len(items) // FRAMES))
    last = {item.round: item for item in items}  # the epoch right before each surgery
    return [item for place, item in enumerate(items) if place % step == 0 or last[item.round] is item]
