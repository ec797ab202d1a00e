"""What a study found: its front, its controls, its budget.

A study may be running while it is read. `Findings` reads it once, so that every number of a table or a report
comes from the same moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.entries import (
    Entry,
    channels,
    control_entry,
    entry,
    is_candidate,
    jsonable,
    mapping,
    number,
    outcome,
    text,
    widths,
)
from prunetune.results.pareto import hypervolume, nondominated

_KINDS = ("complete", "over_budget", "stopped_early", "failed", "interrupted", "running")


@dataclass(frozen=True)
class Findings:
    """A study as it stood at one moment."""

    name: str
    trials: tuple[FrozenTrial, ...]
    attributes: Mapping[str, Any]
    """The study's user attributes."""

    @classmethod
    def of(cls, study: Study | Findings) -> Findings:
        """Reads a study; findings stay as they are."""
        if isinstance(study, Findings):
            return study
        return cls(study.study_name, tuple(study.get_trials(deepcopy=False)), study.user_attrs)

    @cached_property
    def confirmed(self) -> dict[str, Mapping[str, Any]]:
        """The last interleaved measurement, by trial number (as text) or name of the control.

        Latency depends on the channels alone. So trials with the channels of a confirmed one share its
        measurement; else an unconfirmed twin could seem faster and push the confirmed trial from the front.
        """
        told = mapping(self.attributes.get("confirmed"))
        named = {str(name): mapping(measured) for name, measured in told.items() if mapping(measured)}
        by_channels = {
            _key(trial): named[str(trial.number)]
            for trial in self.trials
            if str(trial.number) in named and channels(trial)
        }
        twins = {str(trial.number): by_channels[_key(trial)] for trial in self.trials if _key(trial) in by_channels}
        return {**twins, **named}

    def entry(self, trial: FrozenTrial) -> Entry:
        """A trial's entry, with its confirmed latency and its ONNX file where there are."""
        found = entry(trial, self.confirmed.get(str(trial.number)))
        # A finished trial takes no more attributes, and only the front is exported, when the study ends.
        exported = text(mapping(self.attributes.get("exports")).get(str(trial.number)))
        return replace(found, onnx=exported) if exported else found

    def misses_budget(self, item: Entry) -> bool:
        """Whether the last measurement put a candidate over the budget that it met at first."""
        if str(item.trial) not in self.confirmed or item.latency_ms is None or self.budget_ms is None:
            return False
        return item.latency_ms > self.budget_ms

    @property
    def fallen(self) -> list[Entry]:
        """The candidates that only the last measurement put over the budget."""
        return [item for item in map(self.entry, filter(is_candidate, self.trials)) if self.misses_budget(item)]

    @cached_property
    def front(self) -> list[Entry]:
        """See `front`."""
        seen: set[tuple[Any, ...]] = set()
        scored: list[tuple[Entry, float, float]] = []
        for trial in self.trials:
            item = self.entry(trial)
            if not is_candidate(trial) or item.map50_95 is None or item.latency_ms is None:
                continue
            if self.misses_budget(item):
                continue
            twin = (item.map50_95, item.latency_ms, _key(trial))
            if twin not in seen:
                seen.add(twin)
                scored.append((item, item.map50_95, item.latency_ms))
        kept = nondominated([(accuracy, latency) for _, accuracy, latency in scored])
        best = [row for row, stays in zip(scored, kept, strict=True) if stays]
        return [item for item, _, _ in sorted(best, key=lambda row: (row[2], -row[1], row[0].trial))]

    @property
    def best(self) -> Entry | None:
        """See `best`."""
        # The front ascends in latency, and `max` keeps the first of equals: the faster one.
        return max(self.front, key=lambda item: item.map50_95 or 0.0, default=None)

    @cached_property
    def nearest(self) -> Entry | None:
        """See `nearest`."""
        missed: list[tuple[float, FrozenTrial]] = []
        for trial in self.trials:
            violation = number(trial.user_attrs.get("violation"))
            item = self.entry(trial)
            if self.misses_budget(item):
                violation = (item.latency_ms or 0) / (self.budget_ms or 1) - 1
            if violation is not None and violation > 0 and trial.state.is_finished():
                missed.append((violation, trial))
        if not missed:
            return None
        return self.entry(min(missed, key=lambda row: (row[0], row[1].number))[1])

    @cached_property
    def controls(self) -> dict[str, Entry]:
        """The controls by name."""
        told = mapping(self.attributes.get("controls"))
        return {str(name): control_entry(mapping(found), self.confirmed.get(str(name))) for name, found in told.items()}

    @property
    def budget_text(self) -> str | None:
        """The budget as the user wrote it."""
        return text(mapping(self.attributes.get("budget")).get("text"))

    @property
    def budget_ms(self) -> float | None:
        """The budget's limit in ms."""
        return number(mapping(self.attributes.get("budget")).get("limit_ms"))

    @property
    def reference_ms(self) -> float | None:
        """The dense network's latency in ms, confirmed where it was."""
        told = (
            mapping(self.confirmed.get("dense")).get("latency_ms"),
            mapping(self.attributes.get("references")).get("dense"),
            mapping(mapping(self.attributes.get("controls")).get("dense")).get("latency_ms"),
        )
        return next((value for value in map(number, told) if value), None)

    @property
    def hypervolume(self) -> float | None:
        """The front's hypervolume; None while the dense network is not measured."""
        return None if self.reference_ms is None else hypervolume(self.front, self.reference_ms)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many trials ended how. `interrupted` ones say nothing of their recipe, which is tried again."""
        kinds = Counter(map(_kind, self.trials))
        return {name: kinds[name] for name in _KINDS}

    @property
    def dense_channels(self) -> dict[str, int]:
        """The dense network's widths by layer."""
        return widths(self.attributes.get("channels_dense"))

    @property
    def half_channels(self) -> dict[str, int]:
        """The half-width control's widths by layer."""
        return widths(self.attributes.get("channels_half"))

    def test_accuracy(self, name: str | int) -> Mapping[str, Any]:
        """Accuracy on the test split, of a trial or a control; empty where it was not tested."""
        return mapping(mapping(self.attributes.get("test")).get(str(name)))

    def trial(self, trial_number: int) -> FrozenTrial | None:
        """The trial of a number."""
        return next((trial for trial in self.trials if trial.number == trial_number), None)


