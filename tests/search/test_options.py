"""Where commands may write: mistyped paths make no folders, and nothing that a study needs is overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.results.record import StudiedTarget, StudyRecord
from prunetune.search.options.options import named, require_file, require_folder
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.spaces import ConfigError

Prunetune = Callable[..., Any]


@pytest.fixture
def study(make_spec: Callable[..., StudySpec]) -> Path:
    """The folder of a study without trials."""
    spec = make_spec()
    opened = open_study(spec)
    StudyRecord.store(opened, targets=(StudiedTarget("cpu", budget_text="<= dense", budget_ms=1.0),))
    return spec.folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--out", "tpyo/deep/report.html"],
        ["report", "--png", "tpyo/deep/front.png"],
        ["table", "--out", "tpyo/deep/front.csv"],
        ["export", "--trial", "0", "--out", "tpyo/deep/bundle"],
        ["pictures", "--out", "tpyo/deep/pictures"],
    ],
)
def test_a_mistyped_path_makes_no_folders(
    arguments: list[str], study: Path, prunetune: Prunetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = prunetune(arguments[0], study, *arguments[1:]).complaint
    folder = "tpyo/deep" if arguments[0] in ("export", "pictures") else "tpyo"
    assert message == f"{arguments[-2]}: there is no folder {folder}; make it first, or correct the path"
    assert not (tmp_path / "tpyo").exists()


def test_one_folder_is_made(study: Path, prunetune: Prunetune, tmp_path: Path) -> None:
    assert prunetune("table", study, "--out", tmp_path / "figures" / "front.tex").code == 0
    assert (tmp_path / "figures" / "front.tex").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "--out", "study.db"], "ends in none of .html, .htm; call it"),
        (["report", "--out", "."], "is a folder; give a file"),
        (["report", "--png", "candidates/trial-0.pt"], "ends in none of .png"),
        (["table", "--format", "csv", "--out", "study.db"], "is a file that a study needs"),
        (["table", "--format", "md", "--out", "candidates/trial-0.pt"], "is a file that a study needs"),
    ],
)
def test_no_file_of_a_study_is_overwritten(arguments: list[str], words: str, study: Path, prunetune: Prunetune) -> None:
    (study / "candidates").mkdir()
    (study / "candidates" / "trial-0.pt").write_text("a network")
    kept = shutil.copytree(study, study.parent / "kept")
    *options, place = arguments
    assert words in prunetune(options[0], study, *options[1:], study / place).complaint
    for name in ("study.db", "candidates/trial-0.pt"):
        assert (study / name).read_bytes() == (kept / name).read_bytes()


def test_results_are_written_anew(study: Path, prunetune: Prunetune) -> None:
    for _ in range(2):
        assert prunetune("report", study, "--out", study / "report.html").code == 0
        assert prunetune("table", study, "--out", study / "front.csv").code == 0


def test_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_file("--out", tmp_path / "new" / "x.csv", (".csv",))
    require_folder("--out", tmp_path / "new")
    with pytest.raises(ConfigError, match=r"--out: .*file: is a file, and no folder"):
        require_file("--out", tmp_path / "file" / "x.csv")
    with pytest.raises(ConfigError, match=r"--out: .*file: is a file; give a folder"):
        require_folder("--out", tmp_path / "file")


def test_an_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--trial 7: is none$"), named("--trial"):
        raise ConfigError("7: is none")


def test_a_name_that_no_file_system_takes(tmp_path: Path) -> None:
    for require in (require_file, require_folder):
        with pytest.raises(ConfigError, match=r"--out: ääää.*: is longer than 255 bytes"):
            require("--out", tmp_path / ("ä" * 130))
        require("--out", tmp_path / ("ä" * 127))
