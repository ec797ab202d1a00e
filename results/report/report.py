"""The report: one HTML file that says what a study found and opens without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from optuna.study import Study
from optuna.trial import FrozenTrial
from plotly.offline import get_plotlyjs

from prunetune.pruning.accuracy.sensitivity import read_sensitivity
from prunetune.results.figures.cost_figures import progress_figure, time_figure
from prunetune.results.figures.front_figure import front_figure
from prunetune.results.figures.networks import Networks, duration
from prunetune.results.figures.parameter_figures import importances_figure, parallel_figure, slice_figure
from prunetune.results.figures.recoveries import DRAWN, recoveries, recoveries_figure
from prunetune.results.figures.sensitivity_figure import sensitivity_figure
from prunetune.results.figures.style import CONTROL, FRONT, LIMIT, REGIONS, canvas
from prunetune.results.findings.choice import find_trial
from prunetune.results.findings.costs import Costs, part_text, progress
from prunetune.results.findings.findings import Findings, outcome_text
from prunetune.results.findings.parameter_importances import ROUGH, Parameters
from prunetune.results.findings.study_network import recipe_text
from prunetune.results.report.provenance import description, origins
from prunetune.results.tables.headline import summary
from prunetune.results.tables.rows import REMARKS, caption, columns, decimals, latencies_text, latency_text, rows
from prunetune.results.tables.standing import memberships
from prunetune.spaces.files import write_text

_HERE = Path(__file__).parent

UNFOLDED = 40
"""The table of trials is folded when it has more rows than this."""

OVER: tuple[Literal["epochs", "hours"], ...] = ("epochs", "hours")
"""What the hypervolume is drawn over."""

NAMED = 12
"""So many trials are named of those that failed alike."""


@dataclass(frozen=True)
class Figure:
    """One figure on the page."""

    id: str
    content: Markup
    """JSON for plotly."""
    title: str = ""
    height: int = 300
    """In px: what the page keeps free until the figure is drawn."""

    @classmethod
    def of(cls, name: str, figure: go.Figure, title: str = "") -> Figure:
        """A figure of plotly's."""
        return cls(f"figure-{name}", as_json(json.loads(figure.to_json())), title, int(figure.layout.height))


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    cells: Sequence[tuple[str, bool]]
    """Each with its text, and whether it is a number."""
    kind: str = ""
    """`control`, `front`, or nothing."""
    network: str | None = None
    """What a click on it selects: the key of a panel."""
    below: str = ""
    """Words that stand under its cells."""


@dataclass(frozen=True)
class Table:
    """A table on the page."""

    titles: Sequence[tuple[str, bool]]
    lines: Sequence[Line] = field(default=())


def write_report(study: Study | Findings, folder: Path, path: Path, trial: int | str | None = None) -> Path:
    """Writes the report of a finished or running study.

    Args:
        study: The study; read once, so that the whole report is of one moment.
        folder: The study's folder, where its gamma histograms and curves are, and its sensitivity if that was found.
        path: The HTML file to write.
        trial: The trial or network (`7`, `7.1`, `dense`) whose panels are shown first; the most accurate member of
            the front if None, or the nearest miss if the front is empty.

    Returns:
        `path`.

    Raises:
        ConfigError: The study has no such trial or network.
        StoreError: `path` cannot be written.
    """
    found = Findings.of(study)
    chosen = _choose(found, trial)
    costs, parameters, steps = Costs.of(found), Parameters(found), progress(found)
    sensitivity = read_sensitivity(folder)
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        name=found.name,
        summary=summary(found),
        fronts=_fronts(found, chosen),
        judged=_judged(found),
        has_targets=len(found.targets) > 1,
        table=_front_table(found),
        caption=caption(found),
        networks=as_json(
            {
                **Networks(found, folder, chosen).as_dict(),
                "layout": json.loads(canvas(height=300).to_json())["layout"],
                "colours": {"front": FRONT, "control": CONTROL, "limit": LIMIT, "regions": REGIONS},
            }
        ),
        progress=_figures(
            {f"progress-{over}": progress_figure(steps, over, found.hypervolume_baselines) for over in OVER}
        ),
        importances=_figures({"importances": importances_figure(parameters.varied, parameters.importances())}),
        is_rough=len(parameters.tried) < ROUGH,
        parallel=_figures({"parallel": parallel_figure(parameters.varied, parameters.tried)}),
        slices=_figures(
            {
                f"slice-{place}": slice_figure(parameter, parameters.tried)
                for place, parameter in enumerate(parameters.varied)
            }
        ),
        drawn=DRAWN,
        recoveries=_figures({"recoveries": recoveries_figure(recoveries(found, folder))}),
        sensitivity=sensitivity,
        sensitivities=_figures({"sensitivity": sensitivity and sensitivity_figure(sensitivity)}),
        time=_figures({"time": time_figure(costs)}),
        spent=_spent(costs),
        failures=_failures(found),
        trials=_trials(found),
        is_folded=len(found.trials) > UNFOLDED,
        origins=origins(found),
        description=description(found),
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )
    write_text(path, page)
    return path


