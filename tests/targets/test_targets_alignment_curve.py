"""Steps are found on made-up latencies, with noise, drift and widths that are slow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from prunetune.targets.latency_model.alignment_curve import (
    HIGHEST,
    LOWEST,
    MULTIPLES,
    WIDTHS,
    AlignmentCurve,
    LatencyCurve,
    find_alignment_curve,
)

ROUNDS = 20


def measured(time: Callable[[int], float], seed: int = 0, noise: float = 0.01, rounds: int = ROUNDS) -> LatencyCurve:
    """A curve of noisy rounds, in each of which the whole machine is slower or faster, and outliers come with noise."""
    random = np.random.default_rng(seed)
    drift = random.lognormal(0, 0.1, rounds)
    times = {}
    for width in WIDTHS:
        outliers = np.where(random.random(rounds) < 2 * noise, 3.0, 1.0)
        times[width] = [float(x) for x in time(width) * drift * random.lognormal(0, noise, rounds) * outliers]
    return LatencyCurve("made up", times)


def steps(block: int, fixed: float = 20.0) -> Callable[[int], float]:
    return lambda width: fixed + math.ceil(width / block) * block


def costs(curve: AlignmentCurve) -> Mapping[int, float]:
    return {cost.multiple: cost.cost for cost in curve.costs}


@pytest.mark.parametrize("block", [1, *MULTIPLES])
def test_without_noise_a_multiple_is_free_or_has_its_full_price(block: int) -> None:
    found = find_alignment_curve([measured(steps(block), noise=0.0, rounds=6)])
    for multiple, cost in costs(found).items():
        assert cost == pytest.approx(0.0 if multiple <= block else 1.0, abs=1e-9)
    assert found.multiple == block
    assert found.certain


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("block", [1, 4, 8, 16, 32, 64])
def test_steps_are_found_in_noise(block: int, seed: int) -> None:
    found = find_alignment_curve([measured(steps(block), seed=10 * seed + number) for number in range(3)])
    assert found.multiple == block


@pytest.mark.parametrize("seed", range(3))
def test_slow_widths_do_not_hide_the_price_of_wide_steps(seed: int) -> None:
    """Ten times as long off the multiples of 4: on average, rounding up to 64 saves time. Steps are of 16."""

    def time(width: int) -> float:
        return 10 * (20.0 + width) if width % 4 else steps(16)(width)

    assert find_alignment_curve([measured(time, seed=seed)]).multiple == 16


def test_most_shapes_decide() -> None:
    curves = [measured(steps(16), seed=1), measured(steps(1), seed=2), measured(steps(16), seed=3)]
    assert find_alignment_curve(curves).multiple == 16


@pytest.mark.parametrize("block", [1, 8])
def test_noise_that_leads_astray_is_told(block: int) -> None:
    """On a noisy machine some answers are wrong; none of these may be called certain."""
    found = [find_alignment_curve([measured(steps(block), seed=seed, noise=0.03, rounds=8)]) for seed in range(40)]
    assert any(curve.multiple != block for curve in found)
    assert all(curve.multiple == block for curve in found if curve.certain)


@pytest.mark.parametrize("time", [lambda width: 100.0, lambda width: 1000.0 + width, lambda width: width**3.0])
def test_a_latency_that_does_not_follow_the_channels_tells_nothing(time: Callable[[int], float]) -> None:
    curve = measured(time)
    assert not curve.tells
    assert find_alignment_curve([curve]).multiple is None
    assert find_alignment_curve([curve, measured(steps(8))]).multiple == 8


def test_the_widths_hold_every_class_and_all_that_they_round_to() -> None:
    assert (WIDTHS[0], WIDTHS[-1]) == (LOWEST, HIGHEST)
    assert list(WIDTHS) == sorted(set(WIDTHS))
    for multiple in MULTIPLES:
        assert {math.ceil(width / multiple) * multiple for width in WIDTHS} <= set(WIDTHS)
        assert any(width & -width == multiple for width in WIDTHS)


def test_a_curve_as_json() -> None:
    curve = measured(steps(8), noise=0.0)
    values = json.loads(json.dumps(curve.as_dict()))
    assert values["growth"] == pytest.approx((20 + 128) / (20 + 64) - 1)
    assert list(values["median_ms"]) == [str(width) for width in WIDTHS]
