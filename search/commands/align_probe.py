"""The command `align-probe`: finds a device's alignment and writes it down as a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunetune.search.options.target_option import with_pace
from prunetune.spaces.files import write_text
from prunetune.targets import AlignmentProbe, TargetSpec, create_target, probe_alignment
from prunetune.targets.latency_model.alignment_curve import RoundingCost
from prunetune.targets.latency_model.alignment_probe import Role

TOLERANCE, SECONDS = 0.05, 120.0
"""Each point needs less than a ratio of whole networks does: the steps are read off some dozens of points."""

_ALWAYS = ("kind", "name", "threads", "device", "precision")
"""What an entry says also where it is the default."""

_ROLES: dict[Role, str] = {
    "outputs": "written channels",
    "inputs": "read channels",
    "first": "first layer",
    "depthwise": "depthwise",
}


@dataclass(frozen=True)
class ProbedTarget:
    """A target whose alignment was probed."""

    found: AlignmentProbe
    entry: Mapping[str, Any]
    """The target as a study takes it."""
    out: Path | None
    """Where it was written."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        out = None if self.out is None else str(self.out)
        return {**self.found.as_dict(), "entry": dict(self.entry), "out": out}


def probe(spec: TargetSpec, imgsz: int, out: Path | None, runs: int | None = None) -> ProbedTarget:
    """Probes a target and writes its description with the alignment that was found.

    Args:
        spec: The target. Its own alignment, if it has one, is not used.
        imgsz: Side of the detector's input, in px.
        out: Where to write the entry, as YAML. Its stem becomes the name of a target that has none.
        runs: Most timed rounds, of this probe alone.

    Raises:
        TargetError: The device is absent, or its latency tells nothing about channels.
        StoreError: The file cannot be written.
    """
    given = spec.model_fields_set
    if out is not None and "name" not in given:
        spec = spec.model_copy(update={"name": out.stem})
    paced = with_pace(spec, {"tolerance": TOLERANCE, "seconds": SECONDS})
    if runs is not None:
        paced = paced.model_copy(update={"runs": runs})
    found = probe_alignment(create_target(paced), imgsz)
    dumped = spec.model_dump(mode="json", exclude_none=True)
    entry = {key: value for key, value in dumped.items() if key in _ALWAYS or key in given}
    entry["alignment"] = found.alignment.as_json()
    if out is not None:
        told = f"# Found by `prunetune align-probe` at {imgsz} px on {{device}}, {{runtime}}.\n"
        write_text(out, told.format(**found.fingerprint) + yaml.safe_dump(entry, sort_keys=False))
    return ProbedTarget(found, entry, out)


def write_probe(probed: ProbedTarget, console: Console) -> None:
    """Shows what `probe` found."""
    found, curves = probed.found, probed.found.alignment_curves
    multiples = [cost.multiple for cost in curves["outputs"].costs]
    table = Table("cost of rounding up to", *map(str, multiples), "preferred")
    for role, words in _ROLES.items():
        costs = [_cost(cost) for cost in curves[role].costs] or ["-"] * len(multiples)
        preferred = "says nothing" if curves[role].multiple is None else str(curves[role].multiple)
        table.add_row(words, *costs, preferred + (" (uncertain)" if role in found.uncertain else ""))
    console.print(table)
    lines = [
        "0: rounding up is free. 1: it costs the full price of the added channels. Below 0: it saves time.",
        f"alignment: {found.alignment}",
    ]
    if found.uncertain:
        lines.append("The machine was too noisy to be certain: stop what else runs there, or allow more --repeats.")
    if probed.out is None:
        entry = yaml.safe_dump([dict(probed.entry)], sort_keys=False, default_flow_style=True, width=1000)
        lines.append(f"targets: {entry.strip()}")
    else:
        lines.append(f"{probed.out}: take it into a study with targets: [{probed.out}]")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _cost(cost: RoundingCost) -> str:
    return f"{cost.cost:.2f}" if abs(cost.cost) < 10 else f"{cost.cost:.0f}"
