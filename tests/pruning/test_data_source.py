"""What users call a data set: a yaml, a folder, an archive, a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from pets.folders import Folder, make_folder

from prunetune.pruning.data.data_source import data_problem
from prunetune.pruning.data.dataset import inspect_dataset
from prunetune.pruning.yolo.compat import prepare_ultralytics
from prunetune.spaces.errors import DatasetError

prepare_ultralytics()  # before: it is loud otherwise, in all tests of the process
from ultralytics.data.utils import check_det_dataset  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A data set in a folder that is the current one, with ultralytics' settings beside it."""
    settings = tmp_path / "settings" / "Ultralytics" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"datasets_dir": str(tmp_path / "sets")}))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "pets")


@pytest.mark.parametrize("data", ["pets/data.yaml", "pets", "./pets/", "{tmp}/pets", "{tmp}/pets/data.yaml"])
def test_a_yaml_or_its_folder(folder: Folder, tmp_path: Path, data: str) -> None:
    data = data.format(tmp=tmp_path)
    assert data_problem(data) is None
    found = inspect_dataset(data)
    assert found.file == folder.data
    assert check_det_dataset(data, autodownload=False)["train"] == str(found.sources["train"][0])


def test_a_folder_with_the_yaml_below(folder: Folder) -> None:
    (folder.root / "about").mkdir()
    shutil.move(folder.data, folder.root / "about" / "it.yml")
    (folder.root / "about" / "it.yml").write_text((folder.root / "about" / "it.yml").read_text() + "path: ..\n")
    assert inspect_dataset("pets").splits["train"].images == 3


def test_a_folder_with_several(folder: Folder) -> None:
    shutil.copy(folder.data, folder.root / "other.yaml")
    with pytest.raises(DatasetError, match=r"is a folder; .* several: data\.yaml, other\.yaml; give the file"):
        inspect_dataset("pets")
    shutil.copy(folder.data, folder.root / "pets.yaml")  # ultralytics takes the one that is called like the folder
    assert inspect_dataset("pets").file == folder.root / "pets.yaml"


@pytest.mark.parametrize("kind", ["zip", "gztar", "tar"])
@pytest.mark.parametrize("top", [True, False], ids=["one folder", "loose"])
def test_an_archive(folder: Folder, tmp_path: Path, kind: str, top: bool) -> None:
    given = {"root_dir": str(tmp_path), "base_dir": "pets"} if top else {"root_dir": str(folder.root)}
    archive = shutil.make_archive(str(tmp_path / "packed" / "pets"), kind, **given)
    expected = inspect_dataset(folder.data)
    shutil.rmtree(folder.root)
    for _ in range(2):  # the second time it is there
        found = inspect_dataset(archive)
        assert (found.splits, found.fingerprint) == (expected.splits, expected.fingerprint)
        assert found.file.is_relative_to(tmp_path / "sets")


@pytest.mark.parametrize("name", ["coco8", "coco8.yaml", "coco128", "coco8-grayscale"])
def test_a_name_that_ultralytics_knows(folder: Folder, tmp_path: Path, name: str) -> None:
    assert data_problem(name) is None
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(name)
    (problem,) = caught.value.problems
    root = name.removesuffix(".yaml")
    assert f"get https://github.com/ultralytics/assets/releases/download/v0.0.0/{root}.zip" in problem
    assert f"unpack it to {tmp_path / 'sets'}" in problem

    place = tmp_path / "sets" / root
    for split in ("train", "val"):
        (place / "images").mkdir(parents=True, exist_ok=True)
        (place / "labels").mkdir(exist_ok=True)
        told = yaml.safe_load((inspect_file(name)).read_text())[split]
        shutil.copytree(folder.root / "images" / split, place / told)
        shutil.copytree(folder.root / "labels" / split, place / told.replace("images", "labels"), dirs_exist_ok=True)
        if told == "images/train2017":
            break
    found = inspect_dataset(name)
    assert found.root == place
    assert len(found.names) == 80
    assert found.names[0] == "person"
    assert found.channels == (1 if "grayscale" in name else 3)


def inspect_file(name: str) -> Path:
    import ultralytics

    return Path(ultralytics.__file__).parent / "cfg" / "datasets" / f"{name.removesuffix('.yaml')}.yaml"


@pytest.mark.parametrize(
    ("data", "phrase"),
    [
        ("https://host/pets.zip", "downloads nothing"),
        ("ul://user/datasets/pets", "downloads nothing"),
        ("pets.ndjson", "downloads nothing"),
        ("coco9", "does not exist"),
        ("yolov5n.yaml", "does not exist"),  # ultralytics has one, which is a model
        ("x" * 5000, "cannot be a path"),
        ("a\0b", "does not exist"),
    ],
)
def test_what_is_not_there(folder: Folder, data: str, phrase: str) -> None:
    assert data_problem(data) is not None
    with pytest.raises(DatasetError, match=phrase):
        inspect_dataset(data)


@pytest.mark.parametrize("nc", [2, "2", 2.0])
def test_a_number_of_classes_without_names(folder: Folder, nc: object) -> None:
    folder.describe(names="remove", nc=nc)
    found = inspect_dataset(folder.data)
    assert found.names == tuple(check_det_dataset(str(folder.data), autodownload=False)["names"].values())
    assert found.names == ("class_0", "class_1")


@pytest.mark.parametrize("nc", [0, -1, "two", 1.5, True, 10**9])
def test_a_number_of_classes_that_is_none(folder: Folder, nc: object) -> None:
    folder.describe(names="remove", nc=nc)
    with pytest.raises(DatasetError, match="nc: must be the number of classes"):
        inspect_dataset(folder.data)


@pytest.mark.parametrize("start", ["here", "sets"])
def test_a_path_that_does_not_start_at_the_yaml(folder: Folder, tmp_path: Path, start: str) -> None:
    expected = inspect_dataset(folder.data)
    place = tmp_path if start == "here" else tmp_path / "sets"
    (tmp_path / "configs").mkdir()
    folder.describe(path="animals")
    shutil.move(folder.data, tmp_path / "configs" / "data.yaml")
    place.mkdir(exist_ok=True)
    shutil.move(folder.root, place / "animals")
    found = inspect_dataset("configs/data.yaml")
    assert (found.splits, found.fingerprint) == (expected.splits, expected.fingerprint)


@pytest.mark.parametrize("path", [r"C:\data\pets", "D:/pets", "/nowhere/pets"])
def test_a_path_of_another_machine(folder: Folder, path: str) -> None:
    folder.describe(path=path)
    with pytest.raises(DatasetError) as caught:
        inspect_dataset(folder.data)
    (problem,) = caught.value.problems
    assert problem.startswith(f"path: {path} does not exist in ")
