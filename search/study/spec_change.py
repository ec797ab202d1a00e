"""How a study's description differs from the one that it was started with, and what of that is allowed."""

from __future__ import annotations

from typing import Any

from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import SpecChangedError

NOT_SET = "not set"


def refuse_change(stored: StudySpec, given: StudySpec) -> None:
    """Makes sure that a study can go on with a description.

    Raises:
        SpecChangedError: Something differs that must not: with all that differs, and which of it may.
    """
    refused = _changed(stored.frozen_part(), given.frozen_part())
    if not refused:
        return
    everything = _changed(*(spec.model_dump(mode="json", exclude={"storage"}) for spec in (stored, given)))
    rows = [("!" if key in refused else " ", key, *(refused | everything)[key]) for key in sorted(refused | everything)]
    rows.insert(0, (" ", "key", "stored", "given"))
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, [*wide, 0], strict=True)) for row in rows]
    table = "".join(f"\n  {line.rstrip()}" for line in lines)
    raise SpecChangedError(
        f"the study {given.name!r} was started with another description:{table}\n"
        "What is marked with ! would make another study of it: undo it, or give the study another name, for example "
        f"name={given.name}-2. The rest may change"
    )


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """Nested plain values as `a.b.0` to value."""
    if isinstance(values, dict):
        items = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list):
        items = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {path: values}
    merged: dict[str, Any] = {}
    for key, value in items:
        merged |= flat(value, f"{path}.{key}" if path else key)
    return merged


def _changed(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Each place that differs, with its values as they are shown."""
    before, after = flat(stored), flat(given)
    return {
        key: (_shown(before.get(key)), _shown(after.get(key)))
        for key in {*before, *after}
        if before.get(key) != after.get(key)
    }


def _shown(value: Any) -> str:
    return NOT_SET if value is None else str(value)
