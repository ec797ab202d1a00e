"""The recipes of a study's first trials: a design that covers the trunks once, instead of chance.

A trunk is a sparsity, trained for sparse epochs; it is what a study pays most for, and all that is tried later hangs
off it. Each sparsity of a grid is taken once, for the longest sparse phase, on whose way the shorter ones lie; where
the first trials are fewer than the grid's points, those taken are spread over it. All other values come from a
scrambled Halton sequence (Owen 2017, arXiv 1706.02808), which also spreads a sparsity without a grid: on its own
scale, and evenly over halves, quarters, eighths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from prunetune.spaces import ChoiceParameter, FixedParameter, FloatParameter, IntParameter, SearchSpace
from prunetune.spaces.parameters import Value

_Parameter: TypeAlias = FloatParameter | IntParameter | ChoiceParameter | FixedParameter


def first_recipe(space: SearchSpace, seed: int, index: int) -> dict[str, Value]:
    """One point of the design. It depends on nothing else: not on other trials, nor on how many will follow.

    Args:
        space: Which recipes may be tried.
        seed: Of the sequence.
        index: Which recipe, from 0.

    Returns:
        A value for each parameter that a trial is asked for.
    """
    searched = {name: item for name, item in space.parameters() if not isinstance(item, FixedParameter)}
    if not searched:
        return {}
    point = {
        name: value_at(parameter, share)
        for (name, parameter), share in zip(searched.items(), _halton(len(searched), seed, index), strict=True)
    }
    sparsities = space.sparsity.values
    if sparsities is None:
        return point
    if "sparsity" in searched:
        point["sparsity"] = spread(sparsities, index % len(sparsities))
    if "sparse_epochs" in searched and space.sparse_epochs.values and index < len(sparsities):
        point["sparse_epochs"] = space.sparse_epochs.largest
    return point


def spread(values: Sequence[Value], index: int) -> Value:
    """A value of a list taken in an order whose every beginning is spread over the list.

    The middle comes first, and then whatever is farthest from all before it.
    """
    taken = [(len(values) - 1) // 2]
    while len(taken) <= index:
        left = (place for place in range(len(values)) if place not in taken)
        taken.append(max(left, key=lambda place: min(abs(place - other) for other in taken)))
    return values[taken[index]]


def value_at(parameter: _Parameter, share: float) -> Value:
    """The value that lies at a share in [0, 1) of a parameter's range, on the parameter's own scale."""
    if parameter.values is not None:
        return parameter.values[min(int(share * len(parameter.values)), len(parameter.values) - 1)]
    assert isinstance(parameter, (FloatParameter, IntParameter))
    if isinstance(parameter, FloatParameter):
        return _between(parameter.low, parameter.high, share, parameter.log)
    # Each integer gets the part of the scale that rounds to it.
    found = _between(parameter.low - 0.5, parameter.high + 0.5, share, parameter.log)
    return min(max(round(found), parameter.low), parameter.high)


def _between(low: float, high: float, share: float, log: bool) -> float:
    value = low * math.exp(share * math.log(high / low)) if log else low + share * (high - low)
    return min(max(value, low), high)


def _halton(dimensions: int, seed: int, index: int) -> list[float]:
    from scipy.stats import qmc  # half a second to import

    sequence: Any = qmc.Halton(dimensions, scramble=True, seed=seed)
    return [float(share) for share in sequence.random(index + 1)[-1]]
