"""The pages: their tables are those of the code, their links lead somewhere, their examples are taken."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from prunetune.search.cli import app
from prunetune.search.study.study_spec import StudySpec, parse_target
from prunetune.spaces import ConfigError
from prunetune.spaces.yaml_file import parse_yaml

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").glob("*.md"))]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
ROOMS = ("spaces", "targets", "pruning", "results", "search")
BASE: dict[str, Any] = {
    "name": "study",
    "model": "yolov5n.yaml",
    "data": "data.yaml",
    "space": {"preset": "yolov5-slimming"},
}


@cache
def generator() -> Any:
    spec = spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(kind: str) -> Iterator[tuple[Path, str]]:
    """The fenced blocks of a language, or of none, that somebody wrote, with their pages."""
    for page in PAGES:
        written = re.sub(r"<!-- commands -->.*?<!-- end -->", "", text_of(page), flags=re.DOTALL)
        for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", written, re.DOTALL | re.MULTILINE):
            if language == kind:
                yield page, body


def prose(page: Path) -> str:
    """A page without its blocks and its code."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE))


@cache
def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    without_blocks = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", without_blocks, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_generated_is_up_to_date(page: Path) -> None:
    filled = generator().filled(text_of(page))
    assert filled == text_of(page), "run: python docs/generate.py"


def test_all_keys_and_commands_stand_in_the_pages() -> None:
    keys, commands = text_of(ROOT / "docs/study-keys.md"), text_of(ROOT / "docs/command-line.md")
    for model in generator().MODELS.values():
        assert [name for name in model.model_fields if name != "kind" and f"`{name}`" not in keys] == []
    group: Any = typer.main.get_command(app)
    assert [name for name in group.commands if f"## prunetune {name}" not in commands] == []


def test_defaults_and_bounds_of_keys() -> None:
    keys = text_of(ROOT / "docs/study-keys.md")
    for row in (
        "| `imgsz` | `640` | Side of the square input in px; a multiple of the detector's coarsest stride. "
        "From 32 to 8,192, in multiples of 32. |",
        "| `cache` | `ram` | Where decoded images are kept. One of `ram`, `disk`. |",
        "| `runs` | `20` | Most rounds that count. One run of the program gives one; fewer than 6 have no 95 % "
        "interval. From 1 on. |",
    ):
        assert row in keys


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_page_is_in_the_site() -> None:
    site = parse_yaml((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), "mkdocs.yml")
    listed = {path for entry in site["nav"] for path in entry.values()}
    readmes = {page.name.replace("README", "five-minutes") for page in READMES}
    pages = {page.name for page in PAGES if page not in READMES}
    assert {path for path in listed if "/" not in path} == pages | readmes | {CONTRIBUTING.name}


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.stem)
def test_the_readme_is_short_and_begins_with_the_installation(page: Path) -> None:
    lines = text_of(page).splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("pip install") for line in lines[:40])


def test_descriptions_are_taken() -> None:
    studies = targets = 0
    for page, body in blocks("yaml"):
        values = parse_yaml(body, page.name)
        if "kind" in values:
            parse_target(values, page.name)
            targets += 1
            continue
        entries = values.get("targets", [])
        values["targets"] = [
            {"kind": "onnxruntime", "name": Path(entry).stem} if isinstance(entry, str) else entry for entry in entries
        ] or [{"kind": "onnxruntime"}]
        StudySpec.parse({**BASE, **values}, page.name)
        studies += 1
    assert studies >= 8
    assert targets >= 1


def test_the_shortest_description_is_whole() -> None:
    (body,) = (body for page, body in blocks("yaml") if page == READMES[0])
    spec = StudySpec.parse(parse_yaml(body, "README.md"))
    assert (spec.name, spec.model, spec.trust, spec.trials) == ("parcels", "best.pt", True, 30)


def commands() -> list[list[str]]:
    """The words of every command that a page gives in a block."""
    lines = [line for _, body in blocks("") for line in body.splitlines() if line.startswith("prunetune ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_commands_are_taken() -> None:
    group: Any = typer.main.get_command(app)
    taken = commands()
    for words in taken:
        command, name, rest = group, "prunetune", list(words)
        while hasattr(command, "commands"):
            name = rest.pop(0)
            command = command.commands[name]
        command.make_context(name, rest)
    assert len(taken) >= 30


def flat(text: str) -> str:
    return " ".join(text.split())


def message_patterns(page: str) -> list[re.Pattern[str]]:
    """The texts in the code that a page has parts of and that can be known again, with anything where values stand."""
    found = []
    for file in (file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "" for part in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = re.split(r"%(?:r|s|d|\.\d+f)", node.value.replace(" %%", " %"))
            else:
                continue
            plain = [flat(part) for part in parts]
            if len("".join(plain)) >= 12 and all(part in page for part in plain):
                found.append(re.compile(".*?".join(map(re.escape, plain))))
    return found


def test_questions_quote_messages_of_the_code() -> None:
    told = [body for page, body in blocks("") if page.stem == "questions"]
    messages = [flat(part) for body in told for part in re.split(r"^(?=error: )", body, flags=re.MULTILINE) if part]
    assert len(messages) >= 25
    with pytest.raises(ConfigError) as caught:
        StudySpec.parse({**BASE, "imgsz": 650}, "study.yaml")
    assert f"error: {caught.value}" in messages, "pydantic's own words, which stand nowhere in the code"
    messages.remove(f"error: {caught.value}")
    patterns = message_patterns("\n".join(messages))
    assert [message for message in messages if not any(pattern.search(message) for pattern in patterns)] == []
