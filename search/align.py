"""The command `align-probe`: finds a device's alignment and writes it down as a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunetune.search.target_option import with_pace
from prunetune.spaces.alignment import Alignment
from prunetune.spaces.files import write_text
from prunetune.targets import TargetSpec, create_target, probe_alignment

TOLERANCE, SECONDS = 0.05, 120.0
"""Each point needs less than a ratio of whole networks does: the steps are read off some dozens of points."""

_ALWAYS = ("kind", "name", "threads", "device", "precision")
"""What an entry says also where it is the default."""

_ROLES = {
    "outputs": "written channels",
    "inputs": "read channels",
    "first": "first layer",
    "depthwise": "depthwise",
}


def probe(spec: TargetSpec, imgsz: int, out: Path | None, runs: int | None = None) -> dict[str, Any]:
    """Probes a target and writes its description with the alignment that was found.

    Args:
        spec: The target. Its own alignment, if it has one, is not used.
        imgsz: Side of the detector's input, in px.
        out: Where to write the entry, as YAML. Its stem becomes the name of a target that has none.
        runs: Most timed rounds, of this probe alone.

    Returns:
        What `AlignmentProbe.as_dict` gives, with `entry`, the target as a study takes it, and `out`.

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
    return {**found.as_dict(), "entry": entry, "out": None if out is None else str(out)}


def write_probe(found: Mapping[str, Any], console: Console) -> None:
    """Shows what `probe` found."""
    multiples = [cost["multiple"] for cost in found["roles"]["outputs"]["costs"]]
    table = Table("cost of rounding up to", *map(str, multiples), "preferred")
    for role, words in _ROLES.items():
        judged = found["roles"][role]
        costs = [_cost(cost) for cost in judged["costs"]] or ["-"] * len(multiples)
        preferred = "says nothing" if judged["multiple"] is None else str(judged["multiple"])
        table.add_row(words, *costs, preferred + (" (uncertain)" if role in found["uncertain"] else ""))
    console.print(table)
    lines = [
        "0: rounding up is free. 1: it costs the full price of the added channels. Below 0: it saves time.",
        f"alignment: {Alignment.parse(found['alignment'])}",
    ]
    if found["uncertain"]:
        lines.append("The machine was too noisy to be certain: stop what else runs there, or allow more --repeats.")
    if found["out"] is None:
        entry = yaml.safe_dump([found["entry"]], sort_keys=False, default_flow_style=True, width=1000)
        lines.append(f"targets: {entry.strip()}")
    else:
        lines.append(f"{found['out']}: take it into a study with targets: [{found['out']}]")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _cost(cost: Mapping[str, Any]) -> str:
    return f"{cost['cost']:.2f}" if abs(cost["cost"]) < 10 else f"{cost['cost']:.0f}"