Source: TypeAlias = Study | Findings
"""Where tables, figures and reports read from."""


def front(study: Source) -> list[Entry]:
    """The feasible candidates that no other dominates, by rising latency.

    A member is complete, recovered and within the budget. Accuracy is map50_95; latency is the confirmed one
    where the study measured again at its end. Of trials with equal values and channels the first one stays.
    """
    return Findings.of(study).front


def best(study: Source) -> Entry | None:
    """The most accurate candidate within the budget; the faster of equals; None without a feasible trial."""
    return Findings.of(study).best


def nearest(study: Source) -> Entry | None:
    """The trial over the budget that missed it by least; None if no trial missed it."""
    return Findings.of(study).nearest


def front_document(study: Source, folder: Path | None = None) -> dict[str, Any]:
    """The front and all that is needed to read it, as strict JSON: what `prunetune front --json` prints.

    With the study's `folder`, paths lead there from where the reader stands; without, they start in the folder.
    `nearest` is None unless the front is empty. `hypervolume` is None until the dense network is measured.
    """
    found = Findings.of(study)
    nearest_entry = None if found.front else found.nearest
    return {
        "study": found.name,
        "front": [_from(folder, item).as_dict() for item in found.front],
        "controls": {name: _from(folder, item).as_dict() for name, item in found.controls.items()},
        "budget": jsonable(mapping(found.attributes.get("budget"))),
        "target": jsonable(mapping(found.attributes.get("target"))),
        "hypervolume": found.hypervolume,
        "nearest": _from(folder, nearest_entry).as_dict() if nearest_entry else None,
        "trials": found.counts,
    }


def _from(folder: Path | None, item: Entry) -> Entry:
    if folder is None:
        return item
    return replace(
        item,
        checkpoint=None if item.checkpoint is None else str(folder / item.checkpoint),
        onnx=None if item.onnx is None else str(folder / item.onnx),
    )


def _key(trial: FrozenTrial) -> tuple[Any, ...]:
    """Equal for trials with equal channels; a trial without channels is equal to itself only."""
    return tuple(sorted(channels(trial).items())) or (trial.number,)


def _kind(trial: FrozenTrial) -> str:
    told = outcome(trial)
    if told in ("WORKER_DIED", "INTERRUPTED"):
        return "interrupted"
    if trial.state is TrialState.FAIL:
        return "failed"
    if told in ("OVER_BUDGET", "STOPPED_EARLY", "RUNNING", "WAITING"):
        return told.lower()
    return "complete" if told in ("OK", "") else "failed"
