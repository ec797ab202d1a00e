"""The Optuna study that a description belongs to: create it, find it, resume it."""

from __future__ import annotations

import difflib
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.study import StudyDirection

from prunetune.search.address import parse_address, public_address
from prunetune.search.interruption import safe_point, stop_is_asked
from prunetune.search.spec import LIMITS, StudySpec, sqlite_url
from prunetune.search.spec_change import refuse_change
from prunetune.search.storage import open_storage
from prunetune.search.yaml_file import read_yaml
from prunetune.spaces import ConfigError, StoreError
from prunetune.spaces.files import storage_error

SPEC = "spec"
"""The study's user attribute that holds its description."""

TARGETS = "targets"
"""The study's user attribute with its targets and what was measured once on each; empty before that."""

FINISHED = "finished"
"""The study's user attribute that says how many trials there were when its results were last written; None when
they must be written anew."""


def open_study(spec: StudySpec) -> optuna.Study:
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
        storage = open_storage(spec.storage_url)
        directions: list[Literal["minimize", "maximize"]] = ["maximize"]
        directions += ["minimize" for _ in spec.judged]
        study = optuna.create_study(storage=storage, study_name=spec.name, directions=directions, load_if_exists=True)
        stored = study.user_attrs.get(SPEC)
        if stored is None and (study.directions != [_DIRECTIONS[item] for item in directions] or study.trials):
            raise StoreError(
                f"the storage holds a study {spec.name!r} that prunetune did not start; "
                f"give this one another name, for example name={spec.name}-2"
            )
        if stored is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(spec.objectives))
            study.set_user_attr("version", version("prunetune"))
            study.set_user_attr(SPEC, _as_stored(spec))
        elif not study.trials and study.directions == [_DIRECTIONS[item] for item in directions]:
            study.set_user_attr(SPEC, _as_stored(spec))  # nothing was found yet that another description would not find
            if StudySpec.parse(stored).frozen_part() != spec.frozen_part():
                study.set_user_attr(TARGETS, [])
        else:
            refuse_change(StudySpec.parse(stored, "the stored study"), spec)
            if "storage" in stored or any(stored.get(key) != getattr(spec, key) for key in LIMITS):
                limits = spec.model_dump(include=set(LIMITS), exclude_none=True)
                kept = {key: stored[key] for key in stored if key not in (*LIMITS, "storage")}
                study.set_user_attr(SPEC, kept | limits)
    return study


def _as_stored(spec: StudySpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_none=True, exclude={"storage"})


_DIRECTIONS = {"maximize": StudyDirection.MAXIMIZE, "minimize": StudyDirection.MINIMIZE}


def study_exists(spec: StudySpec) -> bool:
    """Whether a study of this name was started before. Creates nothing."""
    if spec.storage is None and not (spec.folder / "study.db").is_file():
        return False
    with storage_errors(spec.folder, spec.storage):
        storage = open_storage(spec.storage_url)
        try:
            return spec.name in optuna.get_all_study_names(storage=storage)
        finally:
            storage.database.engine.dispose()  # a server has not too many connections


def find_study(name: str, runs: str = "runs") -> tuple[optuna.Study, Path]:
    """Opens an existing study for reading.

    Args:
        name: A study's name, its folder, or its description's file.
        runs: The folder of studies, where only a name is given.

    Returns:
        The study and its folder.

    Raises:
        StoreError: There is none, its database cannot be read, or prunetune did not start it.
    """
    storage_url = None
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        values = read_yaml(path)
        wrong = [key for key in ("name", "runs", "storage") if not isinstance(values.get(key, ""), str)]
        if wrong:
            raise ConfigError([f"{key}: takes a text, not {values[key]!r}" for key in wrong], str(path))
        folder = Path(values.get("runs", runs)) / values.get("name", "")
        storage_url = values.get("storage")
    elif os.path.isfile(path / "study.db"):  # Path.is_file raises for an overlong name
        folder = path
    else:
        folder = Path(runs) / name
    database = folder / "study.db"
    if storage_url is not None:
        _refuse_missing(storage_url)
    elif not os.path.isfile(database):
        there = [item.parent.name for item in Path(runs).glob("*/study.db")] if Path(runs).is_dir() else []
        close = difflib.get_close_matches(name, there, n=1)
        known = f"; there are {', '.join(sorted(there))}" if there else f"; {runs}/ holds none"
        raise StoreError(f"{database}: no such study" + (f"; did you mean {close[0]}?" if close else known))
    with storage_errors(folder, storage_url):
        storage = open_storage(storage_url or sqlite_url(folder))
        names = optuna.get_all_study_names(storage=storage)
        wanted = folder.name if folder.name in names or len(names) != 1 else names[0]
        if wanted not in names:
            raise StoreError(f"{folder}: holds no study named {wanted}")
        study = optuna.load_study(study_name=wanted, storage=storage)
        stored_spec(study)
        return study, folder


def stored_spec(study: optuna.Study) -> StudySpec:
    """The description that the study was started with.

    Raises:
        StoreError: The study is not one of prunetune's.
    """
    stored = study.user_attrs.get(SPEC)
    if stored is None:
        raise StoreError(f"{study.study_name}: was not made by prunetune: it holds no description")
    return StudySpec.parse(stored, f"the stored study {study.study_name}")


def study_lock(folder: Path, *, always: bool = False) -> AbstractContextManager[None]:
    """One process at a time opens a study or measures its references.

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


@contextmanager
def storage_errors(folder: Path, storage: str | None = None) -> Iterator[None]:
    """Names the study's folder, or its storage where that is elsewhere, when the database cannot be used."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, sqlite3.Error) as error:
        text = str(error.__cause__ or error).splitlines()[0]
        if storage is None and not folder.is_dir():
            raise StoreError(
                f"{folder}: the study's folder was removed while it ran; its stages are in the store, and the same "
                "command starts the study anew"
            ) from error
        if storage is not None and not storage.startswith("sqlite"):
            raise StoreError(
                f"storage: {public_address(storage)} cannot be used ({text}); what was finished is kept there and in "
                "the store, and the same command goes on when it can be reached"
            ) from error
        if "full" in text:
            raise storage_error(folder, OSError(28, "No space left on device")) from error
        if "readonly" in text or "unable to open" in text:
            raise storage_error(folder, OSError(13, "Permission denied")) from error
        remedy = "restore it from a copy, or remove the study's folder to start anew"
        if "locked" in text:
            remedy = "another program holds it; end that, and run the same command again"
        raise StoreError(f"{folder / 'study.db'}: the study's database cannot be used ({text}); {remedy}") from error
    except PermissionError as error:
        raise storage_error(folder, error) from error


def _refuse_missing(url: str) -> None:
    """Reading creates nothing: SQLite would make a file that is not there."""
    address = parse_address(url)
    if address.drivername.startswith("sqlite") and not os.path.isfile(address.database or ""):
        raise StoreError(f"storage: {address.database}: no such file; run the study first, or correct the address")
