"""What a study found, in words."""

from __future__ import annotations

from html import escape
from typing import Any

from prunetune.results.entries import Entry, mapping, number, recipe_text, text
from prunetune.results.findings import Findings
from prunetune.results.tables import budget_text, decimals, percent, significant, size
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.errors import ConfigError

COMPARED = ("half-width", "dense")
"""The controls that the winner is compared with, the one to beat first."""


def headline(found: Findings) -> str:
    """The top of the report as HTML: what was searched, what was found, and what to be wary of."""
    winner = found.best
    lines = [f'<p class="soft">{escape(searched(found))}</p>']
    if winner is not None:
        lines.append(f'<p class="headline">{escape(won(found, winner))}</p>')
        lines.append(f'<p class="soft">Its recipe: {escape(recipe_text(winner.recipe) or "not recorded")}.</p>')
    else:
        lines.append(f'<p class="headline">{escape(missed(found))}</p>')
    lines += [f'<p class="note">{escape(words)}</p>' for words in cautions(found)]
    if winner is not None:
        facts = {
            "mAP50-95": decimals(winner.map50_95),
            "latency": f"{significant(winner.latency_ms)} ms",
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
    spec, target = mapping(found.attributes.get("spec")), mapping(found.attributes.get("target"))
    names = list(dict.fromkeys(name for trial in found.trials for name in trial.params))
    count = len(found.trials)
    words = f"{count} {'trial' if count == 1 else 'trials'}"
    if names:
        words += f" over {', '.join(name.replace('_', ' ') for name in names)}"
    if text(spec.get("model")):
        words += f"; {spec['model']}"
        words += f" on {spec['data']}" if text(spec.get("data")) else ""
        words += f" at {spec['imgsz']} px" if number(spec.get("imgsz")) else ""
    if text(target.get("name")):
        kind = [text(target.get("kind")) or ""]
        kind += [_alignment(target.get("alignment"))]
        words += f"; target {target['name']} ({', '.join(part for part in kind if part)})"
    budget = budget_text(found)
    return f"{words}; {budget}." if budget else f"{words}."


def _alignment(stored: Any) -> str:
    """The target's alignment in words; nothing where a study stored none."""
    try:
        return f"channels in multiples of {Alignment.parse(stored)}"
    except ConfigError:
        return ""


def won(found: Findings, winner: Entry) -> str:
    """The most accurate member in numbers, and against the controls."""
    within = " within the budget" if found.budget_ms is not None else ""
    words = [
        f"The most accurate network{within} is trial {winner.trial}: mAP50-95 {decimals(winner.map50_95)} at "
        f"{significant(winner.latency_ms)} ms."
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
    words = f"No trial met the {budget_text(found) or 'conditions'}."
    near = found.nearest
    if near is not None and near.latency_ms is not None:
        words += f" The nearest is trial {near.trial} at {significant(near.latency_ms)} ms"
        if found.budget_ms:
            words += f", {percent(near.latency_ms / found.budget_ms - 1)} over the limit"
        words += f" ({recipe_text(near.recipe)})." if near.recipe else "."
    return words


def cautions(found: Findings) -> list[str]:
    """What a reader should know before trusting the numbers."""
    notes = []
    limit = found.budget_ms
    if limit is not None:
        late = [f"trial {item.trial} ({significant(item.latency_ms or 0)} ms)" for item in found.fallen]
        if late:
            notes.append(
                f"Off the front, because over the limit of {significant(limit)} ms when measured again: "
                f"{', '.join(late)}."
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
    if winner.latency_ms and control.latency_ms:
        parts.append(f"{control.latency_ms / winner.latency_ms:.2f} times as fast")
    if not parts:
        return ""
    values = f"{decimals(control.map50_95)}, {significant(control.latency_ms)} ms"
    return f"Against {name} ({values}) it is {' and '.join(parts)}."


def _tested(found: Findings, winner: Entry) -> list[str]:
    mine = number(found.test_accuracy(str(winner.trial)).get("map50_95"))
    if mine is None:
        return []
    others = {name: number(found.test_accuracy(name).get("map50_95")) for name in COMPARED}
    against = ", ".join(f"{name} {decimals(value)}" for name, value in others.items() if value is not None)
    compared = f" ({against})" if against else ""
    return [f"On the test split, which chose nothing, it has {decimals(mine)}{compared}."]
