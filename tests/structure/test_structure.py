"""How the rooms hang together: each test reads the sources, and what it refuses may not come back.

Where a file has to do otherwise, a list names it with the reason. An entry that is no longer needed is refused, too.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("spaces", "targets", "pruning", "results", "search")

PASS_ATTRIBUTES_ON = {
    "search/study/stored_study.py": "waits for a database that is away, whatever is read or written",
}
"""Files that give attributes to Optuna, or take them from it. Their keys are known in `results/record/` alone."""

PLAIN = ("as_dict", "as_json", "document", "from_dict", "from_json", "parse", "to_attrs")
"""How functions are called, or their names end, that turn a value into plain ones or read it from them."""

_CHECKPOINT = "ultralytics: yaml and checkpoint of a network"
_TRAINING = "ultralytics: arguments of training, batches and metrics"
_PARAMETERS = "Optuna: parameters of a trial"
_TABLES = "Optuna: its tables"
_RAY = "Ray: config and results of a Tune trial"
_YAML = "YAML: a description before it is validated, or as it is stored"
_BUNDLE = "JSON: the description of a bundle"

UNTYPED = {
    "pruning/data/data_yaml.py": "YAML: data.yaml",
    "pruning/yolo/detector.py": _CHECKPOINT,
    "pruning/training/hyperparameters.py": _TRAINING,
    "pruning/data/images.py": _TRAINING,
    "pruning/structure/layers.py": _CHECKPOINT,
    "pruning/training/loaders.py": _TRAINING,
    "pruning/pipeline.py": _CHECKPOINT,
    "pruning/stages/stage_runner.py": "JSON: what a stage is made of, whatever its kind",
    "pruning/stages/stage.py": "JSON: what a stage is made of, whatever its kind",
    "pruning/stages/store.py": "JSON: what a stage is made of, whatever its kind",
    "pruning/testing/family.py": _CHECKPOINT,
    "pruning/yolo/tasks.py": _CHECKPOINT,
    "pruning/training/trainer.py": _TRAINING,
    "pruning/training/values.py": _TRAINING,
    "results/bundle/bundle.py": _BUNDLE,
    "results/figures/front_figure.py": "plotly: options of a trace",
    "results/figures/parameter_figures.py": "plotly: options of a trace",
    "results/record/confirmation.py": "reads attributes of a study",
    "results/record/trial.py": "reads attributes of a trial",
    "results/bundle/model_card.py": _BUNDLE,
    "results/storage/storage.py": _TABLES,
    "results/bundle/verify.py": "runs without prunetune: the JSON of a bundle",
    "search/study/limits.py": _YAML,
    "search/callbacks/mlflow.py": "MLflow: parameters of a run",
    "search/study/overrides.py": _YAML,
    "search/ray_tune/searcher.py": _RAY,
    "search/ray_tune/worker.py": _RAY,
    "search/samplers/search_trials.py": _PARAMETERS,
    "search/study/study_spec.py": _YAML,
    "search/study/spec_change.py": _YAML,
    "search/study/stored_study.py": _TABLES,
    "search/study/open_study.py": _YAML,
    "search/options/target_option.py": _YAML,
    "search/callbacks/tracking.py": "MLflow and W&B: parameters of a run",
    "search/trial/trial_files.py": "JSON: files of histories",
    "search/callbacks/wandb.py": "W&B: parameters of a run",
    "spaces/fields.py": "reads plain values, whatever they are",
    "spaces/recipe.py": _YAML,
    "spaces/space.py": _PARAMETERS,
    "spaces/yaml_file.py": _YAML,
    "targets/measure/isolation.py": "JSON: a network for another process",
    "targets/latency_model/onnx_graph.py": "ONNX: attributes of a node",
    "targets/spec.py": _YAML,
    "targets/latency_model/synthesis.py": "ONNX: tensors by name",
}
"""Files at the edge of a format that is not ours."""

_MODULE = "torch: layers are cut, and their modes set, in place"
_PATCH = "ultralytics: what it gets wrong is replaced in its modules"

ASSIGN = {
    "pruning/yolo/area_attention.py": _MODULE,
    "pruning/training/batchnorm.py": _MODULE,
    "pruning/structure/blocks.py": _MODULE,
    "pruning/yolo/compat.py": _PATCH,
    "pruning/structure/depth.py": _MODULE,
    "pruning/yolo/detector.py": _MODULE,
    "pruning/training/evaluation.py": _MODULE,
    "pruning/yolo/export.py": _MODULE,
    "pruning/training/loaders.py": "ultralytics: transforms of a data set",
    "pruning/surgery/surgery.py": _MODULE,
    "pruning/testing/family.py": _MODULE,
    "pruning/training/trainer.py": "ultralytics: a trainer sets up its model and validator",
    "results/bundle/verify.py": _PATCH,
    "search/commands/splice.py": "Optuna: when a trial began",
    "search/engine/taking.py": "Optuna: the sampler of a study",
    "targets/latency_model/synthesis.py": "ONNX: attributes of a node",
}
"""Files that change objects of libraries, as those want it."""


@cache
def sources() -> Mapping[str, ast.Module]:
    """The syntax tree of each file, by its path."""
    files = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def refuse(found: list[tuple[str, int, str]], allowed: Mapping[str, str], why: str) -> None:
    """Fails with a line for each path, line and text that was found, and for each entry that allows nothing."""
    lines = [f"  {path}:{line}: {text}" for path, line, text in found if path not in allowed]
    assert not lines, "\n".join([why, *lines])
    assert not (idle := set(allowed) - {path for path, _, _ in found}), f"need no exception any more: {sorted(idle)}"


# Attributes of trials and studies


@cache
def keys() -> frozenset[str]:
    """All that a trial's and a study's attributes are called."""
    trial, study = (ast.walk(sources()[f"results/record/{name}.py"]) for name in ("trial", "study"))
    writer = next(node for node in trial if isinstance(node, ast.FunctionDef) and node.name == "to_attrs")
    written = next(node for node in ast.walk(writer) if isinstance(node, ast.Dict))
    record = next(node for node in study if isinstance(node, ast.ClassDef) and node.name == "StudyRecord")
    fields = {ast.unparse(node.target) for node in record.body if isinstance(node, ast.AnnAssign)}
    return frozenset(fields | {str(key.value) for key in written.keys if isinstance(key, ast.Constant)})


def reaches_attributes(node: ast.AST) -> bool:
    """Whether it reads or writes user attributes. `user_attrs=record.to_attrs()` is how a record is told."""
    if isinstance(node, ast.keyword):
        return node.arg == "user_attrs" and not ast.unparse(node.value).endswith(".to_attrs()")
    return isinstance(node, ast.Attribute) and node.attr in ("user_attrs", "set_user_attr", "set_user_attrs")


def literal_key(node: ast.AST) -> str:
    """The literal by which something is looked up in a mapping, or set; empty if there is none."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        first, names = node.args[0], ("get", "pop", "setdefault", "set_user_attr")
        return str(first.value) if node.func.attr in names and isinstance(first, ast.Constant) else ""
    return ""


