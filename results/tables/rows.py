"""The table of controls and front: its rows as values, its columns as text, in the form such reports have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from prunetune.results.findings.findings import NOISY, Findings, Source
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import Baseline, Comparison, Confirmation, Interval, StudiedTarget
from prunetune.spaces.accuracy import Accuracy
from prunetune.targets.latency import NormalizedLatency

Kind: TypeAlias = Literal["control", "front"]


@dataclass(frozen=True)
class Row:
    """One line of the table: a network, and how it compares."""

    network: StudyNetwork
    dense: Accuracy | None
    """Of the dense network, which changes are against; None for that itself, and where it is not known."""
    notes: str
    """What else there is to say: sure differences from the controls, a control's epochs."""
    test: Accuracy | None
    """On the test split."""
    test_map50: Interval | None
    """Where the study was confirmed on the test split."""
    test_map50_95: Interval | None

    @property
    def model(self) -> str:
        """What the network is called."""
        return self.network.title

    @property
    def kind(self) -> Kind:
        """Whose it is."""
        return "control" if self.network.trial is None else "front"

    @property
    def map50_change(self) -> float | None:
        """Against the dense network."""
        return None if self.dense is None else self.network.accuracy.map50 - self.dense.map50

    @property
    def map50_95_change(self) -> float | None:
        """Against the dense network."""
        return None if self.dense is None else self.network.map50_95 - self.dense.map50_95

    @property
    def remarks(self) -> str:
        """Recipe and notes."""
        return "; ".join(part for part in (self.network.recipe_text, self.notes) if part)


@dataclass(frozen=True)
class Column:
    """How one column reads: its title, and its cell's text for a row."""

    title: str
    cell: Callable[[Row], str]
    is_number: bool = True


_MODEL = Column("model", lambda row: row.model, is_number=False)
_DEPLOYED = (
    Column("input", lambda row: f"{row.network.imgsz_text} px"),
    Column("precision", lambda row: row.network.deployment.precision),
)
"""Each is there only where networks differ in it."""
_LEFT_COLUMNS = (
    Column("mAP50", lambda row: decimals(row.network.accuracy.map50)),
    Column("change", lambda row: signed(row.map50_change)),
    Column("mmAP", lambda row: decimals(row.network.map50_95)),
    Column("change", lambda row: signed(row.map50_95_change)),
    Column("size", lambda row: size(row.network.figures.params)),
)
_RIGHT_COLUMNS = (
    Column("GFLOPs", lambda row: significant(row.network.figures.gflops)),
    Column("removed", lambda row: percent(row.network.figures.params_removed)),
)
_MEMORY = Column("memory", lambda row: memory_text(row.network.figures.memory_mb))
"""Where a target tells it."""
_BLOCKS = Column("blocks", lambda row: str(row.network.figures.blocks_removed))
"""Beside what was removed, where a network lost residual blocks."""
REMARKS = Column("remarks", lambda row: row.remarks, is_number=False)
TESTED = (
    Column("test mAP50", lambda row: "" if row.test is None else with_interval(row.test.map50, row.test_map50)),
    Column("test mmAP", lambda row: "" if row.test is None else with_interval(row.test.map50_95, row.test_map50_95)),
)
"""The columns of the test split."""


def rows(study: Source) -> list[Row]:
    """The controls in their order, then the front by rising latency."""
    found = Findings.of(study)
    return [_row(found, network) for network in (*found.baselines.values(), *found.front)]


def row(study: Source, name: str) -> Row:
    """The line of one network, on the front or not, by its name.

    Raises:
        KeyError: There is none.
    """
    found = Findings.of(study)
    network = found.network(name)
    if network is None:
        raise KeyError(name)
    return _row(found, network)


def columns(table: list[Row]) -> list[Column]:
    """The columns that the rows need: input size and precision where they differ, one latency a target, memory,
    removed blocks and the test split only where there are any."""
    return [*narrow_columns(table), *(TESTED if is_tested(table) else ()), REMARKS]


def narrow_columns(table: list[Row]) -> list[Column]:
    """The columns without those of the test split and the remarks."""
    names = targets(table)
    measured = [_latency_column(target, "latency" if len(names) == 1 else f"latency@{target}") for target in names]
    deployed = [column for column in _DEPLOYED if len({column.cell(row) for row in table}) > 1]
    measured += [_MEMORY] if knows_memory(table) else []
    return [_MODEL, *deployed, *_LEFT_COLUMNS, *measured, *_RIGHT_COLUMNS, *([_BLOCKS] if is_shorter(table) else [])]


def targets(table: list[Row]) -> list[str]:
    """The targets that any row knows; a nameless one where none does, for the column stays."""
    return list(dict.fromkeys(target for row in table for target in row.network.latencies)) or [""]


def is_tested(table: list[Row]) -> bool:
    """Whether any network was evaluated on the test split."""
    return any(row.test is not None for row in table)


def knows_memory(table: list[Row]) -> bool:
    """Whether a target told the memory of any network."""
    return any(row.network.figures.memory_mb is not None for row in table)


def is_shorter(table: list[Row]) -> bool:
    """Whether any network lost residual blocks."""
    return any(row.network.figures.blocks_removed for row in table)


