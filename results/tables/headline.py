"""What a study found, in words."""

from __future__ import annotations

from dataclasses import dataclass

from prunetune.results.findings.findings import Findings
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import Comparison, Confirmation, StudiedTarget
from prunetune.results.tables.rows import (
    budget_text,
    decimals,
    earlier_rounds,
    edge_text,
    latencies_text,
    percent,
    size,
    trained_text,
)
from prunetune.spaces.deployment import size_text
from prunetune.spaces.fields import number, text
from prunetune.targets.budget import FIGURES

LEARNT = 0.05
"""Below this mAP50-95 a dense network's accuracy is noise."""

COMPARED = ("half-width", "dense")
"""The controls that the winner is compared with, the one to beat first."""

NAMED = 3
"""So many baselines are named that are as good as the front."""


@dataclass(frozen=True)
class Summary:
    """The top of a report."""

    searched: str
    verdict: str
    """What won, or why nothing did."""
    recipe: str | None
    """The winner's."""
    has_files: bool
    """Whether the winner's files lie beside the report."""
    sure: tuple[str, ...]
    """How far the verdict can be trusted."""
    cautions: tuple[str, ...]
    facts: dict[str, str]


def summary(found: Findings) -> Summary:
    """What was searched, what was found, how sure it is, and what to be wary of."""
    winner = found.best
    facts = {}
    if winner is not None:
        told = {
            "mAP50-95": decimals(winner.map50_95),
            "latency": latencies_text(winner),
            "parameters": size(winner.figures.params),
            "parameters removed": percent(winner.figures.params_removed),
            "on the front": str(len(found.front)),
            "hypervolume": decimals(found.hypervolume),
            "hypervolume without pruning": decimals(found.hypervolume_baselines) if found.baseline_front else "",
        }
        facts = {name: value for name, value in told.items() if value}
    return Summary(
        searched=searched(found),
        verdict=missed(found) if winner is None else won(found, winner),
        recipe=None if winner is None else winner.recipe_text or "not recorded",
        has_files=winner is not None and winner.onnx is not None,
        sure=() if winner is None else tuple(how_sure(found, winner)),
        cautions=tuple(cautions(found)),
        facts=facts,
    )


def searched(found: Findings) -> str:
    """What the study searched: how many recipes, over which parameters, for which model, data and target."""
    spec = found.study.spec
    names = list(dict.fromkeys(name for trial in found.trials for name in trial.params))
    rounds, count = found.counts["rounds"], len(found.trials)
    words = f"{count} {'trial' if count == 1 else 'trials'}"
    words += f" and {earlier_rounds(rounds)}" if rounds else ""
    if names:
        words += f" over {', '.join(name.replace('_', ' ') for name in names)}"
    if text(spec.get("model")):
        words += f"; {spec['model']}"
        words += f" on {spec['data']}" if text(spec.get("data")) else ""
        words += f" at {spec['imgsz']} px" if number(spec.get("imgsz")) else ""
        if len(found.study.sizes) > 1:
            words += f", deployed at {', '.join(map(size_text, found.study.sizes))} px"
    if found.targets:
        words += "; target " + " and ".join(map(_described, found.targets))
    budget = budget_text(found)
    return f"{words}; {budget}." if budget else f"{words}."


def _described(target: StudiedTarget) -> str:
    alignment = "" if target.alignment is None else f"channels in multiples of {target.alignment}"
    return f"{target.name} ({', '.join(part for part in (target.kind, alignment) if part)})"


def won(found: Findings, winner: StudyNetwork) -> str:
    """What the front has that no control has, the most accurate member in numbers, and against the controls."""
    limit = edge_text(found, winner) or "within the budget"
    within = f" {limit}" if budget_text(found) else ""
    words = [
        against_baselines(found, winner),
        f"The most accurate network{within} is {winner.title}: mAP50-95 {decimals(winner.map50_95)} at "
        f"{latencies_text(winner)}.",
    ]
    for name in COMPARED:
        control = found.baselines.get(name)
        if control is not None:
            words += [_against(winner, control, name)]
    return " ".join(sentence for sentence in words if sentence)


