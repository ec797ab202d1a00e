"""How far accuracies may be off because a split has only so many images: the bootstrap (Efron 1979).

Images are drawn again with replacement, as many as there are, and mAP is computed anew on each such draw. All networks
get the same draws, so that their differences are known better than each accuracy alone: a hard image is hard for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from prunetune.pruning.accuracy.matches import Floats, Matches

CONFIDENCE = 0.95


def bootstrap(
    matches: Mapping[str, Matches], resamples: int, seed: int, safe_point: Callable[[], None] = lambda: None
) -> dict[str, Floats]:
    """mAP50 and map50_95 of each network on each draw of images.

    Args:
        matches: By network, all on the same images.
        resamples: How many draws.
        seed: Of the draws.
        safe_point: Called between the networks.

    Returns:
        By network (resamples, 2); equal rows are of the same draw. NaN where a draw has no object.

    Raises:
        ValueError: The networks were not evaluated on the same images.
    """
    sizes = {item.size for item in matches.values()}
    if len(sizes) > 1 or len({tuple(item.images) for item in matches.values()}) > 1:
        raise ValueError("the networks were evaluated on different images")
    count = sizes.pop() if sizes else 0
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / max(1, count)), size=resamples)
    found: dict[str, Floats] = {}
    for name, item in matches.items():
        safe_point()
        found[name] = np.array([item.map(counts) for counts in drawn]).reshape(-1, 2)
    return found


def percentile_interval(samples: Floats) -> tuple[float, float]:
    """The ends between which the middle 95 % of the draws lie; NaN draws do not count, and none at all give NaN.

    Args:
        samples: (resamples,).
    """
    known = samples[np.isfinite(samples)]
    if not len(known):
        return math.nan, math.nan
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)
