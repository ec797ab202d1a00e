"""Where a study's figures come from: versions, devices, data, and the description that makes them again."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from prunetune.results.findings.findings import Findings
from prunetune.spaces.fields import jsonable, text

HIDDEN = frozenset({"storage"})
"""What a report never tells of a description: addresses may hold passwords."""


def origins(found: Findings) -> dict[str, str]:
    """What a study's figures depend on, in words."""
    study = found.study
    words = {
        "started with": f"prunetune {study.version or 'of an unknown version'}",
        "versions": ", ".join(f"{name} {version}" for name, version in study.versions.items()),
        "data": study.data_fingerprint,
        "model": study.model_sha256 or "",
        "seed": _shown(study.spec.get("seed")),
    }
    for target in study.targets:
        words[f"target {target.name}"] = ", ".join(f"{key} {value}" for key, value in target.fingerprint.items())
        words[f"references on {target.name}"] = ", ".join(
            f"{reference} {ms:.3f} ms" for reference, ms in target.references.items()
        )
    words["workers"] = _workers(found)
    words["trials began"], words["trials ended"] = _times(found)
    return {name: value for name, value in words.items() if value}


def description(found: Findings) -> str:
    """The study's description as indented JSON, which is YAML too; empty if it has none."""
    shown = {key: jsonable(value) for key, value in found.study.spec.items() if key not in HIDDEN}
    return json.dumps(shown, indent=2, ensure_ascii=False) if shown else ""


def _workers(found: Findings) -> str:
    hosts: Counter[str] = Counter()
    for record in found.records.values():
        worker = record.worker or {}
        if host := text(worker.get("host")):
            device = text(worker.get("device"))
            hosts[f"{host}, {device}" if device else host] += 1
    return ", ".join(f"{host} ({count} {'trial' if count == 1 else 'trials'})" for host, count in hosts.most_common(8))


def _times(found: Findings) -> tuple[str, str]:
    begun = [trial.datetime_start for trial in found.trials if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in found.trials if trial.datetime_complete is not None]
    form = "%Y-%m-%d %H:%M UTC"
    return (
        f"{min(begun):{form}}" if begun else "",
        f"{max(ended):{form}}" if ended else "",
    )


def _shown(value: Any) -> str:
    return "" if value is None else str(jsonable(value))
