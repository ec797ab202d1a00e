"""Where a study's figures come from: versions, devices, data, and the description that makes them again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from prunetune.results.entries import jsonable, mapping, number, text
from prunetune.results.findings import Findings

HIDDEN = frozenset({"storage"})
"""What a report never tells of a description: addresses may hold passwords."""


def origins(found: Findings) -> dict[str, str]:
    """What a study's figures depend on, in words."""
    attributes = found.attributes
    versions = mapping(attributes.get("versions"))
    told: dict[str, str | None] = {
        "started with": f"prunetune {text(attributes.get('version')) or 'of an unknown version'}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "data": text(attributes.get("data_fingerprint")),
        "model": text(attributes.get("model_sha256")),
        "seed": _shown(mapping(attributes.get("spec")).get("seed")),
    }
    targets = attributes.get("targets")
    for target in targets if isinstance(targets, list) else []:
        name = text(mapping(target).get("name"))
        if name is not None:
            told[f"target {name}"] = ", ".join(
                f"{key} {value}" for key, value in mapping(mapping(target).get("fingerprint")).items()
            )
            told[f"references on {name}"] = ", ".join(
                f"{reference} {told_ms:.3f} ms"
                for reference, value in mapping(mapping(target).get("references")).items()
                if (told_ms := number(value)) is not None
            )
    told["workers"] = _workers(found)
    told["trials began"], told["trials ended"] = _times(found)
    return {name: words for name, words in told.items() if words}


def description(found: Findings) -> str:
    """The study's description as indented JSON, which is YAML too; empty if it has none."""
    spec = mapping(found.attributes.get("spec"))
    shown = {key: jsonable(value) for key, value in spec.items() if key not in HIDDEN}
    return json.dumps(shown, indent=2, ensure_ascii=False) if shown else ""


def _workers(found: Findings) -> str:
    workers = [mapping(trial.user_attrs.get("worker")) for trial in found.trials]
    hosts = Counter(_worker(worker) for worker in workers if text(worker.get("host")))
    return ", ".join(f"{host} ({count} {'trial' if count == 1 else 'trials'})" for host, count in hosts.most_common(8))


def _worker(worker: Mapping[str, Any]) -> str:
    device = text(worker.get("device"))
    return f"{worker['host']}, {device}" if device else str(worker["host"])


def _times(found: Findings) -> tuple[str, str]:
    begun = [trial.datetime_start for trial in found.trials if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in found.trials if trial.datetime_complete is not None]
    form = "%Y-%m-%d %H:%M UTC"
    return (
        f"{min(begun):{form}}" if begun else "",
        f"{max(ended):{form}}" if ended else "",
    )


def _shown(value: Any) -> str | None:
    return None if value is None else str(jsonable(value))
