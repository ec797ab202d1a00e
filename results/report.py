"""The report: one HTML file that says what a study found and opens without a network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import plotly.graph_objects as go
from optuna.study import Study
from optuna.trial import FrozenTrial
from plotly.offline import get_plotlyjs

from prunetune.results.entries import integer, is_predicted, mapping, number, outcome, recipe_text, text
from prunetune.results.figures import front_figure, time_figure
from prunetune.results.findings import Findings
from prunetune.results.gammas import read_gammas
from prunetune.results.headline import headline
from prunetune.results.network_figures import channels_figure, gamma_figures
from prunetune.results.tables import caption, columns, decimals, latencies_text, latency, rows
from prunetune.results.trials import seconds
from prunetune.spaces.errors import ConfigError
from prunetune.spaces.files import write_text

_TEMPLATE = Path(__file__).with_name("report.html")


def write_report(study: Study, folder: Path, path: Path, trial: int | None = None) -> Path:
    """Writes the report of a finished or running study.

    Args:
        study: The study; read once, so that the whole report is of one moment.
        folder: The study's folder, where its gamma histograms are.
        path: The HTML file to write.
        trial: The trial whose channels and gammas are shown; the most accurate member of the front if None,
            or the nearest miss if the front is empty.

    Returns:
        `path`.

    Raises:
        ConfigError: The study has no such trial.
        StoreError: `path` cannot be written.
    """
    found = Findings.of(study)
    chosen = _choose(found, trial)
    sections = [
        _front_section(found, chosen),
        _table_section(found, chosen),
        _channels_section(found, chosen),
        _gammas_section(found, chosen, folder),
        _trials_section(found, chosen),
        _time_section(found),
    ]
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{found.name}: pruning study"),
        name=escape(found.name),
        summary=headline(found),
        sections="\n".join(sections),
        maker=escape(f"prunetune {text(found.attributes.get('version')) or ''}".strip()),
        plotly=get_plotlyjs(),
    )
    write_text(path, page)
    return path


def _choose(found: Findings, wanted: int | None) -> FrozenTrial | None:
    if wanted is not None:
        trial = found.trial(wanted)
        if trial is None:
            members = ", ".join(str(item.trial) for item in found.front) or "none yet"
            raise ConfigError(
                f"trial: {wanted} is none of the study's {len(found.trials)} trials; on the front: {members}"
            )
        return trial
    default = found.best or found.nearest
    return found.trial(default.trial) if default is not None and default.trial is not None else None


def _front_section(found: Findings, chosen: FrozenTrial | None) -> str:
    if not found.trials and not found.controls:
        return _section("front", "Accuracy against latency", "<p>Nothing is measured yet.</p>")
    words = (
        "Up and to the left is better. The front joins the trials within the budget that no other one beats "
        f"in both accuracy and {_judged(found)}; the numbers are those of the trials."
    )
    number = None if chosen is None else chosen.number
    if len(found.targets) < 2:
        plots = _plot("figure-front", front_figure(found, number))
    else:
        words += " A member is within the budgets of all targets."
        figures = {target.name: front_figure(found, number, target.name) for target in found.targets}
        plots = "".join(
            f"<h3>On {escape(name)}</h3>{_plot(f'figure-front-{index}', figure)}"
            for index, (name, figure) in enumerate(figures.items())
        )
    return _section("front", "Accuracy against latency", _soft(words) + plots)


def _judged(found: Findings) -> str:
    """The latencies that dominance goes by."""
    if len(found.targets) < 2:
        return "latency"
    return " or ".join(f"latency on {target.name}" for target in found.judged)


def _table_section(found: Findings, chosen: FrozenTrial | None) -> str:
    table = rows(found)
    shown = columns(table)
    lines = []
    for row in table:
        is_chosen = chosen is not None and row.trial == chosen.number
        kind = "chosen" if is_chosen else row.kind
        lines.append((kind, [(column.cell(row), column.is_number) for column in shown]))
    titles = [(column.title, column.is_number) for column in shown]
    words = f"mmAP is mAP50-95; latency is in ms and in multiples of the dense network's; {caption(found)}."
    body = _table(titles, lines) if table else "<p>Neither a control nor a member of the front yet.</p>"
    return _section("table", "Controls and front", body + _soft(words))


def _channels_section(found: Findings, chosen: FrozenTrial | None) -> str:
    figure = None if chosen is None else channels_figure(found, chosen)
    if chosen is None or figure is None:
        return _section("channels", "Channels", "<p>No trial has recorded its channels.</p>")
    words = (
        f"Trial {chosen.number}: {recipe_text(found.entry(chosen).recipe)}. Layers from input (top) to "
        "output; at the right, channels kept of channels in the dense network."
    )
    return _section(
        "channels",
        f"Channels kept and removed by trial {chosen.number}",
        _soft(words) + _plot("figure-channels", figure),
    )


def _gammas_section(found: Findings, chosen: FrozenTrial | None, folder: Path) -> str:
    histograms = () if chosen is None else read_gammas(chosen, folder)
    recipe = None if chosen is None else found.entry(chosen).recipe
    figures = gamma_figures(histograms, recipe)
    if chosen is None or not figures:
        return _section("gammas", "Gammas", "<p>No gamma histograms are recorded for this trial.</p>")
    cells = []
    for (round_number, region), figure in figures.items():
        title = f"<h3>Round {round_number}, {escape(region)}</h3>"
        cells.append(f"<div>{title}{_plot(f'figure-gammas-{round_number}-{region}', figure)}</div>")
    words = (
        "The scale of each channel's BatchNorm, after each epoch of sparse training; the last is filled. "
        "Channels left of the threshold are removed. A cut between two separate heaps is a safe one."
    )
    title = f"Gammas in the sparse phases of trial {chosen.number}"
    return _section("gammas", title, _soft(words) + f'<div class="grid">{"".join(cells)}</div>')


def _trials_section(found: Findings, chosen: FrozenTrial | None) -> str:
    if not found.trials:
        return _section("trials", "Trials", "<p>No trial has started.</p>")
    titles = [("trial", True), ("outcome", False), ("mAP50-95", True), ("latency", True), ("time", True)]
    titles += [("recipe", False), ("reason", False)]
    members = {item.trial for item in found.front}
    lines = []
    for trial in found.trials:
        item = found.entry(trial)
        spent = sum(seconds(trial).values())
        told = outcome(trial).replace("_", " ").lower()
        if (equal := integer(trial.user_attrs.get("equals"))) is not None:
            told += f", equals trial {equal}"
        taken = latency(item.latency_ms, item.latency_ratio) if len(found.targets) < 2 else latencies_text(item)
        cells = [
            (str(trial.number), True),
            (f"{told}, on the front" if trial.number in members else told, False),
            (decimals(item.map50_95), True),
            (f"{taken} predicted" if is_predicted(trial) else taken, True),
            (duration(spent) if spent else "", True),
            (recipe_text(item.recipe), False),
            (text(trial.user_attrs.get("reason")) or "", False),
        ]
        lines.append(("chosen" if chosen is not None and trial.number == chosen.number else "", cells))
    note = _soft("A trial over the budget was not recovered after its last surgery: its accuracy is the one before.")
    return _section("trials", "Trials", _table(titles, lines) + note)


def _time_section(found: Findings) -> str:
    figure = time_figure(found)
    if figure is None:
        return _section("time", "Where the time went", "<p>No trial has recorded its time.</p>")
    parts: Counter[str] = Counter()
    trained, reused = 0.0, 0.0
    for trial in found.trials:
        parts.update(seconds(trial))
        epochs = mapping(trial.user_attrs.get("epochs"))
        trained += number(epochs.get("trained")) or 0
        reused += number(epochs.get("reused")) or 0
    total = sum(parts.values())
    percents = {part: round(100 * spent / total) for part, spent in parts.most_common() if spent > 0}
    shares = ", ".join(f"{part} {share} %" if share else f"{part} under 1 %" for part, share in percents.items())
    words = f"{duration(total)} in all: {shares}."
    if trained or reused:
        words += f" {trained:.0f} epochs were trained, {reused:.0f} were reused from earlier trials."
    return _section("time", "Where the time went", _soft(words) + _plot("figure-time", figure))


def duration(spent: float) -> str:
    """Seconds in the unit a reader would choose: 43 s, 12 min 5 s, 3 h 20 min."""
    whole = round(spent)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'


def _soft(words: str) -> str:
    return f'<p class="soft">{escape(words)}</p>'


def _plot(name: str, figure: go.Figure) -> str:
    # Inside a script nothing but "</" ends it; `\u003c` is the same character to JSON.
    content = json.dumps(json.loads(figure.to_json()), separators=(",", ":")).replace("<", "\\u003c")
    return f'<div id="{name}"></div>\n<script type="application/json" data-figure="{name}">{content}</script>'


def _table(titles: Sequence[tuple[str, bool]], lines: Iterable[tuple[str, Sequence[tuple[str, bool]]]]) -> str:
    def cells(tag: str, values: Sequence[tuple[str, bool]]) -> str:
        drawn = []
        for value, is_number in values:
            kind = "number" if is_number else "words" if len(value) > 24 else "word"
            drawn.append(f'<{tag} class="{kind}">{escape(value)}</{tag}>')
        return "".join(drawn)

    body = "\n".join(f'<tr class="{kind}">{cells("td", values)}</tr>' for kind, values in lines)
    head = f"<thead><tr>{cells('th', titles)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'
