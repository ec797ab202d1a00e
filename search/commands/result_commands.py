"""The commands that say more of what a study found. What only reads a study starts without torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from prunetune.search.options.options import require_file, require_folder
from prunetune.search.options.output import console, write_json
from prunetune.spaces import ConfigError

if TYPE_CHECKING:
    from prunetune.results.findings.findings import Source

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, its folder, or its study.yaml.")]
RunsOption = Annotated[str, typer.Option("--runs", help="The folder of studies, where STUDY is a name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


class Form(StrEnum):
    """What a table can be written as."""

    MARKDOWN = "md"
    CSV = "csv"
    LATEX = "latex"
    PARQUET = "parquet"


_SUFFIXES = {".md": Form.MARKDOWN, ".csv": Form.CSV, ".tex": Form.LATEX, ".parquet": Form.PARQUET}


def table(
    study: StudyArgument,
    form: Annotated[
        Form | None, typer.Option("--format", help="By default what OUT's name ends in; without both, the terminal's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; by default the standard output.")] = None,
    runs: RunsOption = "runs",
) -> None:
    """Write the table of the controls and the front."""
    from prunetune.results import rich_table
    from prunetune.results.storage.storage import find_findings

    if form is None and out is not None:
        form = _SUFFIXES.get(out.suffix.lower())
        if form is None:
            raise ConfigError(f"--out: {out}: ends in none of {', '.join(_SUFFIXES)}; give --format")
    if form is Form.PARQUET and out is None:
        raise ConfigError("--format parquet: is no text; give --out FILE")
    if out is not None:
        require_file("--out", out)
    found, _ = find_findings(study, runs)
    if form is None:
        screen = console()
        screen.print(rich_table(found, width=screen.width))
    elif out is None:
        print(_text(found, form), end="")
    else:
        _write(found, form, out)
        print(out)


def confirm(
    study: StudyArgument,
    resamples: Annotated[int, typer.Option(min=100, help="How often the test images are drawn again.")] = 1000,
    runs: RunsOption = "runs",
    as_json: JsonOption = False,
) -> None:
    """Measure and test the front and the controls again, all together, and say which differences are sure."""
    from prunetune.search.commands.confirm import confirm_study, write_confirmation
    from prunetune.search.interruption import Interruption, StopAskedError
    from prunetune.search.study.open_study import find_study

    found, folder = find_study(study, runs)
    try:
        with Interruption():
            confirmed = confirm_study(found, folder, resamples, Console(stderr=True))
    except StopAskedError:
        typer.echo("stopped; the same command evaluates only what it had not evaluated yet", err=True)
        raise typer.Exit(130) from None
    if as_json:
        write_json(confirmed.as_dict())
    else:
        write_confirmation(confirmed, console())


def pictures(
    study: StudyArgument,
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    trial: Annotated[
        str | None,
        typer.Option(help="The network, such as 7, or 7.1 for its first round; by default the most accurate."),
    ] = None,
    count: Annotated[int, typer.Option("--images", min=1, help="Images taken evenly, and as many that differ.")] = 8,
    confidence: Annotated[float, typer.Option(min=0.001, max=1, help="Detections below it are not drawn.")] = 0.25,
    runs: RunsOption = "runs",
) -> None:
    """Draw what the controls and a network find on the same images, side by side."""
    from prunetune.results.storage.storage import find_findings
    from prunetune.search.commands.pictures import make_pictures

    require_folder("--out", out)
    found, folder = find_findings(study, runs)
    for path in make_pictures(found, folder, trial, out, count, confidence, Console(stderr=True)):
        print(path)


def _write(study: Source, form: Form, out: Path) -> None:
    from prunetune.results import write_parquet
    from prunetune.spaces.files import write_text

    if form is Form.PARQUET:
        write_parquet(study, out)
    else:
        write_text(out, _text(study, form))


def _text(study: Source, form: Form) -> str:
    from prunetune.results import csv_text, latex, markdown

    return {Form.MARKDOWN: markdown, Form.CSV: csv_text, Form.LATEX: latex}[form](study)