def test_only_records_know_the_attributes_of_trials_and_studies() -> None:
    nodes = [
        (path, node)
        for path, tree in sources().items()
        if not path.startswith("results/record/")
        for node in ast.walk(tree)
        if isinstance(node, ast.expr | ast.keyword)
    ]
    reached = [(path, node.lineno, ast.unparse(node)) for path, node in nodes if reaches_attributes(node)]
    refuse(reached, PASS_ATTRIBUTES_ON, "attributes are read by TrialRecord and StudyRecord, and written by them:")
    passed = [(path, node.lineno, literal_key(node)) for path, node in nodes if path in PASS_ATTRIBUTES_ON]
    known = [(path, line, key) for path, line, key in passed if key in keys()]
    refuse(known, {}, "the keys of attributes are known in results/record/ alone:")


# Untyped results


def is_untyped(annotation: ast.expr | None) -> bool:
    """Whether a `dict[str, Any]`, or one of its kind, is in an annotation."""
    text = ast.unparse(annotation) if annotation is not None else ""
    return any(f"{kind}[str, Any]" in text for kind in ("dict", "Mapping"))


def test_no_result_travels_as_a_dictionary() -> None:
    found = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.name.endswith(PLAIN):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                untyped = [argument.arg for argument in given if is_untyped(argument.annotation)]
                untyped += ["what it returns"] if is_untyped(node.returns) else []
                found += [(path, node.lineno, f"{node.name}: {', '.join(untyped)}")] if untyped else []
    refuse(found, UNTYPED, "what is found has a type, and is no dict[str, Any] or Mapping[str, Any]:")


