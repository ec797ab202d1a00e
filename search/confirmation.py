"""One interleaved run over networks that a study has measured one by one, so that they compare to the last percent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from prunetune.pruning.detector import Detector
from prunetune.results import Entry
from prunetune.search.attributes import FINISHED
from prunetune.search.workspace import Workspace
from prunetune.search.yardstick import Yardstick
from prunetune.targets import Latency

AT_ONCE = 16
"""Networks that are measured in one run; more would only wait for each other."""


def confirm(
    study: optuna.Study,
    workspace: Workspace,
    detectors: Mapping[str, Detector],
    yardsticks: Sequence[Yardstick] | None = None,
) -> None:
    """Measures networks together, and stores what they are now known by.

    Args:
        study: Gets the latencies in its attribute `confirmed`, beside those that are there.
        workspace: The study's.
        detectors: By the trial's number, or the name of the control.
        yardsticks: The targets to measure on; all by default.
    """
    runs = {
        yardstick.name: measure_together(workspace, yardstick, detectors)
        for yardstick in (workspace.yardsticks if yardsticks is None else yardsticks)
    }
    store_latencies(study, workspace, runs)


def measure_together(
    workspace: Workspace, yardstick: Yardstick, detectors: Mapping[str, Detector], always: Sequence[str] = ()
) -> list[dict[str, Latency]]:
    """Measures networks on one target, interleaved, in as few runs as `AT_ONCE` allows.

    Args:
        workspace: The study's.
        yardstick: The target.
        detectors: By name.
        always: Those of them that take part in every run, so that all others are compared with them.

    Returns:
        For each run the latencies of its networks, each with its ratio to the anchor and its rounds.
    """
    anchor = workspace.anchor(yardstick, "the anchor")
    folder = workspace.folder / "networks"
    found = []
    for part in _parts([name for name in detectors if name not in always], AT_ONCE - len(always)) or [[]]:
        workspace.safe_point()
        names = [*always, *part]
        networks = [workspace.network(name, detectors[name], yardstick, folder) for name in names]
        with workspace.stages.ledger.clock.part("measure"):
            measured = yardstick.target.measure([anchor, *networks], reference=anchor.name)
        found.append({name: measured[name] for name in names})
    return found


def store_latencies(
    study: optuna.Study, workspace: Workspace, runs: Mapping[str, Sequence[Mapping[str, Latency]]]
) -> None:
    """Stores what networks are now known by, beside what others are known by.

    Args:
        study: Gets it in its attribute `confirmed`.
        workspace: The study's.
        runs: What was measured together, by target. Of a network that took part several times the first time counts.
    """
    confirmed: dict[str, Any] = {name: dict(told) for name, told in study.user_attrs.get("confirmed", {}).items()}
    for yardstick in workspace.yardsticks:
        for measured in reversed(runs.get(yardstick.name, ())):
            for name, latency in measured.items():
                confirmed.setdefault(name, {})[yardstick.name] = yardstick.stated(latency)
    study.set_user_attr("confirmed", confirmed)


def is_confirmed(study: optuna.Study, workspace: Workspace, item: Entry) -> bool:
    """Whether a trial's network was measured together with others, on every target."""
    told = study.user_attrs.get("confirmed", {}).get(str(item.trial), {})
    return all(yardstick.name in told for yardstick in workspace.yardsticks)


def move_to_these_devices(study: optuna.Study, workspace: Workspace, moved: Sequence[Yardstick]) -> None:
    """Measures every network that the study has kept again, after targets of it came to other devices.

    What the trials tell stays as it was; `confirmed` replaces it wherever the study is read.
    """
    kept: dict[str, str] = {}
    seen: set[str] = set()
    for trial in study.get_trials(deepcopy=False):
        channels = json.dumps(trial.user_attrs.get("channels"), sort_keys=True)
        if trial.user_attrs.get("checkpoint") and channels not in seen:  # equal channels are equally fast
            seen.add(channels)
            kept[str(trial.number)] = trial.user_attrs["checkpoint"]
    kept |= {name: entry["checkpoint"] for name, entry in study.user_attrs.get("controls", {}).items()}
    detectors = {name: Detector.load(workspace.folder / file) for name, file in kept.items()}
    if detectors:
        confirm(study, workspace, detectors, moved)
    study.set_user_attr(FINISHED, None)  # its results are written anew
    workspace.sign(study)  # last: a death before it repeats all of this


def _parts(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]
