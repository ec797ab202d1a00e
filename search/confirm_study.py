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

from prunetune.pruning.bootstrap import CONFIDENCE, bootstrap, percentile_interval
from prunetune.pruning.detector import Detector
from prunetune.pruning.matches import Floats, Matches, MatchRecorder
from prunetune.pruning.store import digest_of, file_sha256
from prunetune.results import Comparison, Confirmation, ConfirmedNetwork, Interval, front
from prunetune.results.certainty import CONFIRMATION
from prunetune.results.escapes import printable
from prunetune.results.findings import Findings
from prunetune.results.tables import significant, with_interval
from prunetune.search.attributes import FINISHED
from prunetune.search.confirmation import measure_together, store_latencies
from prunetune.search.engine import measure_references
from prunetune.search.finish import export_members, write_results
from prunetune.search.interruption import Interruption
from prunetune.search.progress import Progress
from prunetune.search.study import folder_lock, spec_here
from prunetune.search.workspace import Workspace
from prunetune.search.yardstick import Yardstick
from prunetune.spaces import PrunetuneError
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
            workspace = Workspace(spec, progress.epochs)
            measure_references(study, workspace, progress)
            return _confirm(study, workspace, resamples, progress)
        finally:
            progress.end()


def _confirm(study: optuna.Study, workspace: Workspace, resamples: int, progress: Progress) -> Confirmation:
    controls, files = _controls(study, workspace), _members(study, workspace)
    if not controls and not files:
        raise PrunetuneError(
            f"{study.study_name}: there is nothing to confirm: no trial is on the front, and no control is trained"
        )
    busy = psutil.cpu_percent(interval=LOOK_S) / 100
    if busy >= BUSY:
        progress.say(f"other programs take {100 * busy:.0f} % of the CPU: the latencies will be less certain")
    while True:
        networks = controls | files
        progress.begin(f"measuring {len(networks)} networks in one run")
        detectors = {name: Detector.load(file) for name, file in networks.items()}
        runs = {item.name: measure_together(workspace, item, detectors, [*controls]) for item in workspace.yardsticks}
        store_latencies(study, workspace, runs)
        # The measurement can move members past each other or over the budget, and so bring up others.
        if not (missing := {name: file for name, file in _members(study, workspace).items() if name not in files}):
            break
        files |= missing
    split = "test" if workspace.stages.loaders.has_test else "val"
    matches: dict[str, Matches] = {}
    for name, file in networks.items():
        workspace.safe_point()
        progress.begin(f"evaluating {_called(name)} on the {split} split")
        matches[name] = _matches(study, workspace, name, file, split)
    progress.begin(f"drawing the images {resamples} times")
    draws = bootstrap(matches, resamples, workspace.spec.seed, workspace.safe_point)
    order = [*controls, *(name for name in _members(study, workspace))]
    found = Confirmation(
        split=split,
        images=next(iter(matches.values())).size,
        resamples=resamples,
        seed=workspace.spec.seed,
        confidence=CONFIDENCE,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        busy=round(busy, 3),
        networks={
            name: ConfirmedNetwork(
                *_accuracies(matches[name].map(), draws[name]),
                {item.name: _stated(item, runs[item.name], name) for item in workspace.yardsticks},
                {rival: _compared(name, rival, matches, draws, runs) for rival in _rivals(name, list(controls), order)},
            )
            for name in order
        },
        shared=Findings.of(study).data.shared_by(split),
    )
    study.set_user_attr(CONFIRMATION, found.as_dict())
    if study.user_attrs.get(FINISHED) is not None:  # else its end will do it
        progress.begin("exporting")
        export_members(study, workspace, front(study))
        write_results(study, workspace)
    return found


def _controls(study: optuna.Study, workspace: Workspace) -> dict[str, Path]:
    """The checkpoints of the controls."""
    controls = Findings.of(study).controls
    return {name: workspace.folder / item.checkpoint for name, item in controls.items() if item.checkpoint}


def _members(study: optuna.Study, workspace: Workspace) -> dict[str, Path]:
    """The checkpoints of the front, by the trials' numbers, the fastest first."""
    return {str(item.trial): workspace.folder / item.checkpoint for item in front(study) if item.checkpoint}


def _rivals(name: str, controls: Sequence[str], order: Sequence[str]) -> list[str]:
    """Whom a network is compared with: the controls, and the next slower member of the front."""
    members = [other for other in order if other not in controls]
    slower = [after for before, after in pairwise(members) if before == name]
    return [other for other in controls if other != name] + slower


def _matches(study: optuna.Study, workspace: Workspace, name: str, file: Path, split: str) -> Matches:
    """What a network finds on a split: read back, or evaluated and kept. Its accuracy on the test split is stored."""
    spec = workspace.spec
    key = digest_of([file_sha256(file), split, spec.imgsz, workspace.dataset.fingerprint, workspace.quantises])
    kept = workspace.folder / "confirmation" / f"{name}-{key}.npz"
    tested = study.user_attrs.get("test", {})
    if kept.is_file() and (split != "test" or name in tested):
        return Matches.load(kept)
    recorder = MatchRecorder()
    accuracy = workspace.evaluate(Detector.load(file), split, recorder)
    matches = recorder.matches()
    matches.save(kept)
    if split == "test":
        study.set_user_attr("test", {**tested, name: accuracy.as_dict()})
    return matches


def _accuracies(values: Sequence[float], draws: Floats) -> tuple[Interval | None, Interval | None]:
    """mAP50 and map50_95, or differences of them, with their intervals; None where no image has an object."""
    map50, map50_95 = (_interval(value, *percentile_interval(draws[:, column])) for column, value in enumerate(values))
    return map50, map50_95


def _interval(value: float, low: float, high: float) -> Interval | None:
    return Interval(value, low, high) if all(map(math.isfinite, (value, low, high))) else None


def _stated(yardstick: Yardstick, runs: Iterable[Mapping[str, Latency]], name: str) -> Interval:
    """A latency in ms, as the study states it."""
    latency = next(measured[name] for measured in runs if name in measured)
    reference_ms = yardstick.references[yardstick.anchor]
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
    rivals = [rival for rival in rivals if not rival.isdecimal()]
    table = Table("network", f"{found.split} mAP50", f"{found.split} mmAP")
    for column in [*(f"latency on {target} in ms" for target in targets), *(f"against {rival}" for rival in rivals)]:
        table.add_column(Text(printable(column)))
    for name, network in found.networks.items():
        accuracies = [
            with_interval(None if item is None else item.value, item) for item in (network.map50, network.map50_95)
        ]
        latencies = [_range(network.latencies.get(target)) for target in targets]
        against = [_difference(network.against.get(rival)) for rival in rivals]
        table.add_row(*(Text(printable(cell)) for cell in (_called(name), *accuracies, *latencies, *against)))
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


def _called(name: str) -> str:
    return f"trial {name}" if name.isdecimal() else name


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
