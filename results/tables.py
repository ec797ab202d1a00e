"""The table of controls and front, for Markdown, CSV and the terminal, in the form such reports have."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from prunetune.results.entries import Entry, Reading, number, recipe_text
from prunetune.results.findings import NOISY, Findings, Source
from prunetune.results.studied_target import StudiedTarget

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
    latencies: Mapping[str, Reading] = field(hash=False)
    """By target."""
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


_LEFT_COLUMNS = (
    Column("model", lambda row: row.model, is_number=False),
    Column("mAP50", lambda row: decimals(row.map50)),
    Column("mmAP", lambda row: decimals(row.map50_95)),
    Column("F1", lambda row: decimals(row.f1)),
    Column("size", lambda row: size(row.params)),
)
_RIGHT_COLUMNS = (
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
    """The columns that the rows need: one latency a target, those of the test split only if anything was tested."""
    return [*_narrow_columns(table), *(_TEST_COLUMNS if _is_tested(table) else ()), _RECIPE_COLUMN]


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
    left = ["model", "kind", "map50", "map50_95", "f1", "params"]
    right = ["gflops", "params_removed", *(["test_map50", "test_map50_95"] if _is_tested(table) else []), "recipe"]
    measured = [(target, name) for target in _targets(table) for name in ("latency_ms", "latency_ratio")]
    is_alone = len(measured) == 2
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*left, *(name if is_alone else f"{name}@{target}" for target, name in measured), *right])
    for row in table:
        latencies = [getattr(row.latencies.get(target), name, None) for target, name in measured]
        writer.writerow([*(getattr(row, name) for name in left), *latencies, *(getattr(row, name) for name in right)])
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
    shown = _narrow_columns(lines) if is_narrow else columns(lines)
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
    """The budgets in words: what the user wrote, and what it is in ms. Empty without a budget."""
    targets = Findings.of(study).targets
    limits = {target.name: limit_text(target) for target in targets if target.has_budget}
    if not limits:
        return ""
    if len(targets) == 1:
        return f"budget {next(iter(limits.values()))}"
    return "budget " + ", ".join(f"{limit} on {name}" for name, limit in limits.items())


def limit_text(target: StudiedTarget) -> str:
    """The budget on one target, such as `<= half-width (1.20 ms)`."""
    limit = "" if target.budget_ms is None else f"{significant(target.budget_ms)} ms"
    told = target.budget_text or f"<= {limit}"
    return f"{told} ({limit})" if limit and not told.endswith("ms") else told


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


def reading_text(reading: Reading) -> str:
    """A latency with its ratio, and with its uncertainty where that is large."""
    off = reading.latency_uncertainty
    noise = f" \N{PLUS-MINUS SIGN}{100 * off:.0f} %" if off is not None and off >= NOISY else ""
    return latency(reading.latency_ms, reading.latency_ratio) + noise


def latency(latency_ms: float | None, ratio: float | None) -> str:
    """Latency in ms, and in multiples of the dense network's where known."""
    if latency_ms is None:
        return ""
    return f"{significant(latency_ms)} ms" + ("" if ratio is None else f" ({ratio:.2f}x)")


def latencies_text(item: Entry) -> str:
    """An entry's latency in words; see `ms_text`."""
    if not item.latencies:
        return latency(item.latency_ms, None)
    return ms_text({target: reading.latency_ms for target, reading in item.latencies.items()})


def ms_text(latencies: Mapping[str, float]) -> str:
    """Latencies in ms by target, in words: `1.20 ms`, or where there are several `1.20 ms on cpu, 3.40 ms on board`."""
    words = {target: latency(value, None) for target, value in latencies.items()}
    if len(words) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{value} on {target}" for target, value in words.items())


def _narrow_columns(table: list[Row]) -> list[Column]:
    targets = _targets(table)
    measured = [_latency_column(target, "latency" if len(targets) == 1 else f"latency@{target}") for target in targets]
    return [*_LEFT_COLUMNS, *measured, *_RIGHT_COLUMNS]


def _latency_column(target: str, title: str) -> Column:
    def cell(row: Row) -> str:
        reading = row.latencies.get(target)
        return "" if reading is None else reading_text(reading)

    return Column(title, cell)


def _targets(table: list[Row]) -> list[str]:
    """The targets that any row knows; a nameless one where none does, for the column stays."""
    return list(dict.fromkeys(target for row in table for target in row.latencies)) or [""]


def _row(found: Findings, model: str, name: str, item: Entry) -> Row:
    test = found.test_accuracy(name)
    return Row(
        model=model,
        kind="control" if item.trial is None else "front",
        map50=item.map50,
        map50_95=item.map50_95,
        f1=item.f1,
        params=item.params,
        latencies=item.latencies,
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
