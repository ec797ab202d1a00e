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

from prunetune.pruning.data_facts import DataFacts
from prunetune.results.entries import (
    RETRY_OF,
    ROUND_OF,
    Entry,
    channels,
    control_entry,
    entry,
    integer,
    is_candidate,
    jsonable,
    mapping,
    number,
    outcome,
    readings,
    round_of,
    text,
    widths,
)
from prunetune.results.pareto import hypervolume, nondominated
from prunetune.results.studied_target import StudiedTarget, studied_targets

DATA_FACTS = "data_facts"
"""The study's attribute: what its data set holds."""

NOISY = 0.05
"""From this uncertainty on a latency is marked: the device was too busy when it was measured."""

_KINDS = ("complete", "over_budget", "stopped_early", "failed", "interrupted", "running", "rounds")


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
    def targets(self) -> list[StudiedTarget]:
        """The study's targets, in the order of its description."""
        return studied_targets(self.attributes)

    @cached_property
    def data(self) -> DataFacts:
        """How much of the data set is used, and which of its splits share images; empty where that is not known."""
        return DataFacts.parse(self.attributes.get(DATA_FACTS))

    @cached_property
    def main(self) -> StudiedTarget | None:
        """The target that the front is drawn over: the first whose latency is an objective, else the first."""
        return next((target for target in self.targets if target.is_objective), next(iter(self.targets), None))

    @cached_property
    def judged(self) -> list[StudiedTarget]:
        """The targets whose latencies decide on dominance: the main one, then the further objectives."""
        further = [target for target in self.targets if target.is_objective and target is not self.main]
        return [] if self.main is None else [self.main, *further]

    @cached_property
    def confirmed(self) -> dict[str, Mapping[str, Any]]:
        """The last interleaved measurements: by trial number (as text) or name of the control, then by target.

        Latency depends on the channels alone. So trials with the channels of a confirmed one share its
        measurement; else an unconfirmed twin could seem faster and push the confirmed trial from the front.
        """
        told = mapping(self.attributes.get("confirmed"))
        named = {str(name): mapping(measured) for name, measured in told.items() if mapping(measured)}
        if not named:
            return {}
        by_channels = {
            _key(trial): named[str(trial.number)]
            for trial in self.trials
            if str(trial.number) in named and channels(trial)
        }
        if not by_channels:
            return named
        keys = {str(trial.number): _key(trial) for trial in self.trials}
        twins = {number: by_channels[key] for number, key in keys.items() if key in by_channels}
        return {**twins, **named}

    def entry(self, trial: FrozenTrial) -> Entry:
        """A trial's entry, with its confirmed latencies and its ONNX file where there are."""
        found = self._related(entry(trial, self.confirmed.get(str(trial.number)), self._main_name))
        if found.recipe is not None and (whole := self.whole_of(trial)) is not None:
            found = replace(found, recipe={**found.recipe, ROUND_OF: whole})
        # A finished trial takes no more attributes, and only the front is exported, when the study ends.
        exported = text(mapping(self.attributes.get("exports")).get(str(trial.number)))
        return replace(found, onnx=exported) if exported else found

    def whole_of(self, trial: FrozenTrial) -> int | None:
        """The trial whose round a trial is: that which took the recipe up last, if the one that added it was lost."""
        number = round_of(trial)
        while number in self._taken_up:
            number = self._taken_up[number]
        return number

    @cached_property
    def _taken_up(self) -> dict[int, int]:
        """Which trial went on with which; a later number always."""
        before = {trial.number: integer(trial.user_attrs.get(RETRY_OF)) for trial in self.trials}
        return {old: new for new, old in before.items() if old is not None and old < new}

    def excess(self, item: Entry) -> dict[str, float]:
        """How far an entry is over the budgets, as a share of each, by target; empty if it is over none."""
        found = {target.name: target.violation(item.latencies.get(target.name)) for target in self.targets}
        return {name: over for name, over in found.items() if over > 0}

    def edges(self, item: Entry) -> list[str]:
        """The targets on whose budgets' edges an entry is: above the limit, which lies within its 95 % interval."""
        return [target.name for target in self.targets if target.is_on_edge(item.latencies.get(target.name))]

    def misses_budget(self, item: Entry) -> bool:
        """Whether the last measurement put a candidate over a budget that it met at first."""
        return str(item.trial) in self.confirmed and bool(self.excess(item))

    @property
    def fallen(self) -> list[Entry]:
        """The candidates that only the last measurement put over a budget."""
        return [item for item in map(self.entry, filter(is_candidate, self.trials)) if self.misses_budget(item)]

    def point(self, item: Entry) -> tuple[float, ...] | None:
        """What decides on dominance: map50_95, then the latencies that are judged, in ms. None if one is missing."""
        further = [item.on(target.name).latency_ms for target in self.judged[1:]]
        values = [item.map50_95, item.latency_ms, *further]
        known = [value for value in values if value is not None]
        return tuple(known) if len(known) == len(values) else None

    @cached_property
    def front(self) -> list[Entry]:
        """See `front`."""
        scored: list[tuple[Entry, tuple[float, ...], FrozenTrial]] = []
        for trial in filter(is_candidate, self.trials):
            item = self.entry(trial)
            point = self.point(item)
            if point is not None and not self.misses_budget(item):
                scored.append((item, point, trial))
        kept = nondominated([point for _, point, _ in scored])
        first: dict[tuple[Any, ...], tuple[Entry, tuple[float, ...]]] = {}
        for (item, point, trial), stays in zip(scored, kept, strict=True):
            if stays:
                first.setdefault((point, _key(trial)), (item, point))
        return [item for item, _ in sorted(first.values(), key=lambda row: (row[1][1], -row[1][0], row[0].trial))]

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
                violation = max(self.excess(item).values())
            if violation is not None and violation > 0 and trial.state.is_finished():
                missed.append((violation, trial))
        if not missed:
            return None
        return self.entry(min(missed, key=lambda row: (row[0], row[1].number))[1])

    @cached_property
    def controls(self) -> dict[str, Entry]:
        """The controls by name."""
        told = mapping(self.attributes.get("controls"))
        return {
            str(name): self._related(control_entry(mapping(found), self.confirmed.get(str(name)), self._main_name))
            for name, found in told.items()
        }

    def dense_ms(self, target: StudiedTarget) -> float | None:
        """The dense network's latency on a target in ms as tables show it: confirmed, or else the control's."""
        control = mapping(mapping(self.attributes.get("controls")).get("dense"))
        known = readings(control.get("latencies"), self.confirmed.get("dense")).get(target.name)
        return target.dense_ms if known is None else known.latency_ms

    @property
    def hypervolume(self) -> float | None:
        """The front's hypervolume; None while the dense network is not measured."""
        references = [value for value in map(self.dense_ms, self.judged) if value]
        if not references or len(references) < len(self.judged):
            return None
        return hypervolume([point for point in map(self.point, self.front) if point is not None], references)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many trials ended how. `interrupted` ones say nothing of their recipe, which is tried again; `rounds` are
        what others had on their way."""
        kinds = Counter(map(_kind, self.trials))
        return {name: kinds[name] for name in _KINDS}

    def _related(self, item: Entry) -> Entry:
        """The entry with its ratios to the dense network as it was last measured, beside the others."""
        latencies = dict(item.latencies)
        for target in self.targets:
            reading, dense_ms = latencies.get(target.name), self.dense_ms(target)
            if reading is not None and dense_ms:
                latencies[target.name] = replace(reading, latency_ratio=reading.latency_ms / dense_ms)
        item = replace(item, latencies=latencies)
        return item.on(self.main.name) if self.main is not None and self.main.name in latencies else item

    def noisy(self, item: Entry) -> dict[str, float]:
        """How far an entry's latencies may be off, as a share, by target; only those that are off by 5 % and more."""
        told = {target: reading.latency_uncertainty for target, reading in item.latencies.items()}
        return {target: share for target, share in told.items() if share is not None and share >= NOISY}

    @property
    def _main_name(self) -> str | None:
        return None if self.main is None else self.main.name

    @cached_property
    def dense_channels(self) -> dict[str, int]:
        """The dense network's widths by layer."""
        return widths(self.attributes.get("channels_dense"))

    @cached_property
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

    A member is complete, recovered and surely over no budget. Accuracy is map50_95; latencies are the confirmed ones
    where the study measured again at its end. On which targets they count, the study's objectives say; the order is
    that of the main target. Of trials with equal values and channels the first one stays.
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
        "front": [candidate_document(found, item, folder) for item in found.front],
        "controls": {name: located(item, folder).as_dict() for name, item in found.controls.items()},
        "targets": jsonable(found.attributes.get("targets") or []),
        "hypervolume": found.hypervolume,
        "nearest": located(nearest_entry, folder).as_dict() if nearest_entry else None,
        "trials": found.counts,
    }


def candidate_document(found: Findings, item: Entry, folder: Path | None) -> dict[str, Any]:
    """A candidate's entry as strict JSON; `on_edge` has the targets on whose budgets' edges it is."""
    return {**located(item, folder).as_dict(), "on_edge": found.edges(item)}


def located(item: Entry, folder: Path | None) -> Entry:
    """The entry with paths that start where the study's folder does, and not in it; as it is without a folder."""
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
    if round_of(trial) is not None:
        return "rounds"
    told = outcome(trial)
    if told in ("WORKER_DIED", "INTERRUPTED"):
        return "interrupted"
    if trial.state is TrialState.FAIL:
        return "failed"
    if told in ("OVER_BUDGET", "STOPPED_EARLY", "RUNNING", "WAITING"):
        return told.lower()
    return "complete" if told in ("OK", "") else "failed"
