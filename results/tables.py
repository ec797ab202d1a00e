"""The table of controls and front: its rows as values, its columns as text, in the form such reports have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from prunetune.results.certainty import Comparison, Confirmation, Interval, confirmation
from prunetune.results.entries import (
    Entry,
    Reading,
    earlier_rounds,
    mapping,
    number,
    recipe_text,
    trained_text,
)
from prunetune.results.findings import NOISY, Findings, Source
from prunetune.results.studied_target import StudiedTarget

Kind: TypeAlias = Literal["control", "front"]


@dataclass(frozen=True)
class Row:
    """One line of the table, as values."""

    model: str
    kind: Kind
    map50: float | None
    map50_change: float | None
    """Against the dense control; None for that itself, and where one of the two is not known."""
    map50_95: float | None
    map50_95_change: float | None
    f1: float | None
    confidence: float | None
    """The confidence threshold at which F1 is best."""
    params: int | None
    latencies: Mapping[str, Reading] = field(hash=False)
    """By target."""
    gflops: float | None
    params_removed: float | None
    recipe: str
    notes: str
    """What else there is to say: sure differences from the controls, a control's epochs."""
    test_map50: float | None
    test_map50_95: float | None
    test_intervals: tuple[Interval | None, Interval | None]
    """Of these two, where the study was confirmed on the test split."""
    trial: int | None
    """The trial's number; None for a control."""

    @property
    def remarks(self) -> str:
        """Recipe and notes."""
        return "; ".join(part for part in (self.recipe, self.notes) if part)


@dataclass(frozen=True)
class Column:
    """How one column reads: its title, and its cell's text for a row."""

    title: str
    cell: Callable[[Row], str]
    is_number: bool = True


_LEFT_COLUMNS = (
    Column("model", lambda row: row.model, is_number=False),
    Column("mAP50", lambda row: decimals(row.map50)),
    Column("change", lambda row: signed(row.map50_change)),
    Column("mmAP", lambda row: decimals(row.map50_95)),
    Column("change", lambda row: signed(row.map50_95_change)),
    Column("size", lambda row: size(row.params)),
)
_RIGHT_COLUMNS = (
    Column("GFLOPs", lambda row: significant(row.gflops)),
    Column("removed", lambda row: percent(row.params_removed)),
)
REMARKS = Column("remarks", lambda row: row.remarks, is_number=False)
TESTED = (
    Column("test mAP50", lambda row: with_interval(row.test_map50, row.test_intervals[0])),
    Column("test mmAP", lambda row: with_interval(row.test_map50_95, row.test_intervals[1])),
)
"""The columns of the test split."""


def rows(study: Source) -> list[Row]:
    """The controls in their order, then the front by rising latency."""
    found = Findings.of(study)
    known = confirmation(found)
    table = [_row(found, known, name, name, item) for name, item in found.controls.items()]
    return table + [_row(found, known, f"trial {item.trial}", str(item.trial), item) for item in found.front]


def row(study: Source, name: str) -> Row:
    """The line of one network, on the front or not: a control by its name, a trial by its number.

    Raises:
        KeyError: There is none.
    """
    found = Findings.of(study)
    known = confirmation(found)
    if name in found.controls:
        return _row(found, known, name, name, found.controls[name])
    trial = found.trial(int(name)) if name.isdecimal() else None
    if trial is None:
        raise KeyError(name)
    return _row(found, known, f"trial {name}", name, found.entry(trial))


def columns(table: list[Row]) -> list[Column]:
    """The columns that the rows need: one latency a target, those of the test split only if anything was tested."""
    return [*narrow_columns(table), *(TESTED if is_tested(table) else ()), REMARKS]


def narrow_columns(table: list[Row]) -> list[Column]:
    """The columns without those of the test split and the remarks."""
    names = targets(table)
    measured = [_latency_column(target, "latency" if len(names) == 1 else f"latency@{target}") for target in names]
    return [*_LEFT_COLUMNS, *measured, *_RIGHT_COLUMNS]


def targets(table: list[Row]) -> list[str]:
    """The targets that any row knows; a nameless one where none does, for the column stays."""
    return list(dict.fromkeys(target for row in table for target in row.latencies)) or [""]


