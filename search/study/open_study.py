"""The Optuna study that a description belongs to: create it, find it, resume it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.study import StudyDirection

from prunetune.pruning.data.data_source import data_problem
from prunetune.results.findings.findings import Findings, Source
from prunetune.results.record import StudyRecord
from prunetune.results.storage.place import choose_name, place_of, sqlite_url
from prunetune.results.storage.storage import storage_errors
from prunetune.search.interruption import safe_point, stop_is_asked
from prunetune.search.study.spec_change import refuse_change
from prunetune.search.study.stored_study import StoredStudy, open_storage
from prunetune.search.study.study_spec import LIMITS, StudySpec
from prunetune.spaces import StoreError
from prunetune.spaces.files import storage_error

DATA = "data.yaml"
"""In a study's folder, the data set as it was checked, with absolute paths: ultralytics resolves relative ones in
other ways."""


def open_study(spec: StudySpec) -> StoredStudy:
    """Creates the study of a description, or finds it to go on.

    Raises:
        SpecChangedError: A study of this name has trials with another description.
        StoreError: The folder cannot be written.
    """
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(spec.folder, error) from error
    with study_lock(spec.folder), storage_errors(spec.folder, spec.storage):
        database = open_storage(spec.storage_url)
        directions: list[Literal["minimize", "maximize"]] = ["maximize"]
        directions += ["minimize" for _ in spec.objectives[1:]]
        optuna.create_study(storage=database, study_name=spec.name, directions=directions, load_if_exists=True)
        study = StoredStudy(spec.name, database)
        stored = StudyRecord.of(study).spec
        if not stored and (study.directions != [_DIRECTIONS[item] for item in directions] or study.trials):
            raise StoreError(
                f"the storage holds a study {spec.name!r} that prunetune did not start; "
                f"give this one another name, for example name={spec.name}-2"
            )
        if not stored:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(spec.objectives))
            StudyRecord.store(study, version=version("prunetune"), spec=_as_stored(spec))
        elif not study.trials and study.directions == [_DIRECTIONS[item] for item in directions]:
            StudyRecord.store(study, spec=_as_stored(spec))  # nothing was found yet that another one would not find
            if StudySpec.parse(stored).frozen_part() != spec.frozen_part():
                StudyRecord.store(study, targets=())
        else:
            refuse_change(StudySpec.parse(stored, "the stored study"), spec)
            if "storage" in stored or any(stored.get(key) != getattr(spec, key) for key in LIMITS):
                limits = spec.model_dump(include=set(LIMITS), exclude_none=True)
                kept = {key: stored[key] for key in stored if key not in (*LIMITS, "storage")}
                StudyRecord.store(study, spec=kept | limits)
    return study


def _as_stored(spec: StudySpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_none=True, exclude={"storage"})


_DIRECTIONS = {"maximize": StudyDirection.MAXIMIZE, "minimize": StudyDirection.MINIMIZE}


def study_exists(spec: StudySpec) -> bool:
    """Whether a study of this name was started before. Creates nothing."""
    if spec.storage is None and not (spec.folder / "study.db").is_file():
        return False
    with storage_errors(spec.folder, spec.storage):
        database = open_storage(spec.storage_url)
        try:
            return spec.name in optuna.get_all_study_names(storage=database)
        finally:
            database.engine.dispose()  # a server has not too many connections


def find_study(name: str, runs: str = "runs") -> tuple[StoredStudy, Path]:
    """Opens an existing study; see `prunetune.results.storage.storage.find_study`.

    Raises:
        StoreError: There is none, its database cannot be read, or prunetune did not start it.
    """
    folder, address = place_of(name, runs, None)
    with storage_errors(folder, address, runs=False):
        database = open_storage(address or sqlite_url(folder))
        study = StoredStudy(choose_name(folder, optuna.get_all_study_names(storage=database)), database)
        stored_spec(study)
    return study, folder


def stored_spec(study: Source) -> StudySpec:
    """The description that the study was started with.

    Raises:
        StoreError: The study is not one of prunetune's.
    """
    if isinstance(study, Findings):
        name, record = study.name, study.study
    else:
        name, record = study.study_name, StudyRecord.of(study)
    if not record.spec:
        raise StoreError(f"{name}: was not made by prunetune: it holds no description")
    return StudySpec.parse(record.spec, f"the stored study {name}")


def spec_here(study: Source, folder: Path) -> StudySpec:
    """The description of a study that was found, with the places where its things are now.

    Args:
        study: The study; of findings the address of a storage elsewhere is not known.
        folder: Where it was found.

    Raises:
        StoreError: The study is not one of prunetune's, or its folder has another name than it.
    """
    spec = stored_spec(study)
    if folder.name != spec.name:
        raise StoreError(f"{folder}: holds the study {spec.name}; call the folder {spec.name}, too")
    data = str(folder / DATA) if data_problem(spec.data) else spec.data
    address = None
    if isinstance(study, StoredStudy) and not (folder / "study.db").is_file():
        address = str(study.database.url)
    device = spec.devices[0]
    return spec.model_copy(update={"runs": str(folder.parent), "storage": address, "data": data, "device": device})


def study_lock(folder: Path, *, always: bool = False) -> AbstractContextManager[None]:
    """One process at a time opens a study, measures its references, asks for a trial or adds one.

    Args:
        folder: The study's.
        always: Wait for it even when a stop was asked for.
    """
    return folder_lock(folder, ".lock", always=always)


@contextmanager
def folder_lock(folder: Path, name: str, *, always: bool = False) -> Iterator[None]:
    """Holds a lock file in a study's folder; waits until no other process does.

    Raises:
        StoreError: The folder cannot be written.
        StopAskedError: A stop was asked for while another process had it.
    """
    lock = FileLock(folder / name)
    try:
        lock.acquire(cancel_check=None if always else stop_is_asked)
    except Timeout:
        safe_point()
        raise
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        yield
    finally:
        lock.release()