def against_baselines(found: Findings, winner: StudyNetwork) -> str:
    """A sentence on the front against what can be had without pruning, at all deployments; empty without baselines.

    Args:
        found: The study.
        winner: The most accurate member of the front.
    """
    if not found.baseline_front:
        return ""
    if not any(map(found.beats_baselines, found.front)):
        return f"The front does not beat what can be had without pruning: {_ahead(found)}."
    words = f"At {latencies_text(winner)}: {decimals(winner.map50_95)}; "
    rival, best = found.rival(winner), max(found.rivals, key=lambda rival: rival.map50_95, default=None)
    if rival is not None:
        words += f"without pruning, the best is {rival.title} with {decimals(rival.map50_95)}"
    else:
        words += "without pruning, none is that fast"
    if best is not None and best is not rival:
        within = "within the budget" if any(target.has_budget for target in found.targets) else "at any latency"
        words += f", and the best {within} is {best.title} with {decimals(best.map50_95)} at {latencies_text(best)}"
    shares = [found.noisy(network).values() for network in (winner, rival, best) if network is not None]
    off = max((share for known in shares for share in known), default=0.0)
    return f"{words}; these latencies are known to {percent(off)} only." if off else f"{words}."


def _ahead(found: Findings) -> str:
    """Which baselines are as good as the front, each with the most accurate member that it is as good as."""
    pairs: dict[str, tuple[StudyNetwork, StudyNetwork]] = {}
    for member in found.front:  # accuracy rises with latency, so that the last one stays
        if (rival := found.rival(member)) is not None:
            pairs[rival.name] = rival, member
    return "; ".join(
        f"{rival.title} has {decimals(rival.map50_95)} at {latencies_text(rival)}, where {member.title} has "
        f"{decimals(member.map50_95)} at {latencies_text(member)}"
        for rival, member in list(pairs.values())[-NAMED:]
    )


def how_sure(found: Findings, winner: StudyNetwork) -> list[str]:
    """How far the verdict on the winner can be trusted: unseen images, intervals, noise, chance."""
    confirmed = found.study.confirmation
    words = _tested(found, winner) if confirmed is None else _confirmed(found, confirmed, winner)
    if confirmed is None:
        words += _timed(found, winner)
        words.append(
            "No interval is known for accuracies yet: prunetune confirm resamples the images and measures the front "
            "again with the controls."
        )
    words.append(
        "Each network was trained once, with one seed: another seed moves accuracies as well, which no interval here "
        "covers."
    )
    return words


def missed(found: Findings) -> str:
    """Why there is no winner."""
    if not found.trials:
        return "No trial has started yet."
    ended = found.counts
    if ended["running"] and not (ended["complete"] or ended["over_budget"] or ended["failed"]):
        return "No trial has finished yet."
    if ended["failed"] and not (ended["complete"] or ended["over_budget"]):
        return f"No trial gave a network: {ended['failed']} failed. They are listed below."
    words = f"No trial met the {budget_text(found) or 'conditions'}."
    near = found.nearest
    if near is not None and near.latency_ms is not None:
        words += f" The nearest is {near.title} at {latencies_text(near)}"
        excess = found.excess(near)
        if excess:
            worst = max(excess, key=lambda name: excess[name])
            words += f", {percent(excess[worst])} over the limit" + (
                f" on {worst}" if len(found.targets) > 1 or worst in FIGURES else ""
            )
        words += f" ({near.recipe_text})." if near.recipe else "."
    return words


def cautions(found: Findings) -> list[str]:
    """What a reader should know before trusting the numbers."""
    notes = [
        f"The latency on {target.name} is predicted by a table, not measured."
        for target in found.targets
        if target.kind == "table"
    ]
    if found.study.data.left_out is not None:
        notes.append(f"Of the data set {found.study.data.left_out}.")
    notes += [
        f"Splits share images: {item}. Accuracy there says less of new images." for item in found.study.data.shared
    ]
    late = [f"{network.title} ({latencies_text(network)})" for network in found.fallen]
    if late:
        notes.append(f"Off the front, because over the {budget_text(found)} when measured again: {', '.join(late)}.")
    edge = [f"{network.title} ({latencies_text(network)})" for network in found.front if found.edges(network)]
    if edge:
        notes.append(
            f"On the edge of the {budget_text(found)}, which lies within the 95 % interval of their latency: "
            f"{', '.join(edge)}."
        )
    noisy = {network.title: found.noisy(network) for network in (*found.front, *found.baselines.values())}
    if any(noisy.values()):
        worst = max(share for shares in noisy.values() for share in shares.values())
        names = "; ".join(title for title, shares in noisy.items() if shares)
        notes.append(
            f"The machine was busy when latency was measured: that of {names} is known to {percent(worst)} only. "
            "Measure again on a quiet one before you decide."
        )
    dense = found.baselines.get("dense")
    if dense is not None and dense.map50_95 < LEARNT:
        notes.append(
            f"The dense network has hardly learnt (mAP50-95 {decimals(dense.map50_95)}), so accuracies do not compare "
            "yet: give the trainings more epochs."
        )
    for name, baseline in found.study.baselines.items():
        if baseline.points_lost is not None and not found.baselines[name].is_deployed_further:
            notes.append(
                f"{name.capitalize()} stands {trained_text(baseline)}, {baseline.points_lost:.1f} points less. "
                "Recoveries may have lost as much: give more epochs, or a smaller train.lr0."
            )
    unmeasured = [network.title for network in found.front if not found.is_confirmed(network)]
    if found.study.confirmed and unmeasured:
        notes.append(f"Not yet measured again beside the others: {', '.join(unmeasured)}.")
    failed = found.counts["failed"]
    if failed:
        notes.append(f"Failed: {failed} of {len(found.trials)} trials; see below why.")
    return notes


