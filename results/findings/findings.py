"""What a study found: its front, its baselines, its budget.

A study may be running while it is read. `Findings` reads it once, so that every number of a table or a report
comes from the same moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.findings.pareto import hypervolume, nondominated
from prunetune.results.findings.study_network import StudyNetwork, labels, networks_of
from prunetune.results.record import NetworkFiles, StudiedFigure, StudiedTarget, StudyRecord, TrialRecord
from prunetune.spaces.accuracy import Accuracy
from prunetune.spaces.outcome import Outcome
from prunetune.targets.latency import NormalizedLatency

NOISY = 0.05
"""From this uncertainty on a latency is marked: the device was too busy when it was measured."""

_KINDS = ("complete", "over_budget", "stopped_early", "failed", "interrupted", "running", "rounds")


@dataclass(frozen=True)
class Findings:
    """A study as it stood at one moment."""

    name: str
    trials: tuple[FrozenTrial, ...]
    study: StudyRecord

    @classmethod
    def of(cls, study: Study | Findings) -> Findings:
        """Reads a study; findings stay as they are."""
        if isinstance(study, Findings):
            return study
        return cls(study.study_name, tuple(study.get_trials(deepcopy=False)), StudyRecord.of(study))

    @cached_property
    def records(self) -> dict[int, TrialRecord]:
        """What each trial found, by its number."""
        return {trial.number: TrialRecord.from_trial(trial) for trial in self.trials}

    @property
    def targets(self) -> tuple[StudiedTarget, ...]:
        """The study's targets, in the order of its description."""
        return self.study.targets

    @cached_property
    def main(self) -> StudiedTarget | None:
        """The target that the front is drawn over: the first whose latency is an objective, else the first."""
        return next((target for target in self.targets if target.is_objective), next(iter(self.targets), None))

    @cached_property
    def judged(self) -> list[StudiedTarget]:
        """The targets whose latencies decide on dominance: the main one, then the further objectives. None where other
        figures alone are minimised."""
        objectives = [target for target in self.targets if target.is_objective]
        return objectives or ([] if self.main is None or self.judged_figures else [self.main])

    @cached_property
    def judged_figures(self) -> list[StudiedFigure]:
        """What else decides on dominance."""
        return [figure for figure in self.study.figures if figure.is_objective]

    # Networks

    @cached_property
    def networks(self) -> dict[str, StudyNetwork]:
        """The networks of all trials, by name, with their last measurements. Those of trials that were given back are
        not among them: whoever took their recipes up has them."""
        return {network.name: self._current(network, self._last_measured) for network in self._own_networks}

    @cached_property
    def _own_networks(self) -> list[StudyNetwork]:
        return [
            network
            for number, record in self.records.items()
            if record.outcome is None or record.outcome.counts
            for network in networks_of(number, record)
        ]

    @cached_property
    def baselines(self) -> dict[str, StudyNetwork]:
        """The networks that the study compares with, at all deployments, by name, with their last measurements."""
        own = [StudyNetwork(name, baseline.network) for name, baseline in self.study.baselines.items()]
        measured = self._with_twins(own)
        return {network.name: self._current(network, measured) for network in own}

    def network(self, name: str) -> StudyNetwork | None:
        """A network by its name; None where there is none.

        A trial's number means the network that the trial came to, also if that has a longer name; `7@96` is the same
        network at 96 px, also if that is what it was recovered for.
        """
        found = self.baselines.get(name) or self.networks.get(name)
        if found is None and name.isdecimal() and len(name) < 19:
            found = self.last_network(int(name))
        of, at, label = name.rpartition("@")
        return self._deployed(of, label) if found is None and at else found

    def _deployed(self, name: str, label: str) -> StudyNetwork | None:
        """The network of a name at the deployment of a label; None where there is none."""
        if (own := self.network(name)) is None:
            return None
        same = self.baselines.values() if own.trial is None else self.networks_of(own.trial)
        alike = (network for network in same if network.own_name == own.own_name)
        return next((network for network in alike if label in labels(network.deployment)), None)

    def last_network(self, trial: int) -> StudyNetwork | None:
        """What a trial came to: the first of its last round; None if it has no network."""
        networks = self.networks_of(trial)
        last = max((network.result.round for network in networks), default=0)
        return next((network for network in networks if network.result.round == last), None)

    def key(self, trial: int) -> str:
        """The name of the network that a trial came to; the trial's number where it has none."""
        network = self.last_network(trial)
        return str(trial) if network is None else network.name

    def title(self, name: str) -> str:
        """What the network of a name is called; the name itself where there is none."""
        network = self.network(name)
        return name if network is None else network.title

    def networks_of(self, trial: int) -> list[StudyNetwork]:
        """A trial's networks, by round, each at its own deployment and then at further ones."""
        return self._by_trial.get(trial, [])

    @cached_property
    def _by_trial(self) -> dict[int, list[StudyNetwork]]:
        found: dict[int, list[StudyNetwork]] = {}
        for network in self.networks.values():
            if network.trial is not None:
                found.setdefault(network.trial, []).append(network)
        return found

    @cached_property
    def _last_measured(self) -> dict[str, Mapping[str, NormalizedLatency]]:
        """The last interleaved measurements of the trials' networks, by name."""
        return self._with_twins(self._own_networks)

    def _with_twins(self, networks: Sequence[StudyNetwork]) -> dict[str, Mapping[str, NormalizedLatency]]:
        """The last interleaved measurements, with those of networks that have none of their own.

        Latency depends on channels and deployment alone. So networks that have those of a confirmed one share its
        measurement; else an unconfirmed twin could seem faster and push the confirmed one from the front.
        """
        confirmed = self.study.confirmed
        if not confirmed:
            return {}
        keys = {network.name: _key(network) for network in networks if network.figures.channels}
        by_key = {keys[name]: confirmed[name] for name in keys if name in confirmed}
        twins = {name: by_key[key] for name, key in keys.items() if key in by_key}
        return {**twins, **confirmed}

    def _current(self, network: StudyNetwork, confirmed: Mapping[str, Mapping[str, NormalizedLatency]]) -> StudyNetwork:
        """The network as it is known now: latencies of its last measurement, as shares of the dense network's last one,
        and its ONNX file."""
        result = network.result.with_latencies(confirmed.get(network.name, {}))
        related = {}
        for target in self.targets:
            latency, dense_ms = result.figures.latencies.get(target.name), self.dense_ms(target)
            if latency is not None and dense_ms:
                related[target.name] = replace(latency, ratio_to_dense=latency.ms / dense_ms)
        result = result.with_latencies(related)
        # A finished trial takes no more attributes, and only the front is exported, when the study ends.
        if (exported := self.study.exports.get(network.name)) is not None:
            result = replace(result, files=NetworkFiles(result.files.checkpoint, exported))
        main = self.main.name if self.main is not None else next(iter(result.figures.latencies), "")
        return replace(network, result=result, target=main)

    def dense_ms(self, target: StudiedTarget) -> float | None:
        """The dense network's latency on a target in ms as tables show it: confirmed, or else the baseline's."""
        known = self.study.confirmed.get("dense", {}).get(target.name)
        if known is None and (dense := self.study.baselines.get("dense")) is not None:
            known = dense.network.figures.latencies.get(target.name)
        return target.dense_ms if known is None else known.ms

    # The budget

    def excess(self, network: StudyNetwork) -> dict[str, float]:
        """How far a network is over the budgets, as a share of each, by target or by what is limited beside latency;
        empty if it is over none."""
        found = {target.name: target.violation(network.latencies.get(target.name)) for target in self.targets}
        found |= {figure.name: figure.violation(network.figures) for figure in self.study.figures}
        return {name: over for name, over in found.items() if over > 0}

    def edges(self, network: StudyNetwork) -> list[str]:
        """The targets on whose budgets' edges a network is: above the limit, which lies within its 95 % interval."""
        return [target.name for target in self.targets if target.is_on_edge(network.latencies.get(target.name))]

    def is_confirmed(self, network: StudyNetwork) -> bool:
        """Whether it, or one of its channels, was measured in an interleaved run at the study's end."""
        return network.name in self._last_measured

    def misses_budget(self, network: StudyNetwork) -> bool:
        """Whether the last measurement put a network over a budget that it met at first."""
        return self.is_confirmed(network) and bool(self.excess(network))

    @property
    def candidates(self) -> list[StudyNetwork]:
        """The networks that may stand on the front: recovered, measured, and within the budget when they ended."""
        return [network for network in self.networks.values() if network.result.is_candidate]

    @property
    def fallen(self) -> list[StudyNetwork]:
        """The candidates that only the last measurement put over a budget."""
        return [network for network in self.candidates if self.misses_budget(network)]

    @cached_property
    def nearest(self) -> StudyNetwork | None:
        """See `nearest`."""
        missed: list[tuple[float, StudyNetwork]] = []
        for network in self.networks.values():
            violation = network.figures.violation
            if self.misses_budget(network):
                violation = max(self.excess(network).values())
            if violation is not None and violation > 0:
                missed.append((violation, network))
        return min(missed, key=lambda row: (row[0], row[1].trial or 0), default=(0.0, None))[1]

    # The front

    def point(self, network: StudyNetwork) -> tuple[float, ...] | None:
        """What decides on dominance: map50_95, the latencies that are judged, in ms, and then other figures. None if
        one of them is missing."""
        latencies = [network.latencies.get(target.name) for target in self.judged]
        if not latencies and not self.judged_figures:
            latencies = [network.latency]
        judged = [None if latency is None else latency.ms for latency in latencies]
        judged += [figure.of(network.figures) for figure in self.judged_figures]
        known = [value for value in judged if value is not None]
        return (network.map50_95, *known) if len(known) == len(judged) else None

    @property
    def dense_point(self) -> list[float] | None:
        """What the dense network has of all but accuracy, in the order of `point`; None while it is not known."""
        known = [*map(self.dense_ms, self.judged), *(figure.dense for figure in self.judged_figures)]
        values = [value for value in known if value]
        return values if values and len(values) == len(known) else None

    @cached_property
    def front(self) -> list[StudyNetwork]:
        """See `front`."""
        points = {network.name: self.point(network) for network in self.candidates if not self.misses_budget(network)}
        scored = [(self.networks[name], point) for name, point in points.items() if point is not None]
        kept = nondominated([point for _, point in scored])
        first: dict[Any, tuple[StudyNetwork, tuple[float, ...]]] = {}
        for (network, point), stays in zip(scored, kept, strict=True):
            if stays:
                first.setdefault((point, _key(network)), (network, point))
        return [item for item, _ in sorted(first.values(), key=lambda row: (row[1][1], -row[1][0], row[0].trial or 0))]

    @cached_property
    def baseline_front(self) -> list[StudyNetwork]:
        """The sceptic's curve: the baselines at all deployments that no other dominates, by rising latency, within the
        budget or not. What can be had without pruning."""
        return self._undominated(self.baselines.values())

    @cached_property
    def rivals(self) -> list[StudyNetwork]:
        """The sceptic's curve of the baselines within the budget: what the front is compared with."""
        return self._undominated(network for network in self.baselines.values() if not self.excess(network))

    def rival(self, network: StudyNetwork) -> StudyNetwork | None:
        """The most accurate baseline within the budget that is no slower than a network on any target that is judged;
        None if no baseline is that fast."""
        own = self.point(network)
        known = [(rival, point) for rival in self.rivals if (point := self.point(rival)) is not None]
        no_slower = [
            rival
            for rival, point in known
            if own is not None and all(theirs <= mine for theirs, mine in zip(point[1:], own[1:], strict=True))
        ]
        return max(no_slower, key=lambda rival: rival.map50_95, default=None)

    def beats_baselines(self, network: StudyNetwork) -> bool:
        """Whether it is more accurate than every baseline within the budget that is no slower on any target that is
        judged: neither dominated by the sceptic's curve nor equal to it."""
        rival = self.rival(network)
        return rival is None or network.map50_95 > rival.map50_95

    def _undominated(self, networks: Iterable[StudyNetwork]) -> list[StudyNetwork]:
        """Those that no other dominates, by rising latency; of equal values the first."""
        scored = {point: network for network in reversed(list(networks)) if (point := self.point(network)) is not None}
        kept = nondominated(list(scored))
        members = [point for point, stays in zip(scored, kept, strict=True) if stays]
        return [scored[point] for point in sorted(members, key=lambda point: (point[1], -point[0]))]

    @property
    def best(self) -> StudyNetwork | None:
        """See `best`."""
        # The front ascends in what is minimised first, and `max` keeps the first of equals: the faster one.
        return max(self.front, key=lambda network: network.map50_95, default=None)

    @property
    def hypervolume(self) -> float | None:
        """The front's hypervolume; None while the dense network is not measured."""
        return self._hypervolume(self.front)

    @property
    def hypervolume_baselines(self) -> float | None:
        """That of the sceptic's curve within the budget, with the same references; None while the dense network is not
        measured."""
        return self._hypervolume(self.rivals)

    def _hypervolume(self, networks: Sequence[StudyNetwork]) -> float | None:
        if (references := self.dense_point) is None:
            return None
        return hypervolume([point for point in map(self.point, networks) if point is not None], references)

    # Trials

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many trials ended how. `interrupted` ones say nothing of their recipe, which is tried again; `rounds` are
        the networks that others had on their way."""
        kinds = Counter(_kind(trial, self.records[trial.number]) for trial in self.trials)
        kinds["rounds"] = sum(len({item.result.round for item in networks}) - 1 for networks in self._by_trial.values())
        return {name: kinds[name] for name in _KINDS}

    def trial(self, number: int) -> FrozenTrial | None:
        """The trial of a number."""
        return self._numbered.get(number)

    @cached_property
    def _numbered(self) -> dict[int, FrozenTrial]:
        return {trial.number: trial for trial in self.trials}

    def outcome(self, network: StudyNetwork) -> Outcome | None:
        """How the trial of a network ended; None where it has not, or for a baseline."""
        return None if network.trial is None else self.records[network.trial].outcome

    def noisy(self, network: StudyNetwork) -> dict[str, float]:
        """How far a network's latencies may be off, as a share, by target; only those that are off by 5 % and more."""
        told = {target: latency.uncertainty for target, latency in network.latencies.items()}
        return {target: share for target, share in told.items() if share is not None and share >= NOISY}

    def test_accuracy(self, name: str) -> Accuracy | None:
        """A network's accuracy on the test split; None where it was not tested."""
        return self.study.test.get(name)