# Assignments from outside


def scopes(tree: ast.AST) -> Iterator[tuple[ast.AST, frozenset[str]]]:
    """Functions with all that is in them, and the statements around them; and what is theirs to change."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            made = made_in(node)
            yield from (
                (scope, own | {node.name} | {name for name in made if "." in name}) for scope, own in scopes(node)
            )
        else:
            yield node, frozenset({"self", "cls", *made_in(node)})


def made_in(scope: ast.AST) -> frozenset[str]:
    """The variables and attributes that get a new object: a class is called, or something is copied."""
    return frozenset(ast.unparse(target) for target, value in assigned(scope) if is_made(value))


def is_made(value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call):
        return False
    name = ast.unparse(value.func).rpartition(".")[2].strip("_")
    return name[:1].isupper() or name in ("cls", "copy", "deepcopy", "local", "new")


def assigned(scope: ast.AST) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Each target of an assignment with what it gets; for `setattr`, an attribute of its object."""
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets, value=value):
                yield from ((part, value) for target in targets for part in parts(target))
            case ast.withitem(optional_vars=ast.expr() as target, context_expr=value):
                yield from ((part, value) for part in parts(target))
            case ast.AnnAssign(target=target, value=value):
                yield target, value
            case ast.AugAssign(target=target) | ast.For(target=target):
                yield from ((part, None) for part in parts(target))
            case ast.Delete(targets=targets):
                yield from ((target, None) for target in targets)
            case ast.Call(
                func=ast.Name(id="setattr" | "delattr") | ast.Attribute(attr="__setattr__"), args=[owner, *_]
            ):
                yield ast.Attribute(owner, "(setattr)", lineno=node.lineno), None


def parts(target: ast.expr) -> list[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        return [part for item in target.elts for part in parts(item)]
    return [target]


def test_nobody_assigns_attributes_of_other_objects() -> None:
    found = [
        (path, target.lineno, ast.unparse(target))
        for path, tree in sources().items()
        for scope, own in scopes(tree)
        for target, _ in assigned(scope)
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) not in own
    ]
    refuse(found, ASSIGN, "an object alone assigns its attributes: give it the value, or let it return one:")


# Optuna's private names


PRIVATE_NAMES = (
    "_storage",
    "_study_id",
    "_trial_id",
    "_system_attrs",
    "_get_trials",
    "_cached_frozen_trial",
    "_backend",
)
"""Attributes of Optuna's studies, trials and storages that it does not promise."""


def private_name(node: ast.AST) -> str:
    """What of Optuna's a node uses that begins with an underscore; empty if nothing."""
    if isinstance(node, ast.Attribute) and node.attr in PRIVATE_NAMES and ast.unparse(node.value) != "self":
        return ast.unparse(node)
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optuna":
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        return next((name for name in names if "._" in name), "")
    return ""


