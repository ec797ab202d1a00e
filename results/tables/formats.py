"""The table of controls and front as Markdown, CSV, LaTeX and Parquet, and as a frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunetune.results.findings.findings import Findings, Source
from prunetune.results.tables.escapes import csv_text as cell_text
from prunetune.results.tables.escapes import latex_text, markdown_text
from prunetune.results.tables.rows import Row, caption, columns, is_shorter, is_tested, knows_memory, rows, targets
from prunetune.spaces.errors import MissingExtraError
from prunetune.spaces.files import publish

if TYPE_CHECKING:
    from pandas import DataFrame

_WORDS = ("model", "kind", "network", "deployment_imgsz", "deployment_precision", "recipe", "remarks")
_COUNTS = ("trial", "params", "blocks_removed")

_LEFT = {
    "model": "model",
    "kind": "kind",
    "network": "network.name",
    "trial": "network.trial",
    "deployment_imgsz": "network.imgsz_text",
    "deployment_precision": "network.deployment.precision",
    "map50": "network.accuracy.map50",
    "map50_change": "map50_change",
    "map50_95": "network.accuracy.map50_95",
    "map50_95_change": "map50_95_change",
    "f1": "network.accuracy.f1",
    "confidence": "network.accuracy.confidence",
    "params": "network.figures.params",
}
"""The first columns, and where a row has their values."""

_LATENCY = {"latency_ms": "ms", "latency_ratio": "ratio_to_dense", "latency_uncertainty": "uncertainty"}
"""The columns of each target."""


def markdown(study: Source) -> str:
    """The table in Markdown. mmAP is map50_95; latency is in ms and in multiples of the dense network's."""
    return markdown_rows(rows(study))


def markdown_rows(table: list[Row]) -> str:
    """Some of the table's rows in Markdown."""
    shown = columns(table)
    lines = [
        _markdown_line(column.title for column in shown),
        "| " + " | ".join("---:" if column.is_number else "---" for column in shown) + " |",
        *(_markdown_line(column.cell(row) for column in shown) for row in table),
    ]
    return "\n".join(lines) + "\n"


def latex(study: Source) -> str:
    """The table in LaTeX, for the package booktabs, with the caption that the terminal shows."""
    found = Findings.of(study)
    table = rows(found)
    shown = columns(table)
    # Remarks are sentences, which wrap; all else is as wide as it is.
    layout = "".join(
        "p{0.3\\linewidth}" if column.title == "remarks" else "r" if column.is_number else "l" for column in shown
    )
    controls = [_latex_line(column.cell(row) for column in shown) for row in table if row.kind == "control"]
    members = [_latex_line(column.cell(row) for column in shown) for row in table if row.kind == "front"]
    lines = [
        "% \\usepackage{booktabs}; other scripts than Latin need XeLaTeX or LuaLaTeX",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex_text(found.name)}: {latex_text(caption(found))}}}",
        f"\\begin{{tabular}}{{{layout}}}",
        "\\toprule",
        _latex_line(column.title for column in shown),
        "\\midrule",
        *controls,
        *(["\\midrule"] if controls and members else []),
        *members,
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def csv_text(study: Source) -> str:
    """The table as CSV: the values of `table_document`. A text that a spreadsheet would compute gets an apostrophe."""
    names, records = table_document(study)
    out = io.StringIO()
    writer = csv.DictWriter(out, [cell_text(name) for name in names], lineterminator="\n")
    writer.writeheader()
    for record in records:
        guarded = {name: cell_text(value) if isinstance(value, str) else value for name, value in record.items()}
        writer.writerow({cell_text(name): value for name, value in guarded.items()})
    return out.getvalue()


def write_parquet(study: Source, path: Path) -> None:
    """Writes the table as Parquet: the values of `table_document`, numbers as int64 and double.

    Raises:
        MissingExtraError: pyarrow is not installed.
        StoreError: `path` cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    names, records = table_document(study)
    kinds = [
        (name, pyarrow.string() if name in _WORDS else pyarrow.int64() if name in _COUNTS else pyarrow.float64())
        for name in names
    ]
    with publish(path) as draft:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, pyarrow.schema(kinds)), draft)


def table_frame(study: Source) -> DataFrame:
    """The table as a DataFrame: the values of `table_document`."""
    import pandas

    names, records = table_document(study)
    return pandas.DataFrame.from_records(records, columns=names)


def table_document(study: Source) -> tuple[list[str], list[dict[str, Any]]]:
    """The table's columns and rows as plain values at full precision.

    Accuracies, changes and removed parameters are fractions, sizes are counts of parameters, latencies are in ms and
    in multiples of the dense network's. With several targets each latency is `latency_ms@NAME`. Memory (MB) is there
    if a target tells it, removed blocks if a network lost any, columns of the test split if anything was tested, those
    of its intervals if the study was confirmed. What is not known is None.
    """
    table = rows(study)
    fields = _fields(table)
    return list(fields), [{name: value(row) for name, value in fields.items()} for row in table]


def _fields(table: list[Row]) -> dict[str, Callable[[Row], Any]]:
    measured = targets(table)
    fields: dict[str, Callable[[Row], Any]] = {name: attrgetter(path) for name, path in _LEFT.items()}
    for target in measured:
        for name, kept in _LATENCY.items():
            fields[name if len(measured) == 1 else f"{name}@{target}"] = partial(_latency, target, kept)
    figures = [*(["memory_mb"] if knows_memory(table) else []), "gflops", "params_removed"]
    figures += ["blocks_removed"] if is_shorter(table) else []
    fields |= {name: attrgetter(f"network.figures.{name}") for name in figures}
    if is_tested(table):
        for name in ("map50", "map50_95"):
            fields[f"test_{name}"] = partial(_tested, name)
            if any(getattr(row, f"test_{name}") for row in table):
                fields |= {f"test_{name}_{end}": partial(_interval, name, end) for end in ("low", "high")}
    return fields | {"recipe": attrgetter("network.recipe_text"), "remarks": attrgetter("remarks")}


def _latency(target: str, name: str, row: Row) -> float | None:
    return getattr(row.network.latencies.get(target), name, None)


def _tested(name: str, row: Row) -> float | None:
    return getattr(row.test, name, None)


def _interval(name: str, end: str, row: Row) -> float | None:
    return getattr(getattr(row, f"test_{name}"), end, None)


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(map(latex_text, cells)) + " \\\\"
