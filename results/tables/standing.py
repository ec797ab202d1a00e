"""Where a network stands in its study: on the front, or why not."""

from __future__ import annotations

from prunetune.results.findings.choice import spans
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.tables.rows import budget_text, edge_text
from prunetune.spaces.outcome import Outcome


def standing(found: Findings, network: StudyNetwork) -> str:
    """A sentence on where a network of a study stands."""
    if network.trial is None:
        return "A control: the study compares its networks with it."
    if any(member.name == network.name for member in found.front):
        best = found.best is not None and found.best.name == network.name
        edge = edge_text(found, network)
        words = [", the most accurate there" if best else "", f", {edge}" if edge else ""]
        return f"It is on the front of its study{''.join(words)}."
    return f"It is not on the front of its study: {_reason(found, network)}."


def memberships(found: Findings, trial: int) -> list[str]:
    """Which networks of a trial are on the front: `on the front` for what it came to, `at 96 px on the front`,
    `round 1 on the front`."""
    members = [network for network in found.networks_of(trial) if network in found.front]
    return [
        f"{network.title.removeprefix(f'trial {trial}').lstrip(', ')} on the front".lstrip()
        for network in sorted(members, key=lambda network: -network.result.round)
    ]


def _reason(found: Findings, network: StudyNetwork) -> str:
    outcome, recovered = found.outcome(network), network.result.recovered
    if not network.figures.feasible:
        return f"it is over the budget ({budget_text(found)}){'' if recovered else ' and was not recovered'}"
    if not recovered and outcome is Outcome.STOPPED_EARLY:
        return "its recovery was stopped early, so that its accuracy is not final"
    if found.misses_budget(network):
        return f"the last measurement put it over the budget ({budget_text(found)})"
    if network.figures.predicted:
        return "its latency is predicted, not measured"
    better = _better(found, network) if recovered else []
    if not better:
        return f"it ended as {outcome or 'unfinished'}"
    if all(member.name.isdecimal() for member in better) and len(better) > 1:
        named = f"trials {spans(int(member.name) for member in better)}"
    else:
        named = " and ".join(member.title for member in better)
    return f"{named} {'is' if len(better) == 1 else 'are'} at least as accurate and as fast"


def _better(found: Findings, network: StudyNetwork) -> list[StudyNetwork]:
    """The members of the front that are as good in everything."""
    own = found.point(network)
    points = [(member, found.point(member)) for member in found.front]
    return [
        member
        for member, point in points
        if own is not None
        and point is not None
        and point[0] >= own[0]
        and all(theirs <= mine for theirs, mine in zip(point[1:], own[1:], strict=True))
    ]
