"""The option `--target`: a kind, which the options beside it describe, or a file that says it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunetune.search.study.overrides import overridden
from prunetune.search.study.study_spec import parse_target
from prunetune.spaces import ConfigError
from prunetune.spaces.yaml_file import read_yaml
from prunetune.targets import TARGET_KINDS, TargetSpec

_OPTIONS = {"alignment": "--align", "threads": "--threads", "device": "--device", "precision": "--precision"}
"""The options of keys; all others are given with `--option`."""


def read_target(
    target: str,
    described: Mapping[str, Any],
    pace: Mapping[str, Any] | None = None,
    more: Sequence[str] | None = None,
) -> TargetSpec:
    """The target of a command.

    Args:
        target: A kind, or the path of a yaml as an entry of a study's `targets` names one.
        described: Options that say what the target is, None where they are not given. A file says it itself.
        pace: Options that say how exactly to measure, None where they are not given. They go before a file's.
        more: Further keys of the target, each as `key=value`.

    Raises:
        ConfigError: With every problem that was found.
    """
    given = {key: value for key, value in described.items() if value is not None}
    for override in more or ():
        key = override.partition("=")[0]
        if key == "kind" or key in given:
            raise ConfigError(f"--option {override}: {_OPTIONS.get(key, '--target')} says it already; give one of them")
        given = overridden(given, override)
    faster = {key: value for key, value in (pace or {}).items() if value is not None}
    if Path(target).suffix.lower() not in (".yaml", ".yml"):
        missing = [key for key in _required(target) if key not in given]
        if missing:
            raise ConfigError(
                f"--target {target}: needs {', '.join(missing)}, which no option gives; write a yaml with "
                f"kind: {target} and give --target FILE.yaml"
            )
        return parse_target({"kind": target, **given, **faster})
    if given:
        options = ", ".join(_OPTIONS.get(key, f"--option {key}") for key in given)
        raise ConfigError(f"{options}: {target} describes the target; change it there, or give --target a kind")
    return parse_target({**read_yaml(Path(target), holds="target", example="kind: onnxruntime"), **faster}, target)


def _required(kind: str) -> list[str]:
    fields = TARGET_KINDS[kind].model_fields if kind in TARGET_KINDS else {}
    return [key for key, field in fields.items() if field.is_required() and key != "kind"]


def with_pace(spec: TargetSpec, pace: Mapping[str, Any]) -> TargetSpec:
    """The target with other defaults for how exactly it measures, as far as its kind has them."""
    free = set(type(spec).model_fields) - spec.model_fields_set
    return spec.model_copy(update={key: value for key, value in pace.items() if key in free})
