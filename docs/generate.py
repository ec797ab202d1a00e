"""Writes the tables of keys and of commands into the pages, between their marks: `python docs/generate.py`.

`<!-- keys: StudySpec -->` ... `<!-- end -->` holds the keys of a model of the description, with the defaults and the
docstrings of its fields. `<!-- commands -->` ... `<!-- end -->` holds every command with its options.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prunetune.search.cli import app
from prunetune.search.study.deploy import DeploySettings
from prunetune.search.study.study_spec import CHANGEABLE, EarlyStopping, RaySettings, StudySpec
from prunetune.spaces import Alignment, ChoiceParameter, FixedParameter, FloatParameter, SearchSpace
from prunetune.spaces.recipe import OPTIONS
from prunetune.spaces.space import RegionThresholds
from prunetune.targets import TARGET_KINDS
from prunetune.targets.spec import BaseTargetSpec, RuntimeSpec

DOCS = Path(__file__).parent

MODELS: Mapping[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        *(StudySpec, SearchSpace, RegionThresholds, FloatParameter, ChoiceParameter, FixedParameter, DeploySettings),
        *(EarlyStopping, RaySettings, BaseTargetSpec, RuntimeSpec, *TARGET_KINDS.values()),
    )
}

LINKS = {
    ("StudySpec", "data"): "data.md",
    ("StudySpec", "space"): "#space",
    ("StudySpec", "deploy"): "#deploy",
    ("StudySpec", "early_stopping"): "#early_stopping",
    ("StudySpec", "targets"): "#targets",
    ("StudySpec", "controls"): "results.md#against-not-pruning-at-all",
    ("StudySpec", "sampler"): "search.md#the-first-trials",
    ("StudySpec", "trials"): "search.md#what-a-study-may-spend",
    ("StudySpec", "epochs"): "search.md#what-a-study-may-spend",
    ("StudySpec", "hours"): "search.md#what-a-study-may-spend",
    ("StudySpec", "choose"): "pruning.md#which-epoch-a-training-keeps",
    ("StudySpec", "train"): "pruning.md#the-learning-rate",
    ("StudySpec", "storage"): "machines.md",
    ("StudySpec", "engine"): "machines.md#a-ray-cluster",
    ("StudySpec", "ray"): "#ray",
    ("StudySpec", "store_gb"): "results.md#free-space",
    ("StudySpec", "trust"): "quickstart.md#a-checkpoint-can-run-code",
    ("SearchSpace", "sparsity"): "search.md#two-units-of-sparsity",
    ("SearchSpace", "latency"): "search.md#the-threshold-from-the-budget",
    ("SearchSpace", "balance"): "search.md#the-threshold-from-the-budget",
    ("SearchSpace", "rounds"): "pruning.md#rounds",
    ("SearchSpace", "later_thresholds"): "pruning.md#rounds",
    ("SearchSpace", "importance"): "pruning.md#importance",
    ("SearchSpace", "depth"): "pruning.md#depth",
    ("SearchSpace", "start"): "pruning.md#where-a-recovery-starts",
    ("SearchSpace", "distillation"): "pruning.md#distillation",
    ("SearchSpace", "imgsz"): "search.md#input-size-and-precision",
    ("BaseTargetSpec", "alignment"): "targets.md#alignment",
    ("RuntimeSpec", "precision"): "targets.md#kinds",
    ("RuntimeSpec", "table"): "targets.md#a-latency-table",
    ("CommandSpec", "command"): "targets.md#a-board-behind-a-command",
}
"""Where a key is told at length."""

_MARKED = re.compile(r"(<!-- (keys: (?P<model>\w+)|changeable|commands) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """A page's text with what is generated between its marks."""

    def block(mark: re.Match[str]) -> str:
        if mark["model"]:
            lines = _keys(MODELS[mark["model"]])
        elif mark[2] == "changeable":
            names = [f"`{key}`" for key in StudySpec.model_fields if key in CHANGEABLE]
            lines = iter([f"{', '.join(names[:-1])} and {names[-1]}."])
        else:
            lines = _commands()
        return "\n".join([mark[1], *lines, "", mark[4]])

    return _MARKED.sub(block, page)


