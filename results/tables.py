"""The table of controls and front, for Markdown, CSV and the terminal, in the form such reports have."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from prunetune.results.entries import Entry, number, recipe_text
from prunetune.results.findings import Findings, Source

if TYPE_CHECKING:
    from rich.table import Table

Kind: TypeAlias = Literal["control", "front"]


@dataclass(frozen=True)
class Row:
    """One line of the table, as values."""

    model: str
    kind: Kind
    map50: float | None
    map50_95: float | None
    f1: float | None
    params: int | None
    latency_ms: float | None
    latency_ratio: float | None
    gflops: float | None
    params_removed: float | None
    recipe: str
    test_map50: float | None
    test_map50_95: float | None
    trial: int | None
    """The trial's number; None for a control."""


@dataclass(frozen=True)
class Column:
    """How one column reads: its title, and its cell's text for a row."""

    title: str
    cell: Callable[[Row], str]
    is_number: bool = True


_COLUMNS = (
    Column("model", lambda row: row.model, is_number=False),
    Column("mAP50", lambda row: decimals(row.map50)),
    Column("mmAP", lambda row: decimals(row.map50_95)),
    Column("F1", lambda row: decimals(row.f1)),
    Column("size", lambda row: size(row.params)),
    Column("latency", lambda row: latency(row.latency_ms, row.latency_ratio)),
    Column("GFLOPs", lambda row: significant(row.gflops)),
    Column("params removed", lambda row: percent(row.params_removed)),
)
_RECIPE_COLUMN = Column("recipe", lambda row: row.recipe, is_number=False)
_WIDE = 130
"""From this width on a terminal has room for all columns."""
_TEST_COLUMNS = (
    Column("test mAP50", lambda row: decimals(row.test_map50)),
    Column("test mmAP", lambda row: decimals(row.test_map50_95)),
)


def rows(study: Source) -> list[Row]:
    """The controls in their order, then the front by rising latency."""
    found = Findings.of(study)
    table = [_row(found, name, name, item) for name, item in found.controls.items()]
    return table + [_row(found, f"trial {item.trial}", str(item.trial), item) for item in found.front]


def columns(table: list[Row]) -> list[Column]:
    """The columns that the rows need: those of the test split only if anything was tested."""
    return [*_COLUMNS, *(_TEST_COLUMNS if _is_tested(table) else ()), _RECIPE_COLUMN]


def markdown(study: Source) -> str:
    """The table in Markdown. mmAP is map50_95; latency is in ms and in multiples of the dense network's."""
    table = rows(study)
    shown = columns(table)
    lines = [
        _markdown_line(column.title for column in shown),
        _markdown_line("---:" if column.is_number else "---" for column in shown),
        *(_markdown_line(column.cell(row) for column in shown) for row in table),
    ]
    return "\n".join(lines) + "\n"


def csv_text(study: Source) -> str:
    """The table as CSV: plain numbers at full precision (fractions for percents, a count for the size)."""
    table = rows(study)
    names = ["model", "kind", "map50", "map50_95", "f1", "params", "latency_ms", "latency_ratio", "gflops"]
    names += ["params_removed", *(["test_map50", "test_map50_95"] if _is_tested(table) else []), "recipe"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in table)
    return out.getvalue()


def rich_table(study: Source, width: int | None = None) -> Table:
    """The table for the terminal. Controls are dim, the most accurate member is bold.

    Args:
        study: What to show.
        width: Columns of the terminal. In a narrow one recipes and test accuracies stand under the table.
    """
    # rich is not needed by anything that only writes files.
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    found = Findings.of(study)
    lines = rows(found)
    is_narrow = width is not None and width < _WIDE
    shown = list(_COLUMNS) if is_narrow else columns(lines)
    below = [_below(line) for line in lines] if is_narrow else []
    table = Table(title=Text(found.name), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.caption = Text("\n".join([*(words for words in below if words), caption(found)]))
    table.caption_justify = "left"
    for column in shown:
        table.add_column(column.title, justify="right" if column.is_number else "left")
    winner = found.best.trial if found.best else None
    for line in lines:
        is_winner = line.trial is not None and line.trial == winner
        style = "dim" if line.kind == "control" else "bold" if is_winner else ""
        table.add_row(*(Text(column.cell(line)) for column in shown), style=style)
    return table


def caption(study: Source) -> str:
    """What stands under the table: budget, hypervolume and how the trials ended."""
    found = Findings.of(study)
    ended = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.counts.items() if count)
    parts = [
        budget_text(found),
        "" if found.hypervolume is None else f"hypervolume {found.hypervolume:.3f}",
        f"trials: {ended or 'none yet'}",
    ]
    return "; ".join(part for part in parts if part)


def budget_text(study: Source) -> str:
    """The budget in words: what the user wrote, and what it is in ms. Empty without a budget."""
    found = Findings.of(study)
    limit = f"{significant(found.budget_ms)} ms" if found.budget_ms is not None else ""
    told = found.budget_text or ""
    if told and limit and not told.endswith("ms"):
        return f"budget {told} ({limit})"
    return f"budget {told or f'<= {limit}'}" if told or limit else ""


def decimals(value: float | None) -> str:
    """Three decimals, as accuracies are written."""
    return "" if value is None else f"{value:.3f}"


def significant(value: float | None) -> str:
    """Three significant digits and no exponent: 1.00, 18.6, 120."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    places = 2
    while places < 6 and abs(value) < 10.0 ** (2 - places):
        places += 1
    while places > 0 and round(abs(value), places) >= 10.0 ** (3 - places):
        places -= 1
    return f"{value:.{places}f}"


def size(params: int | None) -> str:
    """A count of parameters: 15.1M, 3.90M, 488K."""
    if params is None:
        return ""
    if params < 999.5:
        return str(params)
    return f"{significant(params / 1e6)}M" if params >= 999_500 else f"{significant(params / 1e3)}K"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    return "" if fraction is None else f"{100 * fraction:.1f} %"


def latency(latency_ms: float | None, ratio: float | None) -> str:
    """Latency in ms, and in multiples of the dense network's where known."""
    if latency_ms is None:
        return ""
    return f"{significant(latency_ms)} ms" + ("" if ratio is None else f" ({ratio:.2f}x)")


def _row(found: Findings, model: str, name: str, item: Entry) -> Row:
    test = found.test_accuracy(name)
    return Row(
        model=model,
        kind="control" if item.trial is None else "front",
        map50=item.map50,
        map50_95=item.map50_95,
        f1=item.f1,
        params=item.params,
        latency_ms=item.latency_ms,
        latency_ratio=item.latency_ratio,
        gflops=item.gflops,
        params_removed=item.params_removed,
        recipe=recipe_text(item.recipe),
        test_map50=number(test.get("map50")),
        test_map50_95=number(test.get("map50_95")),
        trial=item.trial,
    )


def _below(row: Row) -> str:
    """What a narrow terminal shows of a row under the table."""
    tested = [f"{column.title} {column.cell(row)}" for column in _TEST_COLUMNS if column.cell(row)]
    words = "; ".join(part for part in (row.recipe, ", ".join(tested)) if part)
    return f"{row.model}: {words}" if words else ""


def _is_tested(table: list[Row]) -> bool:
    return any(row.test_map50 is not None or row.test_map50_95 is not None for row in table)


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
