"""The public conformance suite itself: what it must catch, and what it must not mind."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from prunetune.targets import InterleavedTarget, Network, OnnxRuntimeSpec, Pace, Target
from prunetune.targets.network import Form
from prunetune.targets.protocol import Runner
from prunetune.targets.testing import TargetTestCase

Time = Callable[[int, int, random.Random], float]
"""The time in ms by how many networks are loaded, by how many runs there were, and by chance."""


class Crowded:
    """A backend whose runs take longer or shorter by the number of networks that are loaded."""

    form: Form = "onnx"
    pace = Pace(warmup=0, settling=0)
    precisions = ("fp32",)

    def __init__(self, time: Time, seed: int) -> None:
        self.spec = OnnxRuntimeSpec(runs=7)
        self._time, self._chance, self._loaded = time, random.Random(seed), 0
        self._runs = itertools.count(seed)

    def fingerprint(self) -> dict[str, str]:
        return {}

    def pinned(self) -> nullcontext[None]:
        self._loaded = 0
        return nullcontext()

    def load(self, network: Network) -> Runner:
        self._loaded += 1
        return lambda: self._time(self._loaded, next(self._runs), self._chance)


def neighbours_change_nothing(time: Time, seed: int) -> None:
    class Case(TargetTestCase):
        def target(self) -> Target:
            return InterleavedTarget(Crowded(time, seed))

        def network(self, name: str, width: int, shrink: int = 1) -> Network:
            return Network(name, (1, width, 8, 8), onnx=Path("any.onnx"))

    Case().test_neighbours_change_nothing()


def disturbed(loaded: int, _: int, chance: random.Random) -> float:
    """As one runtime was seen to be: two to four times the time, other times from run to run."""
    return chance.gauss(1.0, 0.02) * (chance.uniform(1.1, 4.4) if loaded > 1 else 1.0)


@pytest.mark.parametrize(
    "time",
    [
        lambda loaded, *_: 1.0 + 0.02 * (loaded - 1),
        lambda loaded, *_: 1.0 - 0.02 * (loaded - 1),
        lambda loaded, _, chance: chance.gauss(1.0, 0.02) * (1.0 + 0.05 * (loaded - 1)),
        disturbed,
    ],
    ids=["2 % for each neighbour", "2 % less for each neighbour", "5 % for each, and noise", "twice to four times"],
)
@pytest.mark.parametrize("seed", range(10))
def test_networks_that_disturb_each_other_are_caught(time: Time, seed: int) -> None:
    with pytest.raises(pytest.fail.Exception, match="beside four others"):
        neighbours_change_nothing(time, seed)


def bursts(_: int, run: int, chance: random.Random) -> float:
    """Every other 30 runs, whoever runs, another process interrupts."""
    return chance.gauss(1.0, 0.02) * (chance.choice((1.0, 2.0, 5.0)) if run // 30 % 2 else 1.0)


@pytest.mark.parametrize(
    "time",
    [
        lambda *_: 1.0,
        lambda loaded, *_: 1.0 + 0.01 * (loaded - 1),
        lambda _, __, chance: chance.lognormvariate(0.0, 0.5),
        lambda _, __, chance: chance.choice((1.0, 1.0, 5.0)),
        bursts,
    ],
    ids=["equal", "1 % for each neighbour", "noise", "interruptions", "bursts of them"],
)
@pytest.mark.parametrize("seed", range(10))
def test_noise_is_no_disturbance(time: Time, seed: int) -> None:
    neighbours_change_nothing(time, seed)
