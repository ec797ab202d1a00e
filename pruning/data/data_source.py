"""Finds a data set by what users call it, as ultralytics does, but without downloading."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prunetune.pruning.yolo.compat import datasets_folder, prepare_ultralytics
from prunetune.spaces.errors import DatasetError

_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class DataSource:
    """Where a data set is described."""

    file: Path
    """The yaml, absolute."""
    root: Path | None = None
    """The folder that its paths start from, whatever it says; None where it decides."""


def locate(data: str | Path) -> DataSource:
    """Finds the yaml of a data set.

    Args:
        data: A yaml, a folder or an archive with one, or the name of one that ultralytics ships, such as `coco8`. An
            archive is unpacked into ultralytics' folder for data sets.

    Raises:
        DatasetError: There is none, or it would have to be downloaded.
    """
    text = str(data).strip()
    if "://" in text or text.lower().endswith(".ndjson"):
        raise DatasetError("prunetune downloads nothing; fetch the images, and give the data.yaml or its folder", text)
    path = Path(text).expanduser().absolute()
    try:
        if path.is_dir():
            return DataSource(_yaml_in(path))
        if path.is_file():
            return _unpacked(path) if path.suffix.lower() not in _YAML and _is_archive(path) else DataSource(path)
    except OSError as error:  # a name that is too long
        raise DatasetError(f"cannot be a path ({error.strerror})", text) from error
    return DataSource(_shipped(text) or path)


def data_problem(data: str | Path) -> str | None:
    """Why a data set's yaml is not found by that name, if it is not."""
    try:
        file = locate(data).file
    except DatasetError as error:
        return f"data: {error}"
    return None if file.is_file() else f"data: {data}: no such file, nor a data set that ultralytics knows"


def _yaml_in(folder: Path) -> Path:
    """The yaml of a folder: at its top, else anywhere below; of several the one that is called like the folder."""
    found = next(
        (
            files
            for suffix in _YAML
            for pattern in ("*", "**/*")
            if (files := [file for file in folder.glob(pattern + suffix) if file.is_file()])
        ),
        [],
    )
    if len(found) > 1:
        found = [file for file in found if file.stem == folder.stem] or found
    if len(found) == 1:
        return found[0]
    told = f"several: {', '.join(sorted(file.name for file in found)[:5])}" if found else "none"
    raise DatasetError(
        f"is a folder; of .yaml files that describe a data set it holds {told}; give the file", str(folder)
    )


def _is_archive(file: Path) -> bool:
    return zipfile.is_zipfile(file) or tarfile.is_tarfile(file)


def _unpacked(archive: Path) -> DataSource:
    prepare_ultralytics()
    from ultralytics.utils.downloads import safe_download

    try:
        folder = Path(safe_download(archive, dir=datasets_folder(), unzip=True, delete=False, progress=False))
    except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DatasetError(f"cannot be unpacked into {datasets_folder()} ({error})", str(archive)) from error
    file = folder.absolute() if folder.is_file() else _yaml_in(folder.absolute())
    return DataSource(file, file.parent)


def _shipped(name: str) -> Path | None:
    """The yaml in ultralytics' package by a name with or without its ending."""
    package = find_spec("ultralytics")
    if package is None or not package.submodule_search_locations or Path(name).name != name:
        return None
    folder = Path(package.submodule_search_locations[0]) / "cfg" / "datasets"
    names = [name] if Path(name).suffix in _YAML else [name + suffix for suffix in _YAML]
    return next((folder / known for known in names if (folder / known).is_file()), None)
