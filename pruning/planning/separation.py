"""Whether a threshold lies where a detector's gammas part. In the midst of them it cuts at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy

from prunetune.pruning.planning.plan import Scores
from prunetune.spaces.recipe import Region, Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

Values: TypeAlias = "NDArray[Any]"

ALIKE = 0.25
"""Gammas whose 5 % and 95 % quantiles lie nearer to each other than this share of their median are all alike."""

VALLEY = 0.5
"""In a valley there are at most so many gammas, of as many as where they are densest: below it, and above it."""

FEW = 0.05
"""A threshold that removes no more than this share of the channels cuts off a tail: there need not be a valley."""

EDGE = 0.01
"""Nor right above a cluster, such as at 0, where no more than this share of the gammas is around the threshold."""

BARS = "▁▂▃▄▅▆▇█"
BINS = 24


def unseparated(scores: Scores, threshold: Threshold) -> str | None:
    """What is wrong with a threshold that lies where nothing separates: one line with a histogram.

    Regions of one threshold are looked at together. Gammas separate at a threshold if they are not all alike (`ALIKE`),
    and if fewer are around it than on both sides (`VALLEY`), or hardly any right above a cluster (`EDGE`). Around is
    within a tenth of their 5 % to 95 % range, or within a fifth of the threshold if that is less.

    Args:
        scores: The detector's, by gamma.
        threshold: The one that cuts.

    Returns:
        None if all is well, if the threshold removes hardly anything (`FEW`), or if it is above all gammas.
    """
    by_limit: dict[float, tuple[set[Region], list[Values]]] = {}
    for item in scores.groups:
        regions, values = by_limit.setdefault(item.limit(threshold), (set(), []))
        regions.update(item.regions)
        values.append(item.scores.float().numpy())  # in which equal gammas are equal
    told = []
    for limit, (regions, values) in by_limit.items():
        if (reason := _problem(numpy.concatenate(values), limit)) is not None:
            where = "" if len(by_limit) == 1 else f" of {' and '.join(sorted(regions))}"
            told.append(f"threshold {limit:.3g}{where}: {reason} {histogram(numpy.concatenate(values), limit)}")
    return f"nothing separates at {'; '.join(told)}" if told else None


def _problem(values: Values, threshold: float) -> str | None:
    below = float((values < threshold).mean())
    if not 0 < below < 1:
        return None
    low, median, high = (float(value) for value in numpy.quantile(values, (0.05, 0.5, 0.95)))
    if high - low < ALIKE * median:
        return f"gammas are alike, {low:.3g} to {high:.3g}"
    if below <= FEW:
        return None
    reach = min((high - low) / 10, threshold / 5)
    ordered = numpy.sort(values)
    # The number of gammas within `reach` of each gamma; the densest places are at gammas.
    counts = _within(ordered, ordered, reach)
    around = int(_within(ordered, numpy.array([threshold]), reach)[0])
    lower, upper = (
        int(counts[side].max(initial=0)) for side in (ordered <= threshold - reach, ordered >= threshold + reach)
    )
    if around <= VALLEY * min(lower, upper) or (around <= EDGE * len(values) and around <= VALLEY * lower):
        return None
    return f"{around / len(values):.0%} of the gammas are within {reach:.2g} of it"


def _within(ordered: Values, places: Values, reach: float) -> Values:
    ends = (
        numpy.searchsorted(ordered, places - reach, side="left"),
        numpy.searchsorted(ordered, places + reach, side="right"),
    )
    found: Values = ends[1] - ends[0]
    return found


def histogram(values: Sequence[float] | Values, threshold: float) -> str:
    """A histogram in one line of text, from 0 to the 99 % quantile, with `|` at the threshold."""
    top = max(float(numpy.quantile(values, 0.99)), 1.1 * threshold)
    counts, _ = numpy.histogram(numpy.minimum(values, top), BINS, (0, top))
    highest = max(1, int(counts.max()))
    bars = ["·" if not count else BARS[round((len(BARS) - 1) * count / highest)] for count in counts.tolist()]
    place = round(BINS * threshold / top)
    return f"0 {''.join(bars[:place])}|{''.join(bars[place:])} {top:.3g}"
