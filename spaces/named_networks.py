"""Networks that a study knows by name: those that its own detector gives to compare with, and splices of two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REFERENCES = ("dense", "half-width", "quarter-width")
"""In the order in which they are shown. Budgets and latencies can refer to them."""


@dataclass(frozen=True)
class Splice:
    """A network whose backbone has one network's widths, and whose neck and head have another's.

    No sampler proposes it, somebody asks for it.
    """

    backbone_from: str
    """A network's name: `7`, `7.1` after the first of several rounds, or a control's."""
    head_from: str
    """As above."""
    recovery_epochs: int
    """Epochs of ordinary training after it was put together."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, tables and trial attributes."""
        return {
            "backbone_from": self.backbone_from,
            "head_from": self.head_from,
            "recovery_epochs": self.recovery_epochs,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Splice | None:
        """The splice that `as_dict` wrote; None for the values of a recipe."""
        if not {"backbone_from", "head_from", "recovery_epochs"} <= set(values):
            return None
        return cls(str(values["backbone_from"]), str(values["head_from"]), int(values["recovery_epochs"]))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options of `prunetune splice`."""
        parts = ("--backbone-from", self.backbone_from, "--head-from", self.head_from)
        return (*parts, "--recover", str(self.recovery_epochs))

    def __str__(self) -> str:
        backbone, head = map(title_of_network, (self.backbone_from, self.head_from))
        return f"backbone of {backbone}, head of {head}, recover {self.recovery_epochs}"


def title_of_network(name: str) -> str:
    """What a network is called by its name: `trial 7` for `7`, `trial 7, round 1` for `7.1`, a control as it is, and
    `dense at 96 px in int8` for `dense@96-int8`."""
    deployed = re.fullmatch(r"(.+)@(\d+(?:x\d+)?)(?:-(\w+))?", name)
    network, size, precision = (name, None, None) if deployed is None else deployed.groups()
    number, _, round_number = network.partition(".")
    title = network
    if number.isdecimal() and (not round_number or round_number.isdecimal()):
        title = f"trial {number}" + (f", round {round_number}" if round_number else "")
    return " ".join([title, *([f"at {size} px"] if size else []), *([f"in {precision}"] if precision else [])])