def test_nothing_rests_on_private_names_of_optuna() -> None:
    found = [
        (path, getattr(node, "lineno", 0), name)
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if (name := private_name(node))
    ]
    refuse(found, {}, "the next version of Optuna may have no such name:")


# Circles


def imported(path: str) -> set[str]:
    """The files that a file imports, wherever in it."""
    found = set[str | None]()
    for node in ast.walk(sources()[path]):
        if isinstance(node, ast.Import):
            found |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {file_of(f"{node.module}.{alias.name}") or file_of(node.module) for alias in node.names}
    return {file for file in found if file is not None and file != path}


def file_of(module: str | None) -> str | None:
    """The file of a module of prunetune; None for anything else."""
    package, _, name = (module or "").partition(".")
    stem = name.replace(".", "/")
    files = [f"{stem}.py", f"{stem}/__init__.py"] if package == "prunetune" else []
    return next((file for file in files if file in sources()), None)


def test_no_two_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({path: imported(path) for path in sources()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports, be they in functions or for types alone: {' <- '.join(error.args[1])}")


# Rooms and folders


BELOW = {
    "spaces": (),
    "targets": ("spaces",),
    "pruning": ("spaces",),
    "results": ("spaces", "targets", "pruning"),
    "search": ("spaces", "targets", "pruning", "results"),
}
"""The rooms that the files of a room may import."""

ORDER = {
    "targets": (
        *("budget", "network", "violation", "programs", "spec", "latency", "protocol"),
        *("measure", "latency_model", "backends", "create", "testing"),
    ),
    "pruning": (
        *("structure", "yolo", "data", "planning", "surgery", "training", "accuracy", "stages"),
        *("recipe_planning", "pipeline", "testing"),
    ),
    "results": ("record", "findings", "storage", "tables", "figures", "report", "bundle", "dashboard", "study_results"),
    "search": (
        *("interruption", "study", "latency", "trial", "samplers", "callbacks", "engine", "ray_tune"),
        *("runner", "local_workers", "options", "commands", "cli"),
    ),
}
"""What is in a room, folders and files, from the ground up: none imports what comes after it. `spaces/` is flat."""

MOST_FILES = 15
"""In one folder, beside its `__init__.py`."""

COMMANDS = "search/commands/"
"""Files that are called as their commands are, whatever there is of that name in other rooms."""


def rank(path: str) -> int:
    """How far from the ground a file is in its room. The room's own `__init__.py` is above all."""
    room, place = path.split("/")[:2]
    return ORDER[room].index(place.removesuffix(".py")) if place != "__init__.py" else len(ORDER[room])


def is_below(other: str, path: str) -> bool:
    """Whether a file may import another one."""
    rooms = path.split("/")[0], other.split("/")[0]
    if rooms[0] != rooms[1]:
        return rooms[1] in BELOW[rooms[0]]
    return rooms[0] not in ORDER or rank(other) <= rank(path)


def test_a_file_imports_only_what_is_below_its_room_and_its_folder() -> None:
    for room, order in ORDER.items():
        places = {path.split("/")[1].removesuffix(".py") for path in sources() if path.startswith(f"{room}/")}
        assert places == {*order, "__init__"}, room
    found = [(path, 1, other) for path in sources() for other in sorted(imported(path)) if not is_below(other, path)]
    refuse(found, {}, "a file imports what is below it:")


def test_a_folder_has_few_files_and_a_file_a_name_of_its_own() -> None:
    files = [path for path in sources() if not path.endswith("/__init__.py")]
    counts = Counter(path.rpartition("/")[0] for path in files)
    assert not {folder: count for folder, count in counts.items() if count > MOST_FILES}, "too many files in a folder"
    rooms: dict[str, set[str]] = {}
    for path in files:
        if not path.startswith(COMMANDS):
            rooms.setdefault(path.rpartition("/")[2], set()).add(path.split("/")[0])
    assert not {name: found for name, found in rooms.items() if len(found) > 1}, "one name in two rooms"