def _against(winner: StudyNetwork, control: StudyNetwork, name: str) -> str:
    points = 100 * (winner.map50_95 - control.map50_95)
    parts = [
        f"{abs(points):.1f} points {'above' if points > 0 else 'below'}" if f"{points:.1f}" != "0.0" else "as accurate"
    ]
    for target, mine in winner.latencies.items():
        theirs = control.latencies.get(target)
        if theirs is not None:
            where = f" on {target}" if len(winner.latencies) > 1 else ""
            parts.append(_speed(theirs.ms, mine.ms) + where)
    values = ", ".join(filter(None, [decimals(control.map50_95), latencies_text(control)]))
    return f"Against {name} ({values}) it is {' and '.join(parts)}."


def _speed(theirs_ms: float, mine_ms: float) -> str:
    """How a network's latency compares with another's, in words."""
    if theirs_ms >= mine_ms:
        return f"{theirs_ms / mine_ms:.2f} times as fast"
    return f"{percent(mine_ms / theirs_ms - 1)} slower"


def _tested(found: Findings, winner: StudyNetwork) -> list[str]:
    mine = found.test_accuracy(winner.name)
    if mine is None:
        return ["It was not evaluated on a test split: the validation images that chose its checkpoint also judge it."]
    others = {name: found.test_accuracy(name) for name in COMPARED}
    against = ", ".join(f"{name} {decimals(tested.map50_95)}" for name, tested in others.items() if tested is not None)
    compared = f" ({against})" if against else ""
    return [f"On the test split{_unseen(found, 'test')}, it has {decimals(mine.map50_95)}{compared}."]


def _unseen(found: Findings, split: str) -> str:
    """What a split's images were used for before, as a clause."""
    if shared := found.study.data.shared_by(split):
        return ", " + " and ".join(
            f"{item.images} of whose {item.of} images are also in {item.first}" for item in shared
        )
    return ", which chose nothing" if split == "test" else ", which also chose the checkpoints"


def _timed(found: Findings, winner: StudyNetwork) -> list[str]:
    """What is known of the latencies' noise."""
    off = [latency.uncertainty for latency in winner.latencies.values()]
    known = [share for share in off if share is not None]
    if not known:
        return []
    again = ", measured again beside the controls" if found.is_confirmed(winner) else ""
    return [f"Its latency is known to {percent(max(known))} (95 % interval){again}."]


def _confirmed(found: Findings, confirmed: Confirmation, winner: StudyNetwork) -> list[str]:
    """What `prunetune confirm` says of the winner."""
    mine = confirmed.of(winner.name)
    if mine is None:
        return [f"The last confirmation ({confirmed.made}) does not know it: confirm again."]
    share = f"{100 * confirmed.confidence:.0f} % interval"
    unseen = _unseen(found, confirmed.split)
    words = []
    if mine.map50_95 is not None:
        told = f"{decimals(mine.map50_95.value)} ({share} {mine.map50_95.low:.3f} to {mine.map50_95.high:.3f})"
        words.append(f"On the {confirmed.images} images of the {confirmed.split} split{unseen}, it has {told}.")
    for name in COMPARED:
        if name in mine.against and (told := _difference(name, mine.against[name], len(found.targets) > 1)):
            words.append(told)
    return words


def _difference(name: str, other: Comparison, has_targets: bool) -> str:
    """A network against another, and which of the differences are larger than their uncertainty."""
    parts = []
    if other.map50_95 is not None:
        points, low, high = (100 * value for value in (other.map50_95.value, other.map50_95.low, other.map50_95.high))
        verdict = "sure" if other.is_accuracy_sure else "within its uncertainty"
        parts.append(f"{points:+.1f} points of mAP50-95 ({low:+.1f} to {high:+.1f}: {verdict})")
    for target, ratio in other.latencies.items():
        where = f" on {target}" if has_targets else ""
        verdict = "sure" if other.is_latency_sure(target) else "within its uncertainty"
        parts.append(f"{ratio.value:.3f} times its latency{where} ({ratio.low:.3f} to {ratio.high:.3f}: {verdict})")
    return f"Against {name} there: {' and '.join(parts)}." if parts else ""
