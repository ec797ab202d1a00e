"""A study and its trials in words, as Markdown: the notes of optuna-dashboard."""

from __future__ import annotations

from collections.abc import Callable

from optuna.trial import FrozenTrial, TrialState

from prunetune.results.entries import Entry, integer, mapping, number, outcome, recipe_text, text, unseparated
from prunetune.results.escapes import markdown_text
from prunetune.results.findings import Findings
from prunetune.results.headline import summary
from prunetune.results.recoveries import decisions
from prunetune.results.table_formats import markdown
from prunetune.results.tables import budget_text, caption, decimals, latency, percent, reading_text, significant, size

Link = Callable[[int], str]
"""The address of the page of a trial, by its number."""


def study_note(found: Findings, link: Link) -> str:
    """What was searched, what won, how sure it is, and the table of the controls and the front.

    Args:
        found: The study.
        link: Gives the addresses of trials.
    """
    told = summary(found)
    front = ", ".join(_link(item.trial, link) for item in found.front if item.trial is not None)
    running = ", ".join(_link(trial.number, link) for trial in found.trials if trial.state is TrialState.RUNNING)
    parts = [
        f"**{markdown_text(told.verdict)}**",
        markdown_text(told.searched),
        f"Recipe: {markdown_text(told.recipe)}" if told.recipe else "",
        "\n".join(f"- {markdown_text(words)}" for words in (*told.sure, *told.cautions)),
        markdown(found).rstrip("\n") if found.front or found.controls else "",
        markdown_text(caption(found)),
        f"Front: {front}" if front else "",
        f"Running: {running}" if running else "",
        "Latencies of the front are the last ones that were measured together; a trial's own values are those of its "
        "own run.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def trial_note(found: Findings, trial: FrozenTrial, link: Link) -> str:
    """A trial's recipe, figures, feasibility, decisions and costs, and the trial that it equals.

    Args:
        found: The study.
        trial: One of its trials, in any state.
        link: Gives the addresses of trials.
    """
    item, told = found.entry(trial), trial.user_attrs
    recipe = recipe_text(item.recipe)
    parts = [
        _head(found, trial),
        f"Recipe: {markdown_text(recipe)}" if recipe else "",
        _figures(item) if item.map50_95 is not None or item.latencies else "",
        "\n".join(f"- {line}" for line in [*_facts(found, trial, item, link), *_decided(trial)]),
        f"Checkpoint: `{item.checkpoint.replace('`', '')}` in the study's folder" if item.checkpoint else "",
    ]
    worker = mapping(told.get("worker"))
    if text(worker.get("host")):
        parts.append(f"Carried out by process {worker.get('pid')} on {markdown_text(str(worker['host']))}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: Findings, trial: FrozenTrial) -> str:
    how = outcome(trial) or trial.state.name
    front = "on the front" if any(item.trial == trial.number for item in found.front) else ""
    reason = text(trial.user_attrs.get("reason")) or ""
    words = [f"**{markdown_text(how.replace('_', ' ').lower())}**", front, markdown_text(reason)]
    return ", ".join(word for word in words if word)


def _figures(item: Entry) -> str:
    columns = {
        "mAP50": decimals(item.map50),
        "mmAP": decimals(item.map50_95),
        "F1": decimals(item.f1),
        "at confidence": decimals(item.confidence),
        **{
            "latency" if len(item.latencies) == 1 else f"latency@{name}": reading_text(reading)
            for name, reading in item.latencies.items()
        },
        "GFLOPs": significant(item.gflops),
        "size": size(item.params),
        "parameters removed": percent(item.params_removed),
    }
    lines = [
        [markdown_text(name) for name in columns],
        ["---:"] * len(columns),
        [*map(markdown_text, columns.values())],
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _facts(found: Findings, trial: FrozenTrial, item: Entry, link: Link) -> list[str]:
    told = trial.user_attrs
    facts = []
    for target in found.targets:
        reading = item.latencies.get(target.name)
        if reading is not None and target.budget_ms:
            share = reading.latency_ms / target.budget_ms - 1
            side = "over" if target.violation(reading) > 0 else "on the edge of" if share > 0 else "within"
            off = "above" if share > 0 else "below"
            where = f" on {target.name}" if len(found.targets) > 1 else ""
            limit = markdown_text(latency(target.budget_ms, None) + where)
            facts.append(f"{side} the budget, {percent(abs(share))} {off} {limit}")
    if facts and len(found.targets) > 1:
        facts.append(markdown_text(budget_text(found)))
    equals, latency_from = integer(told.get("equals")), integer(told.get("latency_from"))
    if (warning := unseparated(trial)) is not None:
        facts.append(markdown_text(warning))
    if equals is not None:
        facts.append(f"equals {_link(equals, link)}: the same network from the same parent")
    if latency_from is not None:
        facts.append(f"has the channels of {_link(latency_from, link)}, and so its latency")
    if (whole := found.whole_of(trial)) is not None:
        facts.append(f"the network of {_link(whole, link)} after one of its rounds: it cost nothing more")
    if rounds := [other.number for other in found.trials if found.whole_of(other) == trial.number]:
        facts.append(f"on its way to {', '.join(_link(number, link) for number in rounds)}")
    epochs, seconds = mapping(told.get("epochs")), mapping(told.get("seconds"))
    if epochs:
        facts.append(
            f"epochs: {integer(epochs.get('trained')) or 0} trained, {integer(epochs.get('reused')) or 0} reused"
        )
    spent = {str(name): number(value) or 0.0 for name, value in seconds.items()}
    if spent:
        longest = sorted((name for name in spent if spent[name] >= 0.5), key=lambda name: -spent[name])
        parts = ", ".join(f"{markdown_text(name)} {spent[name]:.0f} s" for name in longest)
        facts.append(f"time: {sum(spent.values()):.0f} s" + (f" ({parts})" if parts else ""))
    return facts


def _decided(trial: FrozenTrial) -> list[str]:
    return [
        f"{'goes on' if item.goes_on else 'ended'} at mAP50-95 {item.map50_95:.3f}: "
        + markdown_text(item.reason or f"after {item.epochs} epochs of recovery")
        for item in decisions(trial)
    ]


def _link(trial: int, link: Link) -> str:
    return f"[trial {trial}]({link(trial)})"
