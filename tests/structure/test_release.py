"""What goes with a release beside the package: the image, the citation, and what an issue asks for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from structure.test_structure import ROOT

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FIELDS = {"type", "id", "attributes", "validations"}


def read_yaml(file: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8")))


# The image


DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def copied() -> list[str]:
    """What the image gets of the repository."""
    found = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    return [name.rstrip("/") for names in found for name in names]


def test_all_that_the_image_copies_is_there_and_sent_to_it() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert lines[1] == "*", "all is left out but for what follows"
    assert sorted(sent) == sorted(copied())
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_the_image_copies_all_that_the_package_is_made_of(pyproject: dict[str, Any]) -> None:
    project, setup = pyproject["project"], pyproject["tool"]["setuptools"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert {*needed, *setup["package-dir"].values()} == set(copied())


def test_its_torch_is_the_one_that_is_pinned() -> None:
    (pinned,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    bases = re.findall(r"pytorch/pytorch:([\d.]+)-cuda[\d.]+-cudnn9-runtime", DOCKERFILE)
    assert len(bases) == 2
    assert set(bases) == {pinned}, "pip would put another torch in its place"


def test_its_extras_exist(pyproject: dict[str, Any]) -> None:
    extras = {name for names in re.findall(r"EXTRAS=(\S+)", DOCKERFILE) for name in names.rstrip(".").split(",")}
    assert "postgres" in extras, "the job's storage"
    assert extras <= pyproject["project"]["optional-dependencies"].keys()


def test_it_runs_prunetune_as_nobody_special_and_the_job_runs_it() -> None:
    job = (ROOT / "examples/cluster/kubernetes.yaml").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    assert f"--uid {user} " in DOCKERFILE
    assert f"runAsNonRoot: true, fsGroup: {user}}}" in job
    assert DOCKERFILE.rstrip().endswith('ENTRYPOINT ["prunetune"]')
    (image,) = re.findall(r"image: (\S+)", job)
    assert set(re.findall(r"registry\.example/\S+", DOCKERFILE + job)) == {image}


# The version


def test_one_version_stands_everywhere(pyproject: dict[str, Any]) -> None:
    version = pyproject["project"]["version"]
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["version"] == version
    assert citation["license"] == pyproject["project"]["license"]
    assert f"registry.example/prunetune:{version} " in DOCKERFILE
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version in sections[:2], "the newest section, or the one below what is not released"


def test_the_citation_has_what_its_format_needs() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["authors"] == [{"name": "The prunetune developers"}]
    assert citation["message"]
    assert citation["title"]


# Issues


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_templates_of_issues_are_forms(file: Path) -> None:
    form = read_yaml(file)
    if file.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form.keys() == {"name", "description", "labels", "body"}
    assert all(part.keys() <= FIELDS and part["type"] in ("input", "textarea") for part in form["body"])
    assert all(part["attributes"]["label"] for part in form["body"])
    assert len({part["id"] for part in form["body"]}) == len(form["body"])


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert [file.stem for file in TEMPLATES] == ["bug", "config", "detector", "target"]
    doctor = next(part for part in read_yaml(TEMPLATES[0])["body"] if part["id"] == "doctor")
    assert doctor["validations"] == {"required": True}