def is_tested(table: list[Row]) -> bool:
    """Whether any network was evaluated on the test split."""
    return any(row.test_map50 is not None or row.test_map50_95 is not None for row in table)


def ended_text(counts: Mapping[str, int]) -> str:
    """How many trials ended how, and their earlier rounds; empty where there is none."""
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count and name != "rounds"]
    return ", ".join([*parts, *([earlier_rounds(counts["rounds"])] if counts.get("rounds") else [])])


def caption(study: Source) -> str:
    """What stands under the table: budget, hypervolume, how the trials ended, and what sure means."""
    found = Findings.of(study)
    ended = ended_text(found.counts)
    parts = [
        budget_text(found),
        "" if found.hypervolume is None else f"hypervolume {found.hypervolume:.3f}",
        f"trials: {ended or 'none yet'}",
        _confirmed_text(confirmation(found)),
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


def edge_text(found: Findings, item: Entry) -> str:
    """Says of a network that its latency is above the budget, which lies within its interval; else empty."""
    edges = found.edges(item)
    where = f" on {', '.join(edges)}" if len(found.targets) > 1 else ""
    return f"on the edge of the budget{where}" if edges else ""


def decimals(value: float | None) -> str:
    """Three decimals, as accuracies are written."""
    return "" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A change, three decimals and always a sign."""
    return "" if value is None else f"{value:+.3f}"


def with_interval(value: float | None, interval: Interval | None) -> str:
    """An accuracy, with its confidence interval where that is known."""
    return decimals(value) + ("" if interval is None else f" ({interval.low:.3f} to {interval.high:.3f})")


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


def _latency_column(target: str, title: str) -> Column:
    def cell(row: Row) -> str:
        reading = row.latencies.get(target)
        return "" if reading is None else reading_text(reading)

    return Column(title, cell)


def _row(found: Findings, known: Confirmation | None, model: str, name: str, item: Entry) -> Row:
    test, dense = found.test_accuracy(name), found.controls.get("dense")
    sure = known.of(name) if known is not None and known.split == "test" else None
    return Row(
        model=model,
        kind="control" if item.trial is None else "front",
        map50=item.map50,
        map50_change=_change(item.map50, dense.map50) if dense and name != "dense" else None,
        map50_95=item.map50_95,
        map50_95_change=_change(item.map50_95, dense.map50_95) if dense and name != "dense" else None,
        f1=item.f1,
        confidence=item.confidence,
        params=item.params,
        latencies=item.latencies,
        gflops=item.gflops,
        params_removed=item.params_removed,
        recipe=recipe_text(item.recipe),
        notes="; ".join(_notes(found, known, name, item)),
        test_map50=number(test.get("map50")),
        test_map50_95=number(test.get("map50_95")),
        test_intervals=(sure.map50, sure.map50_95) if sure is not None else (None, None),
        trial=item.trial,
    )


def _change(value: float | None, dense: float | None) -> float | None:
    return None if value is None or dense is None else value - dense


def _notes(found: Findings, known: Confirmation | None, name: str, item: Entry) -> list[str]:
    if item.trial is None:
        words = trained_text(mapping(mapping(found.attributes.get("controls")).get(name)))
        return [words] if words else []
    network = None if known is None else known.of(name)
    against = {} if network is None else network.against
    told = [
        edge_text(found, item),
        *(verdict(rival, other) for rival, other in against.items() if rival in found.controls),
    ]
    return [words for words in told if words]


def verdict(rival: str, compared: Comparison) -> str:
    """The differences from another network that are larger than their uncertainty, in words.

    Args:
        rival: The other network.
        compared: This network against it.
    """
    words = []
    if compared.map50_95 is not None and compared.is_accuracy_sure:
        words.append("more accurate" if compared.map50_95.value > 0 else "less accurate")
    for target, ratio in compared.latencies.items():
        if compared.is_latency_sure(target):
            where = "" if len(compared.latencies) == 1 else f" on {target}"
            words.append(("faster" if ratio.value < 1 else "slower") + where)
    return f"surely {' and '.join(words)} than {rival}" if words else f"no sure difference from {rival}"


def _confirmed_text(known: Confirmation | None) -> str:
    if known is None:
        return ""
    return f"sure: outside the {100 * known.confidence:.0f} % interval, on {known.images} {known.split} images"