Source: TypeAlias = Study | Findings
"""Where tables, figures and reports read from."""


def front(study: Source) -> list[StudyNetwork]:
    """The feasible networks that no other dominates, by rising latency.

    A member is recovered and surely over no budget: what a trial came to, or what it had after an earlier round.
    Accuracy is map50_95; latencies are the confirmed ones where the study measured again at its end. On which targets
    they count, the study's objectives say; the order is that of the main target. Of networks with equal values,
    channels and deployments the first one stays.
    """
    return Findings.of(study).front


def best(study: Source) -> StudyNetwork | None:
    """The most accurate network within the budget; the faster of equals; None without a feasible one."""
    return Findings.of(study).best


def nearest(study: Source) -> StudyNetwork | None:
    """The network over the budget that missed it by least; None if none missed it."""
    return Findings.of(study).nearest


def front_document(study: Source, folder: Path | None = None) -> dict[str, Any]:
    """The front and all that is needed to read it, as strict JSON: what `prunetune front --json` prints.

    With the study's `folder`, paths lead there from where the reader stands; without, they start in the folder.
    `nearest` is None unless the front is empty. `hypervolume` is None until the dense network is measured.
    `baselines` has the controls at all deployments that no other dominates, by rising latency; `hypervolume_baselines`
    is that of those within the budget.
    """
    found = Findings.of(study)
    closest = None if found.front else found.nearest
    return {
        "study": found.name,
        "front": [network_document(found, network, folder) for network in found.front],
        "controls": {name: network.within(folder).as_dict() for name, network in found.baselines.items()},
        "baselines": [network_document(found, network, folder) for network in found.baseline_front],
        "targets": [target.as_dict() for target in found.targets],
        "figures": [figure.as_dict() for figure in found.study.figures],
        "hypervolume": found.hypervolume,
        "hypervolume_baselines": found.hypervolume_baselines,
        "nearest": closest.within(folder).as_dict() if closest else None,
        "trials": found.counts,
    }


