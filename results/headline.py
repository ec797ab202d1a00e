"""What a study found, in words."""

from __future__ import annotations

from html import escape

from prunetune.results.entries import Entry, mapping, number, recipe_text, text
from prunetune.results.findings import Findings
from prunetune.results.studied_target import StudiedTarget
from prunetune.results.tables import budget_text, decimals, latencies_text, percent, size

LEARNT = 0.05
"""Below this mAP50-95 a dense network's accuracy is noise."""

COMPARED = ("half-width", "dense")
"""The controls that the winner is compared with, the one to beat first."""


def headline(found: Findings) -> str:
    """The top of the report as HTML: what was searched, what was found, and what to be wary of."""
    winner = found.best
    lines = [f'<p class="soft">{escape(searched(found))}</p>']
    if winner is not None:
        lines.append(f'<p class="headline">{escape(won(found, winner))}</p>')
        lines.append(f'<p class="soft">Its recipe: {escape(recipe_text(winner.recipe) or "not recorded")}.</p>')
        if winner.onnx is not None:
            lines.append(
                '<p class="soft">It lies beside this report: <code>best.pt</code> for ultralytics, to validate, train '
                "on or export, and <code>best.onnx</code> for everything else.</p>"
            )
    else:
        lines.append(f'<p class="headline">{escape(missed(found))}</p>')
    lines += [f'<p class="note">{escape(words)}</p>' for words in cautions(found)]
    if winner is not None:
        facts = {
            "mAP50-95": decimals(winner.map50_95),
            "latency": latencies_text(winner),
            "parameters": size(winner.params),
            "parameters removed": percent(winner.params_removed),
            "on the front": str(len(found.front)),
            "hypervolume": "" if found.hypervolume is None else decimals(found.hypervolume),
        }
        boxes = [f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items() if value]
        lines.append(f'<dl class="facts">{"".join(boxes)}</dl>')
    return "\n".join(lines)


def searched(found: Findings) -> str:
    """What the study searched: how many recipes, over which parameters, for which model, data and target."""
    spec = mapping(found.attributes.get("spec"))
    names = list(dict.fromkeys(name for trial in found.trials for name in trial.params))
    count = len(found.trials)
    words = f"{count} {'trial' if count == 1 else 'trials'}"
    if names:
        words += f" over {', '.join(name.replace('_', ' ') for name in names)}"
    if text(spec.get("model")):
        words += f"; {spec['model']}"
        words += f" on {spec['data']}" if text(spec.get("data")) else ""
        words += f" at {spec['imgsz']} px" if number(spec.get("imgsz")) else ""
    if found.targets:
        words += "; target " + " and ".join(map(_described, found.targets))
    budget = budget_text(found)
    return f"{words}; {budget}." if budget else f"{words}."


def _described(target: StudiedTarget) -> str:
    alignment = "" if target.alignment is None else f"channels in multiples of {target.alignment}"
    return f"{target.name} ({', '.join(part for part in (target.kind, alignment) if part)})"


def won(found: Findings, winner: Entry) -> str:
    """The most accurate member in numbers, and against the controls."""
    within = " within the budget" if any(target.has_budget for target in found.targets) else ""
    words = [
        f"The most accurate network{within} is trial {winner.trial}: mAP50-95 {decimals(winner.map50_95)} at "
        f"{latencies_text(winner)}."
    ]
    for name in COMPARED:
        control = found.controls.get(name)
        if control is not None:
            words += [_against(winner, control, name)]
    tested = _tested(found, winner)
    return " ".join([*(sentence for sentence in words if sentence), *tested])


def missed(found: Findings) -> str:
    """Why there is no winner."""
    if not found.trials:
        return "No trial has started yet."
    ended = found.counts
    if ended["running"] and not (ended["complete"] or ended["over_budget"] or ended["failed"]):
        return "No trial has finished yet."
    if ended["failed"] and not (ended["complete"] or ended["over_budget"]):
        return f"No trial gave a network: {ended['failed']} failed. The table of trials says why."
    words = f"No trial met the {budget_text(found) or 'conditions'}."
    near = found.nearest
    if near is not None and near.latency_ms is not None:
        words += f" The nearest is trial {near.trial} at {latencies_text(near)}"
        excess = found.excess(near)
        if excess:
            worst = max(excess, key=lambda name: excess[name])
            words += f", {percent(excess[worst])} over the limit" + (f" on {worst}" if len(found.targets) > 1 else "")
        words += f" ({recipe_text(near.recipe)})." if near.recipe else "."
    return words


def cautions(found: Findings) -> list[str]:
    """What a reader should know before trusting the numbers."""
    notes = [
        f"The latency on {target.name} is predicted by a table, not measured."
        for target in found.targets
        if target.kind == "table"
    ]
    late = [f"trial {item.trial} ({latencies_text(item)})" for item in found.fallen]
    if late:
        notes.append(f"Off the front, because over the {budget_text(found)} when measured again: {', '.join(late)}.")
    noisy = {str(item.trial): found.noisy(item) for item in found.front}
    noisy |= {name: found.noisy(item) for name, item in found.controls.items()}
    if any(noisy.values()):
        worst = max(share for shares in noisy.values() for share in shares.values())
        names = ", ".join(f"trial {name}" if name.isdigit() else name for name, shares in noisy.items() if shares)
        notes.append(
            f"The machine was busy when latency was measured: that of {names} is known to {percent(worst)} only. "
            "Measure again on a quiet one before you decide."
        )
    dense = found.controls.get("dense")
    if dense is not None and dense.map50_95 is not None and dense.map50_95 < LEARNT:
        notes.append(
            f"The dense network has hardly learnt (mAP50-95 {decimals(dense.map50_95)}), so accuracies do not compare "
            "yet: give the trainings more epochs."
        )
    unmeasured = [str(item.trial) for item in found.front if str(item.trial) not in found.confirmed]
    if found.front and found.confirmed and unmeasured:
        notes.append(f"Not yet measured again beside the others: trial {', '.join(unmeasured)}.")
    failed = found.counts["failed"]
    if failed:
        notes.append(f"Failed: {failed} of {len(found.trials)} trials; the table of trials says why.")
    return notes


def _against(winner: Entry, control: Entry, name: str) -> str:
    parts = []
    if winner.map50_95 is not None and control.map50_95 is not None:
        points = 100 * (winner.map50_95 - control.map50_95)
        parts.append(f"{abs(points):.1f} points {'above' if points >= 0 else 'below'}")
    for target, mine in winner.latencies.items():
        theirs = control.latencies.get(target)
        if theirs is not None:
            where = f" on {target}" if len(winner.latencies) > 1 else ""
            parts.append(f"{theirs.latency_ms / mine.latency_ms:.2f} times as fast{where}")
    if not parts:
        return ""
    values = f"{decimals(control.map50_95)}, {latencies_text(control)}"
    return f"Against {name} ({values}) it is {' and '.join(parts)}."


def _tested(found: Findings, winner: Entry) -> list[str]:
    mine = number(found.test_accuracy(str(winner.trial)).get("map50_95"))
    if mine is None:
        return []
    others = {name: number(found.test_accuracy(name).get("map50_95")) for name in COMPARED}
    against = ", ".join(f"{name} {decimals(value)}" for name, value in others.items() if value is not None)
    compared = f" ({against})" if against else ""
    return [f"On the test split, which chose nothing, it has {decimals(mine)}{compared}."]
