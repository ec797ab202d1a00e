"""The table of controls and front in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunetune.results.findings.findings import Findings, Source
from prunetune.results.tables.escapes import printable
from prunetune.results.tables.headline import against_baselines
from prunetune.results.tables.rows import TESTED, Row, caption, columns, narrow_columns, rows

if TYPE_CHECKING:
    from rich.table import Table

_WIDE = 150
"""From this width on a terminal has room for all columns."""


def rich_table(study: Source, width: int | None = None) -> Table:
    """The table for the terminal. Controls are dim, the most accurate member is bold.

    Args:
        study: What to show.
        width: Columns of the terminal. In a narrow one remarks and test accuracies stand under the table.
    """
    # rich is not needed by anything that only writes files.
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    found = Findings.of(study)
    lines = rows(found)
    is_narrow = width is not None and width < _WIDE
    shown = narrow_columns(lines) if is_narrow else columns(lines)
    below = [_below(line) for line in lines] if is_narrow else []
    table = Table(title=Text(printable(found.name)), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    verdict = "" if found.best is None else against_baselines(found, found.best)
    told = [*below, printable(verdict), printable(caption(found))]
    table.caption = Text("\n".join(words for words in told if words))
    table.caption_justify = "left"
    for column in shown:
        table.add_column(Text(printable(column.title)), justify="right" if column.is_number else "left")
    for line in lines:
        is_winner = found.best is not None and line.network.name == found.best.name
        style = "dim" if line.kind == "control" else "bold" if is_winner else ""
        table.add_row(*(Text(printable(column.cell(line))) for column in shown), style=style)
    return table


def _below(row: Row) -> str:
    """What a narrow terminal shows of a row under the table."""
    tested = [f"{column.title} {column.cell(row)}" for column in TESTED if column.cell(row)]
    words = "; ".join(part for part in (row.remarks, ", ".join(tested)) if part)
    return printable(f"{row.model}: {words}") if words else ""
