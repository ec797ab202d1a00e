"""A study without a file: what it is to be is chosen, written as its study.yaml, and read there when it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from prunetune.pruning.data.data_source import locate
from prunetune.pruning.training.values import TrainingFailureError, TrainingSpeed
from prunetune.search.engine.study_check import checked_model, inspected_data
from prunetune.search.engine.study_facts import measured_speed, read_facts
from prunetune.search.interruption import safe_point
from prunetune.search.study.auto import (
    HOURS,
    AutoStudy,
    Chosen,
    choose_sizes,
    choose_study,
    is_given,
    study_document,
    study_name,
)
from prunetune.search.study.open_study import study_exists, study_lock
from prunetune.search.study.study_file import study_text, summary
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError
from prunetune.spaces.files import storage_error, write_text

FILE = "study.yaml"
"""What a chosen description is called in its study's folder."""


def study_without_file(given: Sequence[str], workers: int | None, say: Callable[[str], None]) -> StudySpec:
    """The study of a model and data: what was chosen for it before, or else what is chosen now, which is written.

    Args:
        given: Overrides, with `model=...` and `data=...` among them.
        workers: Trials at once; None: one for each device.
        say: Is told in a few lines what was chosen.

    Raises:
        ConfigError: Something is wrong with what was given, or a study of that name has another model or other data.
        StoreError: The file cannot be written.
    """
    wanted = _wanted(given)
    file = wanted.folder / FILE
    if not os.path.isfile(file):
        if study_exists(wanted):
            raise ConfigError(
                f"name: {wanted.name} is a study that began with a file of its own; go on with that, or start another "
                f"one with name={wanted.name}-2"
            )
        study = choose(given, workers)
        try:
            wanted.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(wanted.folder, error) from error
        with study_lock(wanted.folder):
            if not os.path.isfile(file):  # another process may have been faster
                write_text(file, study_text(study, given, str(file)))
        for line in (*summary(study, given), f"written as {file}, which the same command goes on with"):
            say(line)
    return _written(file, wanted, given)


def choose(given: Sequence[str], workers: int | None = None) -> AutoStudy:
    """What a study of a model and data is to be on this machine, where a few steps are trained.

    Args:
        given: Overrides, with `model=...` and `data=...` among them.
        workers: Trials at once; None: one for each device.

    Raises:
        ConfigError, DatasetError, ModelError: Something is wrong with what was given.
    """
    wanted = _wanted(given)
    original = checked_model(wanted)
    dataset, source = inspected_data(wanted, original)
    facts = read_facts(wanted, original, dataset, source)
    sizes = choose_sizes(facts)
    while True:
        spec = _wanted(given, sizes)
        try:
            speed: TrainingSpeed = measured_speed(spec, dataset, source)
            break
        except TrainingFailureError as error:
            if error.cause != "OUT_OF_MEMORY" or is_given("batch", given) or spec.batch == 1:
                raise ConfigError(f"model: {spec.model}: {error.cause}: {error}") from error
            halved = Chosen("batch", spec.batch // 2, f"{spec.batch} do not fit into memory")
            sizes = (sizes[0], halved, sizes[2])
    safe_point()
    hours = HOURS if wanted.hours is None else wanted.hours
    return choose_study(facts, sizes, speed, hours, given, workers or len(spec.devices))


def _wanted(given: Sequence[str], sizes: Sequence[Chosen] = ()) -> StudySpec:
    """What was given, with any space where none was: whatever is wrong is told before something is measured."""
    if file := next((word for word in given if "=" not in word), None):
        others = " ".join(word for word in given if word != file)
        raise ConfigError(f"{file}: the study's file comes first: prunetune run {file} {others}")
    words = study_document((), given)
    if missing := [key for key in ("model", "data") if not words.get(key)]:
        raise ConfigError(
            f"{' and '.join(missing)}: missing; a study begins with its file, prunetune run study.yaml, or without one "
            "by model=best.pt data=data.yaml"
        )
    name = study_name(str(words["data"]), str(words["model"]))
    base = (Chosen("name", name, ""), Chosen("space.preset", "yolov5-slimming", ""), *sizes)
    return StudySpec.parse(study_document(base, given))


def _written(file: Path, wanted: StudySpec, given: Sequence[str]) -> StudySpec:
    """The description that was chosen before, with further overrides laid over it."""
    stored = StudySpec.read(file)
    for key in ("model", "data"):
        before, now = getattr(stored, key), getattr(wanted, key)
        if _place(before) != _place(now):
            raise ConfigError(
                f"name: {file} is of {key}={before}, and not of {now}; give this study another name, for example "
                f"name={wanted.name}-2"
            )
    own = ("model", "data", "name")
    return StudySpec.read(file, [override for override in given if override.partition("=")[0] not in own])


def _place(named: str) -> str:
    """Where a file is; a folder stands for the data set that is described in it."""
    return os.path.realpath(locate(named).file if os.path.isdir(named) else named)