def network_document(found: Findings, network: StudyNetwork, folder: Path | None) -> dict[str, Any]:
    """A network as strict JSON; `on_edge` has the targets on whose budgets' edges it is."""
    return {**network.within(folder).as_dict(), "on_edge": found.edges(network)}


def outcome_text(trial: FrozenTrial, record: TrialRecord) -> str:
    """How a trial ended, or that it runs or waits; empty for a finished one of unknown outcome."""
    if not trial.state.is_finished():
        return trial.state.name
    return "" if record.outcome is None else record.outcome.value


def _key(network: StudyNetwork) -> tuple[Any, ...]:
    """Equal for networks with equal channels and deployments; one of unknown channels is equal to itself only."""
    channels = tuple(sorted(network.figures.channels.items()))
    return (network.deployment, network.figures.params, *channels) if channels else (network.name,)


def _kind(trial: FrozenTrial, record: TrialRecord) -> str:
    outcome = record.outcome
    if not trial.state.is_finished():
        return trial.state.name.lower()
    if outcome is not None and not outcome.counts:
        return "interrupted"
    if trial.state is TrialState.FAIL:
        return "failed"
    if outcome in (Outcome.OVER_BUDGET, Outcome.STOPPED_EARLY):
        return outcome.value.lower()
    return "complete" if outcome in (Outcome.OK, None) else "failed"
