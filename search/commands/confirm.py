"""`prunetune confirm`: how sure the front is. All members and controls again, with what each figure may be off by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import optuna
import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunetune.pruning.accuracy.bootstrap import CONFIDENCE, bootstrap, percentile_interval
from prunetune.pruning.accuracy.matches import Floats, Matches, MatchRecorder
from prunetune.pruning.stages.store import digest_of
from prunetune.results.findings.findings import Findings, front
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import Comparison, Confirmation, ConfirmedNetwork, Interval, StudyRecord
from prunetune.results.tables.escapes import printable
from prunetune.results.tables.rows import significant, with_interval
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.baselines import compared
from prunetune.search.engine.engine import check, prepare_context
from prunetune.search.engine.final_measurement import load_network, measure_together, store_latencies
from prunetune.search.engine.finish import export_members, write_results
from prunetune.search.interruption import Interruption, safe_point
from prunetune.search.latency.study_target import StudyTarget
from prunetune.search.study.open_study import folder_lock, spec_here
from prunetune.search.trial import TrialContext
from prunetune.spaces import PrunetuneError
from prunetune.spaces.files import file_sha256
from prunetune.spaces.named_networks import title_of_network
from prunetune.targets import Latency

BUSY = 0.25
"""From this share of the CPU on, other programs are told of: they move latencies."""

LOOK_S = 0.5
"""How long the CPU is watched for that, in s."""

Runs = Mapping[str, Sequence[Mapping[str, Latency]]]
"""What was measured together, by target."""


def confirm_study(study: optuna.Study, folder: Path, resamples: int, console: Console) -> Confirmation:
    """Measures the front and the controls in one run, evaluates them on the test split, and compares them.

    Args:
        study: The study; gets all of it in its attributes.
        folder: Its folder; its tables and its report are written anew.
        resamples: How often the images are drawn again.
        console: Where progress is shown.

    Raises:
        PrunetuneError: There is nothing to confirm, or something that the user must mend.
        StopAskedError: As asked for; nothing was changed but what had been evaluated is kept.
    """
    spec = spec_here(study, folder)
    progress = Progress(console, spec.trials)
    with Interruption(), folder_lock(folder, ".finish"):
        try:
            progress.begin("checking model and data")
            context = prepare_context(study, check(spec, progress), progress)
            return _confirm(study, context, resamples, progress)
        finally:
            progress.end()


def _confirm(study: optuna.Study, context: TrialContext, resamples: int, progress: Progress) -> Confirmation:
    targets = context.meter.targets
    controls = _kept(compared(Findings.of(study), context.spec))
    networks = controls | _kept(front(study))
    if not networks:
        raise PrunetuneError(
            f"{study.study_name}: there is nothing to confirm: no network is on the front, and no control is trained"
        )
    busy = psutil.cpu_percent(interval=LOOK_S) / 100
    if busy >= BUSY:
        progress.say(f"other programs take {100 * busy:.0f} % of the CPU: the latencies will be less certain")
    while True:
        progress.begin(f"measuring {len(networks)} networks in one run")
        loaded = {name: load_network(context, network) for name, network in networks.items()}
        runs = {target.name: measure_together(context, target, loaded, [*controls]) for target in targets}
        store_latencies(study, context, runs)
        # The measurement can move members past each other or over the budget, and so bring up others.
        members = _kept(front(study))
        if members.keys() <= networks.keys():
            break
        networks |= members
    split = "test" if context.stages.loaders.has_test else "val"
    matches: dict[str, Matches] = {}
    for name, network in networks.items():
        safe_point()
        progress.begin(f"evaluating {network.title} on the {split} split")
        matches[name] = _matches(study, context, network, split)
    progress.begin(f"drawing the images {resamples} times")
    draws = bootstrap(matches, resamples, context.spec.seed, safe_point)
    order = [*controls, *members]
    found = Confirmation(
        split=split,
        images=next(iter(matches.values())).size,
        resamples=resamples,
        seed=context.spec.seed,
        confidence=CONFIDENCE,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        busy=round(busy, 3),
        networks={
            name: ConfirmedNetwork(
                *_accuracies(matches[name].map(), draws[name]),
                {target.name: _latency(target, runs[target.name], name) for target in targets},
                {rival: _compared(name, rival, matches, draws, runs) for rival in _rivals(name, list(controls), order)},
            )
            for name in order
        },
        shared=Findings.of(study).study.data.shared_by(split),
    )
    StudyRecord.store(study, confirmation=found)
    if StudyRecord.of(study).finished is not None:  # else its end will do it
        progress.begin("exporting")
        export_members(study, context)
        write_results(study, context.folder)
    return found


def _kept(networks: Iterable[StudyNetwork]) -> dict[str, StudyNetwork]:
    """Those that have a checkpoint, by name."""
    return {network.name: network for network in networks if network.checkpoint}


def _rivals(name: str, controls: Sequence[str], order: Sequence[str]) -> list[str]:
    """Whom a network is compared with: the controls, and the next slower member of the front."""
    members = [other for other in order if other not in controls]
    slower = [after for before, after in pairwise(members) if before == name]
    return [other for other in controls if other != name] + slower


def _matches(study: optuna.Study, context: TrialContext, network: StudyNetwork, split: str) -> Matches:
    """What a network finds on a split: read back, or evaluated and kept. Its accuracy on the test split is stored."""
    name, deployment = network.name, network.deployment
    sha256 = file_sha256(context.folder / str(network.checkpoint))
    key = digest_of([sha256, split, deployment.as_dict(), context.dataset.fingerprint])
    kept = context.folder / "confirmation" / f"{name}-{key}.npz"
    tested = StudyRecord.of(study).test
    if kept.is_file() and (split != "test" or name in tested):
        return Matches.load(kept)
    recorder = MatchRecorder()
    accuracy = context.shipping.evaluate(*load_network(context, network), split, recorder)
    matches = recorder.matches()
    matches.save(kept)
    if split == "test":
        StudyRecord.store(study, test={**tested, name: accuracy})
    return matches


def _accuracies(values: Sequence[float], draws: Floats) -> tuple[Interval | None, Interval | None]:
    """mAP50 and map50_95, or differences of them, with their intervals; None where no image has an object."""
    map50, map50_95 = (_interval(value, *percentile_interval(draws[:, column])) for column, value in enumerate(values))
    return map50, map50_95


def _interval(value: float, low: float, high: float) -> Interval | None:
    return Interval(value, low, high) if all(map(math.isfinite, (value, low, high))) else None


def _latency(target: StudyTarget, runs: Iterable[Mapping[str, Latency]], name: str) -> Interval:
    """A latency in ms, as the study's latencies are normalized."""
    latency = next(measured[name] for measured in runs if name in measured)
    reference_ms = target.references_ms[target.reference]
    return Interval(*(ratio * reference_ms for ratio in (latency.ratio, latency.ratio_low, latency.ratio_high)))