def as_json(value: Any) -> Markup:
    """Plain values for a script of the page. Inside one nothing but `</` ends it; `\\u003c` is the same to JSON."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _choose(found: Findings, wanted: int | str | None) -> str | None:
    """The key of the panel that is shown first."""
    if wanted is not None:
        network = found.network(str(wanted))
        return str(find_trial(found, wanted, or_baseline=True).number) if network is None else network.name
    default = found.best or found.nearest
    if default is not None:
        return default.name
    return next((found.key(trial.number) for trial in found.trials if trial.state.is_finished()), None)


def _figures(drawn: Mapping[str, go.Figure | None]) -> list[Figure]:
    return [Figure.of(name, figure) for name, figure in drawn.items() if figure is not None]


def _fronts(found: Findings, chosen: str | None) -> list[Figure]:
    if not found.trials and not found.baselines:
        return []
    if len(found.targets) < 2:
        return [Figure.of("front", front_figure(found, chosen))]
    return [
        Figure.of(f"front-{place}", front_figure(found, chosen, target.name), f"On {target.name}")
        for place, target in enumerate(found.targets)
    ]


def _judged(found: Findings) -> str:
    """The latencies and other figures that dominance goes by."""
    latencies = [f"latency on {target.name}" if len(found.targets) > 1 else "latency" for target in found.judged]
    return " or ".join([*latencies, *(figure.name for figure in found.judged_figures)]) or "latency"


def _front_table(found: Findings) -> Table:
    table = rows(found)
    shown = [column for column in columns(table) if column is not REMARKS]
    lines = [
        Line(
            [(column.cell(row), column.is_number) for column in shown],
            row.kind,
            row.network.name,
            row.remarks,
        )
        for row in table
    ]
    return Table([(column.title, column.is_number) for column in shown], lines)


def _trials(found: Findings) -> Table:
    titles = [("trial", True), ("outcome", False), ("mAP50-95", True), ("latency", True), ("time", True)]
    titles += [("recipe", False), ("reason", False)]
    return Table(titles, [_trial(found, trial) for trial in found.trials])


def _trial(found: Findings, trial: FrozenTrial) -> Line:
    record, network = found.records[trial.number], found.last_network(trial.number)
    ended = [_words(outcome_text(trial, record))]
    if record.duplicate_of is not None:
        ended.append(f"duplicate of trial {record.duplicate_of}")
    on_front = memberships(found, trial.number)
    taken = ""
    if network is not None:
        latency = network.latency if len(found.targets) < 2 else None
        taken = latency_text(latency.ms, latency.ratio_to_dense) if latency else latencies_text(network)
        taken += " predicted" if network.figures.predicted else ""
    cells = [
        (str(trial.number), True),
        (", ".join([*ended, *on_front]), False),
        ("" if network is None else decimals(network.map50_95), True),
        (taken, True),
        (duration(record.cost.total_s) if record.cost.total_s else "", True),
        (recipe_text(record.recipe, record.thresholds), False),
        (record.reason, False),
    ]
    return Line(cells, "front" if on_front else "", found.key(trial.number))


def _failures(found: Findings) -> Table:
    """Trials that gave no network, those that ended alike in one line."""
    alike: dict[tuple[str, str], list[int]] = {}
    for number, record in found.records.items():
        if record.outcome is not None and not record.outcome.has_values:
            alike.setdefault((record.outcome.value, record.reason or "no reason is stored"), []).append(number)
    lines = []
    for (ended, reason), numbers in alike.items():
        named = ", ".join(map(str, numbers[:NAMED]))
        more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
        cells = [(_words(ended), False), (str(len(numbers)), True), (named + more, False), (reason, False)]
        lines.append(Line(cells, network=found.key(numbers[0])))
    return Table([("outcome", False), ("trials", True), ("numbers", False), ("reason", False)], lines)


def _words(ended: str) -> str:
    return ended.replace("_", " ").lower()


def _spent(costs: Costs) -> str:
    """Where the time went, in words."""
    total, overhead = costs.total.total_s, sum(spent.overhead for spent in costs.trials)
    if not total:
        return ""
    parts = sorted(costs.total.seconds.items(), key=lambda item: -item[1])
    percents = {part: round(100 * spent / total) for part, spent in parts if spent > 0}
    shares = ", ".join(f"{part_text(part)} {share or 'under 1'} %" for part, share in percents.items())
    words = f"{duration(total)} in all: {shares}. Overhead, which is all but training, validating and measuring: "
    words += f"{100 * overhead / total:.1f} %."
    trained, reused = costs.total.epochs_trained, costs.total.epochs_reused
    if trained or reused:
        words += f" {trained} epochs were trained, {reused} were reused from earlier trials"
        saved = reused * costs.epoch_s
        words += f", which saved about {duration(saved)}." if saved >= 1 else "."
    return words
