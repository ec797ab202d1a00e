"""Overrides on the command line: `key=value` over a description's plain values.

One rule: an override replaces what it names, and keeps what stands beside it. Of a space's parameter it names the
value, the range or the choices, which take each other's place; `unit` stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from prunetune.spaces import ConfigError
from prunetune.spaces.presets import PRESETS
from prunetune.spaces.recipe import Region
from prunetune.spaces.yaml_file import parse_yaml

_FORMS = ({"value"}, {"low", "high", "log", "grid"}, {"choices"}, set(get_args(Region)))
"""The keys of each form that a parameter of a space can have."""


def overridden(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    """The values with one `key=value` laid over them; `space.rounds.high=3` reaches inside.

    Raises:
        ConfigError: It has no `=`, or leads into something that is no mapping.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"{override!r} is no override; write key=value, for example imgsz=256")
    value = parse_yaml(text, override if path != "storage" else path)  # an address may hold a password
    laid: dict[str, Any] = _laid(dict(values), (), path.split("."), value, override)
    return laid


def _laid(place: Any, above: tuple[str, ...], keys: Sequence[str], value: Any, override: str) -> Any:
    """A copy of what stands at `above`, with the value at the keys below: a YAML anchor may have it elsewhere too."""
    key, *below = keys
    if place is None or isinstance(place, bool):  # `train:` alone; `early_stopping: true`, whose settings are not told
        place = {}
    if above == ("space", "sparsity") and key == "unit" and isinstance(place, (int, float)):
        place = {"value": place}
    if above == ("budget",) and isinstance(place, (str, int, float)):  # a limit alone
        place = {"latency": place}
    here = (*above, key)
    if isinstance(place, list) and key.isdigit() and int(key) < len(place):
        index = int(key)
        new = _laid(place[index], here, below, value, override) if below else value
        return [*place[:index], new, *place[index + 1 :]]
    if not isinstance(place, dict):
        raise ConfigError(f"{override!r}: {key!r} is inside a value that has no keys")
    old = place.get(key)
    if below:
        if old is None and above == ("space",):
            old = PRESETS.get(str(place.get("preset")), {}).get(key)
        new = _laid(old, here, below, value, override)
    else:
        new = _with_unit(old, value) if here == ("space", "sparsity") else value
    return {**_beside(place, above, key), key: new}


def _beside(place: dict[str, Any], above: tuple[str, ...], key: str) -> dict[str, Any]:
    """What stays of a mapping when one of its keys is given: of a parameter, nothing of another form."""
    form = next((form for form in _FORMS if key in form), None)
    if form is None or len(above) < 2 or above[0] != "space":
        return place
    return {name: value for name, value in place.items() if not any(name in other for other in _FORMS if other != form)}


def _with_unit(old: Any, value: Any) -> Any:
    """A new value, range or choices of a parameter with the unit of the old."""
    if not isinstance(old, dict) or "unit" not in old or isinstance(value, list) or value is None:
        return value
    return {"unit": old["unit"], **(value if isinstance(value, dict) else {"value": value})}