def earlier_rounds(count: int) -> str:
    """How many networks trials had on their way."""
    return "1 earlier round" if count == 1 else f"{count} earlier rounds"


def trained_text(baseline: Baseline) -> str:
    """How long a baseline was trained; empty where that is not known."""
    if baseline.epochs is None:
        return ""
    count = f"{baseline.epochs} epoch{'s' * (baseline.epochs != 1)}"
    if baseline.map50_95_given is None:
        return f"trained for {count}"
    if baseline.points_lost is not None:
        return f"as given, since {count} of training on gave {baseline.map50_95_trained_on:.3f}"
    return f"trained on for {count} from {baseline.map50_95_given:.3f}"


def baseline_text(found: Findings, network: StudyNetwork) -> str:
    """How long the network of a baseline was trained, at whatever deployment; empty where that is not known."""
    known = found.study.baselines
    return trained_text(known.get(network.own_name) or known[network.name])


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
        "" if found.hypervolume is None else f"hypervolume {hypervolumes_text(found)}",
        f"trials: {ended or 'none yet'}",
        _confirmed_text(found.study.confirmation),
    ]
    return "; ".join(part for part in parts if part)


def hypervolumes_text(found: Findings) -> str:
    """The front's hypervolume, and that of the baselines within the budget: `0.338 (0.290 without pruning)`."""
    without = f" ({decimals(found.hypervolume_baselines)} without pruning)" if found.baseline_front else ""
    return "" if found.hypervolume is None else decimals(found.hypervolume) + without


def budget_text(study: Source) -> str:
    """The budgets in words: what the user wrote, and what it is in ms. Empty without a budget."""
    found = Findings.of(study)
    limits = {target.name: limit_text(target) for target in found.targets if target.has_budget}
    told = [limit if len(found.targets) == 1 else f"{limit} on {name}" for name, limit in limits.items()]
    told += [f"{figure.name} {figure.budget_text}" for figure in found.study.figures if figure.has_budget]
    return f"budget {', '.join(told)}" if told else ""


def limit_text(target: StudiedTarget) -> str:
    """The budget on one target, such as `<= half-width (1.20 ms)`."""
    limit = "" if target.budget_ms is None else f"{significant(target.budget_ms)} ms"
    told = target.budget_text or f"<= {limit}"
    return f"{told} ({limit})" if limit and not told.endswith("ms") else told


def edge_text(found: Findings, network: StudyNetwork) -> str:
    """Says of a network that its latency is above the budget, which lies within its interval; else empty."""
    edges = found.edges(network)
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


def memory_text(memory_mb: float | None) -> str:
    """Peak memory of a runtime: 12.3 MB."""
    return "" if memory_mb is None else f"{significant(memory_mb)} MB"


def blocks_text(count: int) -> str:
    """How many residual blocks a network lost; empty for none."""
    return f"{count} block{'s' * (count > 1)}" if count else ""


def normalized_text(latency: NormalizedLatency) -> str:
    """A latency with its ratio, and with its uncertainty where that is large."""
    off = latency.uncertainty
    noise = f" \N{PLUS-MINUS SIGN}{100 * off:.0f} %" if off is not None and off >= NOISY else ""
    return latency_text(latency.ms, latency.ratio_to_dense) + noise


def latency_text(latency_ms: float | None, ratio: float | None) -> str:
    """Latency in ms, and in multiples of the dense network's where known."""
    if latency_ms is None:
        return ""
    return f"{significant(latency_ms)} ms" + ("" if ratio is None else f" ({ratio:.2f}x)")


def latencies_text(network: StudyNetwork) -> str:
    """A network's latency in words; see `ms_text`."""
    return ms_text({target: latency.ms for target, latency in network.latencies.items()})


def ms_text(latencies: Mapping[str, float]) -> str:
    """Latencies in ms by target, in words: `1.20 ms`, or where there are several `1.20 ms on cpu, 3.40 ms on board`."""
    words = {target: latency_text(value, None) for target, value in latencies.items()}
    if len(words) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{value} on {target}" for target, value in words.items())


def _latency_column(target: str, title: str) -> Column:
    def cell(row: Row) -> str:
        latency = row.network.latencies.get(target)
        return "" if latency is None else normalized_text(latency)

    return Column(title, cell)


def _row(found: Findings, network: StudyNetwork) -> Row:
    dense, known = found.baselines.get("dense"), found.study.confirmation
    sure = known.of(network.name) if known is not None and known.split == "test" else None
    return Row(
        network=network,
        dense=None if dense is None or network.name == "dense" else dense.accuracy,
        notes="; ".join(filter(None, _notes(found, network))),
        test=found.test_accuracy(network.name),
        test_map50=None if sure is None else sure.map50,
        test_map50_95=None if sure is None else sure.map50_95,
    )


def _notes(found: Findings, network: StudyNetwork) -> list[str]:
    if network.trial is None:
        return [baseline_text(found, network)]
    known = found.study.confirmation
    sure = None if known is None else known.of(network.name)
    against = {} if sure is None else sure.against
    verdicts = [verdict(rival, other) for rival, other in against.items() if rival in found.baselines]
    return [edge_text(found, network), *verdicts]


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
