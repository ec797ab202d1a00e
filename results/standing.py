"""Where a network stands in its study: on the front, or why not."""

from __future__ import annotations

from prunetune.results.choice import spans
from prunetune.results.entries import Entry, is_predicted, outcome, round_of
from prunetune.results.findings import Findings
from prunetune.results.tables import budget_text, edge_text


def standing(found: Findings, item: Entry) -> str:
    """A sentence on where a network of a study stands.

    Args:
        found: The study.
        item: A trial's entry, or a control's.
    """
    if item.trial is None:
        return "A control: the study compares its networks with it."
    if any(member.trial == item.trial for member in found.front):
        best = found.best is not None and found.best.trial == item.trial
        words = [", the most accurate there" if best else "", f", {edge}" if (edge := edge_text(found, item)) else ""]
        return f"It is on the front of its study{''.join(words)}."
    return f"It is not on the front of its study: {_reason(found, item)}."


def _reason(found: Findings, item: Entry) -> str:
    assert item.trial is not None
    trial = found.trial(item.trial)
    ended = "" if trial is None else outcome(trial)
    if ended == "OVER_BUDGET":
        recovered = trial is not None and round_of(trial) is not None
        return f"it is over the budget ({budget_text(found)}){'' if recovered else ' and was not recovered'}"
    if ended == "STOPPED_EARLY":
        return "its recovery was stopped early, so that its accuracy is not final"
    if found.misses_budget(item):
        return f"the last measurement put it over the budget ({budget_text(found)})"
    if trial is not None and is_predicted(trial):
        return "its latency is predicted, not measured"
    better = _better(found, item)
    if not better:
        return f"it ended as {ended or 'unfinished'}"
    named = f"trial {better[0]} is" if len(better) == 1 else f"trials {spans(better)} are"
    return f"{named} at least as accurate and as fast"


def _better(found: Findings, item: Entry) -> list[int]:
    """The members of the front that are as good in everything."""
    own = found.point(item)
    if own is None:
        return []
    points = [(member.trial, found.point(member)) for member in found.front]
    return [
        number
        for number, point in points
        if number is not None
        and point is not None
        and point[0] >= own[0]
        and all(theirs <= mine for theirs, mine in zip(point[1:], own[1:], strict=True))
    ]
