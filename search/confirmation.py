"""One interleaved run over networks that a study has measured one by one, so that they compare to the last percent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import optuna

from prunetune.pruning.detector import Detector
from prunetune.results import Entry
from prunetune.search.study import FINISHED
from prunetune.search.workspace import Workspace
from prunetune.search.yardstick import Yardstick

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
    confirmed: dict[str, Any] = {name: dict(told) for name, told in study.user_attrs.get("confirmed", {}).items()}
    for yardstick in workspace.yardsticks if yardsticks is None else yardsticks:
        anchor = workspace.anchor(yardstick, "the anchor")
        for part in _parts(detectors):
            folder = workspace.folder / "networks"
            networks = [workspace.network(name, detectors[name], yardstick, folder) for name in part]
            with workspace.stages.ledger.clock.part("measure"):
                measured = yardstick.target.measure([anchor, *networks], reference=anchor.name)
            for name in part:
                confirmed.setdefault(name, {})[yardstick.name] = yardstick.stated(measured[name])
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


def _parts(names: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while part := list(islice(rest, AT_ONCE)):
        yield part