def _compared(
    name: str, rival: str, matches: Mapping[str, Matches], draws: Mapping[str, Floats], runs: Runs
) -> Comparison:
    values = [own - other for own, other in zip(matches[name].map(), matches[rival].map(), strict=True)]
    ratios = {target: _ratio(measured, name, rival) for target, measured in runs.items()}
    return Comparison(*_accuracies(values, draws[name] - draws[rival]), ratios)


def _ratio(runs: Sequence[Mapping[str, Latency]], name: str, rival: str) -> Interval:
    """One latency in multiples of another: within their rounds if they had the same, else from both ratios."""
    together = next((measured for measured in runs if name in measured and rival in measured), None)
    if together is not None and together[name].samples_ms:
        latency = Latency.from_samples(together[name].samples_ms, together[rival].samples_ms)
        return Interval(latency.ratio, latency.ratio_low, latency.ratio_high)
    own, other = (next(measured[key] for measured in runs if key in measured) for key in (name, rival))
    ratio = own.ratio / other.ratio
    off = ratio * math.hypot(*(min(1.0, latency.uncertainty) for latency in (own, other)))
    return Interval(ratio, ratio - off, ratio + off)


def write_confirmation(found: Confirmation, console: Console) -> None:
    """Shows what `confirm_study` found."""
    targets = list(next(iter(found.networks.values())).latencies)
    rivals = list(dict.fromkeys(rival for network in found.networks.values() for rival in network.against))
    rivals = [rival for rival in rivals if not title_of_network(rival).startswith("trial ")]  # the controls
    table = Table("network", f"{found.split} mAP50", f"{found.split} mmAP")
    for column in [*(f"latency on {target} in ms" for target in targets), *(f"against {rival}" for rival in rivals)]:
        table.add_column(Text(printable(column)))
    for name, network in found.networks.items():
        accuracies = [
            with_interval(None if item is None else item.value, item) for item in (network.map50, network.map50_95)
        ]
        latencies = [_range(network.latencies.get(target)) for target in targets]
        against = [_difference(network.against.get(rival)) for rival in rivals]
        table.add_row(*(Text(printable(cell)) for cell in (title_of_network(name), *accuracies, *latencies, *against)))
    console.print(table)
    console.print(
        Text(
            f"* larger than its uncertainty ({100 * found.confidence:.0f} % intervals; {found.images} {found.split} "
            f"images drawn {found.resamples} times; differences of mmAP, and multiples of the latency)"
        ),
        soft_wrap=True,
    )
    for item in found.shared:
        console.print(Text(f"note: {item}: accuracy says less of new images"), soft_wrap=True)


def _range(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{significant(interval.value)} ({significant(interval.low)} to {significant(interval.high)})"


def _difference(compared: Comparison | None) -> str:
    if compared is None:
        return ""
    words = []
    if compared.map50_95 is not None:
        words.append(f"{compared.map50_95.value:+.3f}{'*' * compared.is_accuracy_sure}")
    words += [f"{ratio.value:.2f}x{'*' * compared.is_latency_sure(name)}" for name, ratio in compared.latencies.items()]
    return ", ".join(words)
