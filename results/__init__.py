"""What a study found: front, hypervolume, tables, figures, report. Reads Optuna studies, imports no torch."""

from typing import TYPE_CHECKING, Any

from prunetune.results.findings.findings import Findings, best, front, front_document, nearest
from prunetune.results.findings.pareto import hypervolume
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import (
    Baseline,
    Comparison,
    Confirmation,
    ConfirmedNetwork,
    Interval,
    NetworkFigures,
    NetworkResult,
    RungDecision,
    StudyRecord,
    TrialRecord,
)
from prunetune.results.study_results import Candidate, StudyResults, load_study
from prunetune.results.tables.formats import csv_text, latex, markdown, table_frame, write_parquet
from prunetune.results.tables.terminal import rich_table
from prunetune.results.tables.trials import trial_table

if TYPE_CHECKING:
    from prunetune.results.figures.front_figure import front_figure
    from prunetune.results.report.report import write_report

__all__ = [
    "Baseline",
    "Candidate",
    "Comparison",
    "Confirmation",
    "ConfirmedNetwork",
    "Findings",
    "Interval",
    "NetworkFigures",
    "NetworkResult",
    "RungDecision",
    "StudyNetwork",
    "StudyRecord",
    "StudyResults",
    "TrialRecord",
    "best",
    "csv_text",
    "front",
    "front_document",
    "front_figure",
    "hypervolume",
    "latex",
    "load_study",
    "markdown",
    "nearest",
    "rich_table",
    "table_frame",
    "trial_table",
    "write_parquet",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # plotly is only for those who draw: `prunetune front` must start at once.
    if name == "front_figure":
        from prunetune.results.figures.front_figure import front_figure

        return front_figure
    if name == "write_report":
        from prunetune.results.report.report import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
