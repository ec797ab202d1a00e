"""One interleaved run over networks that a study has measured one by one, so that they compare to the last percent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import optuna

from prunetune.pruning.detector import Detector
from prunetune.results import Entry
from prunetune.search.study import FINISHED
from prunetune.search.workspace import Workspace

AT_ONCE = 16
"""Networks that are measured in one run; more would only wait for each other."""


def confirm(study: optuna.Study, workspace: Workspace, detectors: Mapping[str, Detector]) -> None:
    """Measures networks together, and stores what they are now known by.

    Args:
        study: Gets the latencies in its attribute `confirmed`, beside those that are there.
        workspace: The study's.
        detectors: By the trial's number, or the name of the control.
    """
    anchor = replace(workspace.reference(workspace.anchor), name="the anchor")
    confirmed: dict[str, Any] = {}
    for part in _parts(detectors):
        networks = [workspace.network(name, detectors[name], workspace.folder / "networks") for name in part]
        with workspace.pipeline.ledger.clock.part("measure"):
            measured = workspace.target.measure([anchor, *networks], reference=anchor.name)
        for name in part:
            latency = measured[name]
            stated = workspace.stated_ms(latency)
            confirmed[name] = {
                "latency_ms": stated,
                "latency_ratio": stated / workspace.references["dense"],
                "latency_spread_ms": latency.ratio_spread * workspace.references[workspace.anchor],
            }
    study.set_user_attr("confirmed", {**study.user_attrs.get("confirmed", {}), **confirmed})


def is_confirmed(study: optuna.Study, item: Entry) -> bool:
    """Whether a trial's network was measured together with others."""
    return str(item.trial) in study.user_attrs.get("confirmed", {})


def move_to_this_device(study: optuna.Study, workspace: Workspace) -> None:
    """Measures every network that the study has kept again, after it came to another device.

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
    study.set_user_attr("confirmed", {})
    if detectors:
        confirm(study, workspace, detectors)
    study.set_user_attr(FINISHED, None)  # its results are written anew
    workspace.sign(study)  # last: a death before it repeats all of this


def _parts(names: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while part := list(islice(rest, AT_ONCE)):
        yield part
