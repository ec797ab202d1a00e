"""A study and its trials in words, as Markdown: the notes of optuna-dashboard. Links lead to its pages of trials."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from prunetune.results.findings.costs import part_text
from prunetune.results.findings.findings import Findings, outcome_text
from prunetune.results.findings.study_network import StudyNetwork, recipe_text
from prunetune.results.record import TrialRecord
from prunetune.results.tables.escapes import markdown_text
from prunetune.results.tables.formats import markdown
from prunetune.results.tables.headline import summary
from prunetune.results.tables.rows import (
    budget_text,
    caption,
    decimals,
    latency_text,
    memory_text,
    normalized_text,
    percent,
    significant,
    size,
)
from prunetune.spaces.fields import text


def study_note(found: Findings) -> str:
    """What was searched, what won, how sure it is, and the table of the controls and the front."""
    top = summary(found)
    front = ", ".join(_link(network.trial, network.title) for network in found.front if network.trial is not None)
    parts = [
        f"**{markdown_text(top.verdict)}**",
        markdown_text(top.searched),
        f"Recipe: {markdown_text(top.recipe)}" if top.recipe else "",
        "\n".join(f"- {markdown_text(words)}" for words in (*top.sure, *top.cautions)),
        markdown(found).rstrip("\n") if found.front or found.baselines else "",
        markdown_text(caption(found)),
        f"Front: {front}" if front else "",
        "Latencies of the front are the last ones that were measured together; a trial's own values are those of its "
        "own run.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def trial_note(found: Findings, trial: FrozenTrial) -> str:
    """A trial's recipe, its networks' figures, feasibility, decisions and costs, and the trial that it equals.

    It says nothing that later trials change, such as whether the trial is on the front.
    """
    record, networks = found.records[trial.number], found.networks_of(trial.number)
    recipe = recipe_text(record.recipe, record.thresholds)
    facts = [*_budgets(found, found.last_network(trial.number)), *_facts(record), *_decided(record)]
    parts = [
        _head(found, trial),
        f"Recipe: {markdown_text(recipe)}" if recipe else "",
        _figures(networks) if networks else "",
        "\n".join(f"- {line}" for line in facts),
        *(
            f"Checkpoint of {network.title}: `{network.checkpoint.replace('`', '')}` in the study's folder"
            for network in networks
            if network.checkpoint and not network.is_deployed_further
        ),
    ]
    worker = record.worker or {}
    if text(worker.get("host")):
        parts.append(f"Carried out by process {worker.get('pid')} on {markdown_text(str(worker['host']))}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: Findings, trial: FrozenTrial) -> str:
    record = found.records[trial.number]
    how = outcome_text(trial, record) or trial.state.name
    words = f"**{markdown_text(how.replace('_', ' ').lower())}**"
    return f"{words}, {markdown_text(record.reason)}" if record.reason else words


def _figures(networks: Sequence[StudyNetwork]) -> str:
    """A row for each network; the first column names them where there are several."""
    targets = list(dict.fromkeys(target for network in networks for target in network.latencies))
    titles = ["network"] if len(networks) > 1 else []
    sizes = [network.imgsz_text for network in networks]
    titles += ["input"] if len(set(sizes)) > 1 else []
    titles += ["mAP50", "mmAP", "F1", "at confidence"]
    titles += ["latency" if len(targets) == 1 else f"latency@{name}" for name in targets]
    is_shorter = any(network.figures.blocks_removed for network in networks)
    knows_memory = any(network.figures.memory_mb is not None for network in networks)
    titles += ["memory"] if knows_memory else []
    titles += ["GFLOPs", "size", "parameters removed", *(["blocks"] if is_shorter else [])]
    lines = [[*map(markdown_text, titles)], ["---:"] * len(titles)]
    for network in networks:
        accuracy, figures = network.accuracy, network.figures
        latencies = [network.latencies.get(target) for target in targets]
        cells = [
            *([network.title] if len(networks) > 1 else []),
            *([f"{network.imgsz_text} px"] if len(set(sizes)) > 1 else []),
            *map(decimals, (accuracy.map50, accuracy.map50_95, accuracy.f1, accuracy.confidence)),
            *("" if latency is None else normalized_text(latency) for latency in latencies),
            *([memory_text(figures.memory_mb)] if knows_memory else []),
            significant(figures.gflops),
            size(figures.params),
            percent(figures.params_removed),
            *([str(figures.blocks_removed)] if is_shorter else []),
        ]
        lines.append([*map(markdown_text, cells)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _budgets(found: Findings, network: StudyNetwork | None) -> list[str]:
    """Where what the trial came to stands beside the budgets."""
    facts = []
    for target in found.targets:
        latency = None if network is None else network.latencies.get(target.name)
        if latency is not None and target.budget_ms:
            share = latency.ms / target.budget_ms - 1
            side = "over" if target.violation(latency) > 0 else "on the edge of" if share > 0 else "within"
            off = "above" if share > 0 else "below"
            where = f" on {target.name}" if len(found.targets) > 1 else ""
            limit = markdown_text(latency_text(target.budget_ms, None) + where)
            facts.append(f"{side} the budget, {percent(abs(share))} {off} {limit}")
    if facts and len(found.targets) > 1:
        facts.append(markdown_text(budget_text(found)))
    return facts


def _facts(record: TrialRecord) -> list[str]:
    facts = [markdown_text(warning) for warning in record.warnings]
    if record.duplicate_of is not None:
        facts.append(f"duplicate of {_link(record.duplicate_of)}: the same network from the same parent")
    if record.latency_from is not None:
        facts.append(f"has the channels of {_link(record.latency_from)}, and so its latency")
    if record.retry_of is not None:
        facts.append(f"takes up the recipe of {_link(record.retry_of)}")
    cost = record.cost
    if cost.stages:
        facts.append(f"epochs: {cost.epochs_trained} trained, {cost.epochs_reused} reused")
    if cost.seconds:
        longest = sorted((item for item in cost.seconds.items() if item[1] >= 0.5), key=lambda item: -item[1])
        parts = ", ".join(f"{markdown_text(part_text(name))} {spent:.0f} s" for name, spent in longest)
        facts.append(f"time: {cost.total_s:.0f} s" + (f" ({parts})" if parts else ""))
    return facts


def _decided(record: TrialRecord) -> list[str]:
    return [
        f"{'goes on' if item.goes_on else 'ended'} at mAP50-95 {item.values[0]:.3f}: {markdown_text(item.reason)}"
        for item in record.decisions
    ]


def _link(trial: int, title: str = "") -> str:
    """The address is relative to the page that shows the note, the study's or another trial's."""
    return f"[{title or f'trial {trial}'}](trials?numbers={trial})"