# Keys


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """A table of the fields that a model has itself, or of all if it has none of its own."""
    own = [name for name in model.model_fields if name in inspect.get_annotations(model)]
    told = {name: text for part in reversed(model.mro()) for name, text in _docstrings(part).items()}
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for name in own or model.model_fields:
        field, link = model.model_fields[name], LINKS.get((model.__name__, name))
        words = _words(field.annotation)
        if name == "kind" and len(words) == 1:
            continue
        shown = f"[`{name}`]({link})" if link else f"`{name}`"
        missing = [f"`{word}`" for word in words if word and not re.search(rf"\b{word}\b", told[name])]
        listed = f" One of {', '.join(f'`{word}`' for word in words if word)}." if missing else ""
        yield f"| {shown} | {_default(model, name, field)} | {_cell(told[name])}{listed}{_bounds(field)} |"


def _docstrings(model: type) -> dict[str, str]:
    """The docstrings below the fields of a class, by field."""
    if not issubclass(model, BaseModel) or model is BaseModel:
        return {}
    (tree,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(doc.value.value)
        for field, doc in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str)
    }


def _words(annotation: Any) -> list[str]:
    """The words that a type takes, if it takes words only."""
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    return [word for part in get_args(annotation) for word in _words(part)]


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = _plain(field.get_default(call_default_factory=True))
    if model is SearchSpace and value is None:
        value = OPTIONS.get(name)
    if value in (None, "", {}, []):
        return ""
    return f"`{yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=1000).strip()[1:-1]}`"


def _plain(value: Any) -> Any:
    """A default as a description would give it."""
    match value:
        case float():
            return int(value) if value.is_integer() else value
        case Alignment():
            return value.as_json()
        case BaseTargetSpec():
            return {"kind": value.kind}
        case FixedParameter():
            return value.value
        case BaseModel():
            return value.model_dump(mode="json", exclude_none=True)
        case tuple():
            return [_plain(item) for item in value]
    return value


def _bounds(field: FieldInfo) -> str:
    """The smallest and the largest number that a field takes."""
    limits = {
        key: getattr(item, key) for item in field.metadata for key in ("ge", "gt", "le", "lt") if hasattr(item, key)
    }
    step = next((item.multiple_of for item in field.metadata if hasattr(item, "multiple_of")), None)
    low = f"from {limits['ge']:,}" if "ge" in limits else f"above {limits['gt']:,}" if "gt" in limits else ""
    high = f"to {limits['le']:,}" if "le" in limits else f"below {limits['lt']:,}" if "lt" in limits else ""
    if not low:
        return ""
    joint = " " if high.startswith("to") else " and "
    told = low + (joint + high if high else " on" if "ge" in limits else "")
    return f" {told[0].upper()}{told[1:]}{f', in multiples of {step}' if step else ''}."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


# Commands


def _commands() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    yield from _group("prunetune", group)


def _group(name: str, group: Any) -> Iterator[str]:
    for key, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _group(f"{name} {key}", command)
        else:
            yield from _command(f"{name} {key}", command)


def _command(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    records = [(param, *param.get_help_record(context)) for param in command.params]
    arguments = [_short(left) for param, left, _ in records if param.param_type_name == "argument"]
    yield from ("", f"## {name}", "", _cell(command.help), "")
    yield from ("```", " ".join([name, *arguments, *(["[OPTIONS]"] if len(arguments) < len(records) else [])]), "```")
    if records:
        yield from ("", "| option | meaning |", "|---|---|")
    for _, left, told in records:
        yield f"| `{_short(left)}` | {_cell(told)} |"


def _short(left: str) -> str:
    """`--imgsz <int range>` as `--imgsz INT`; of an argument, its name alone."""
    name, _, kind = left.partition(" ")
    if not left.startswith("-"):
        return name
    found = re.search(r"<(int|float|path|str)\b", kind)
    return f"{name} {found[1].upper()}" if found else left


def main() -> None:
    """Writes all pages."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page.name)


if __name__ == "__main__":
    main()
