"""What work costs: seconds by part, and the stages that were needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prunetune.spaces.cost import Cost, StageUse

DENSE = ("original", "early")
"""The kinds of stages that belong to the dense training: recipes start from them, and they are no part of any."""


class Section:
    """One entered part: its own seconds, and how many of them belong to other parts.

    Args:
        part: Its name.
    """

    def __init__(self, part: str) -> None:
        self.seconds = 0.0
        self._part = part
        self._given: dict[str, float] = {}

    def add(self, seconds: float) -> None:
        """Adds to what the block itself took."""
        self.seconds += seconds

    def give(self, part: str, seconds: float) -> None:
        """Counts so many of this block's seconds as another part's; at most those that the block itself took."""
        self._given[part] = self._given.get(part, 0.0) + max(seconds, 0.0)

    def cost(self) -> Cost:
        """Its seconds by part."""
        left, shares = self.seconds, {}
        for part, seconds in self._given.items():
            shares[part] = min(seconds, left)
            left -= shares[part]
        shares[self._part] = shares.get(self._part, 0.0) + left
        return Cost(shares)


class CostMeter:
    """Counts what a process spends. Who wants to know what some work cost subtracts two readings."""

    def __init__(self) -> None:
        self._closed = Cost()
        self._open: list[Section] = []
        self._since = 0.0
        self._all = ""

    @contextmanager
    def all_as(self, name: str) -> Iterator[None]:
        """Counts the block, and every part that is entered in it, as `name`."""
        before, self._all = self._all, name
        try:
            with self.part(name):
                yield
        finally:
            self._all = before

    @contextmanager
    def part(self, name: str) -> Iterator[Section]:
        """Counts the block as `name`. Parts do not nest: one that is entered inside another pauses the outer one."""
        self._advance()
        section = Section(self._all or name)
        self._open.append(section)
        try:
            yield section
        finally:
            self._advance()
            self._open.pop()
            self._closed += section.cost()

    def count(self, use: StageUse) -> None:
        """Adds a stage, unless it belongs to the dense training."""
        if use.kind not in DENSE:
            self._closed += Cost(stages=(use,))

    def reading(self) -> Cost:
        """All that was counted so far, what is still open included."""
        self._advance()
        return sum((section.cost() for section in self._open), self._closed)

    def _advance(self) -> None:
        now = time.perf_counter()
        if self._open:
            self._open[-1].add(now - self._since)
        self._since = now
