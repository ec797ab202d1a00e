"""A study's results for notebooks and scripts: one object with its frame, front, figures and networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prunetune.results.findings.choice import find_network, find_trial, no_network
from prunetune.results.findings.findings import Findings
from prunetune.results.findings.histories import read_gammas
from prunetune.results.findings.study_network import StudyNetwork
from prunetune.results.record import Confirmation
from prunetune.results.tables.formats import table_frame
from prunetune.results.tables.rows import ended_text
from prunetune.results.tables.trials import trial_table
from prunetune.spaces.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from pandas import DataFrame

    from prunetune.pruning.yolo.detector import Detector


def load_study(study: str | Path, runs: str | Path = "runs", storage: str | None = None) -> StudyResults:
    """Reads a study, finished or running.

    Args:
        study: Its name, its folder, or the file of its description.
        runs: The folder of studies, where only a name is given.
        storage: The address of its storage, if that is neither in its folder nor in its description.

    Raises:
        StoreError: There is no such study, or its storage cannot be read.
        ConfigError: The description cannot be read, or the storage's address not be used.
        MissingExtraError: The driver of its storage is not installed.
            All are kinds of `prunetune.spaces.PrunetuneError`, with a message of one line.
    """
    from prunetune.results.storage.storage import find_findings  # Optuna's storages take half a second to import

    return StudyResults(*find_findings(study, runs, storage))


class StudyResults:
    """What a study found, as it stood when it was loaded: all figures are of one moment.

    Attributes:
        findings: What tables, figures and reports read from.
        folder: The study's folder.
        figures: Its figures, drawn when they are asked for.
    """

    def __init__(self, findings: Findings, folder: Path) -> None:
        self.findings, self.folder = findings, folder
        self.figures = Figures(findings, folder)

    def __repr__(self) -> str:
        ended = ended_text(self.findings.counts) or "no trials"
        return f"<study {self.name!r}: {ended}; {len(self.front())} on the front>"

    @property
    def name(self) -> str:
        """The study's name."""
        return self.findings.name

    @property
    def baselines(self) -> dict[str, StudyNetwork]:
        """The networks that the study compares with, by name: `dense`, or `dense@96` at a further deployment."""
        return dict(self.findings.baselines)

    @property
    def confirmation(self) -> Confirmation | None:
        """What the last `prunetune confirm` found; None if there was none."""
        return self.findings.study.confirmation

    def frame(self) -> DataFrame:
        """One row per trial in any state; see `trial_table`."""
        return trial_table(self.findings)

    def table(self) -> DataFrame:
        """The controls and the front, one row each; see `table_frame`."""
        return table_frame(self.findings)

    def front(self) -> list[StudyNetwork]:
        """The feasible networks that no other dominates, by rising latency; see `front`."""
        return list(self.findings.front)

    def networks(self) -> list[StudyNetwork]:
        """The networks of all trials, by trial and round, each at its own deployment and then at further ones."""
        return list(self.findings.networks.values())

    def baseline_front(self) -> list[StudyNetwork]:
        """The baselines at all deployments that no other dominates, by rising latency, within the budget or not: what
        can be had without pruning."""
        return list(self.findings.baseline_front)

    def hypervolume(self) -> float | None:
        """The share of the unit cube that the front dominates; None while the dense network is not measured."""
        return self.findings.hypervolume

    def hypervolume_baselines(self) -> float | None:
        """The same of the baselines within the budget, at all deployments: what the front has to beat."""
        return self.findings.hypervolume_baselines

    def candidate(self, name: int | str) -> Candidate:
        """A network by its name: `7` is what trial 7 came to, `7.1` what it had after round 1, `dense` a baseline;
        `7@96` is the same network at 96 px.

        Raises:
            ConfigError: There is none, or it has no finished network.
        """
        return Candidate(find_network(self.findings, name), self.folder)


@dataclass(frozen=True)
class Candidate:
    """A network of a study whose files were kept."""

    network: StudyNetwork
    """Its figures."""
    folder: Path
    """The study's."""

    @property
    def name(self) -> str:
        """`7`, `7.1`, `dense`, `7@96`."""
        return self.network.name

    @property
    def checkpoint(self) -> Path:
        """A .pt that `YOLO()` loads."""
        return self.folder / (self.network.checkpoint or "")

    @property
    def onnx(self) -> Path | None:
        """Its ONNX file; None where it was not exported."""
        return None if self.network.onnx is None else self.folder / self.network.onnx

    @property
    def channels(self) -> Mapping[str, int]:
        """Output channels by layer; empty where they are not known."""
        return self.network.figures.channels

    def load(self) -> Detector:
        """Loads the network. Needs torch.

        Raises:
            ModelError: The file is missing or damaged.
        """
        from prunetune.pruning.yolo.detector import Detector

        if not self.checkpoint.is_file():
            raise ModelError(f"{self.checkpoint}: no such file; {RESTORE}")
        try:
            return Detector.load(self.checkpoint)
        except ModelError as error:
            reason = str(error).rpartition("; ")[0] or str(error)
            raise ModelError(f"{reason}; {RESTORE}") from error


RESTORE = "copy it from where the study ran, or ask for another network"
"""What to do about a network's file that is missing or damaged."""


class Figures:
    """A study's figures, each a figure of plotly; None where nothing is known to draw.

    Args:
        findings: The study.
        folder: Its folder, where its gamma histograms are.
    """

    def __init__(self, findings: Findings, folder: Path) -> None:
        self._findings, self._folder = findings, folder

    def front(self, network: int | str | None = None, target: str | None = None) -> go.Figure:
        """Accuracy against latency: every network, the front, the controls and the budget.

        Args:
            network: The name of the network to mark; the most accurate member of the front if None.
            target: The target's name; the main one if None.

        Raises:
            ConfigError: There is no such network, or no such target.
        """
        from prunetune.results.figures.front_figure import front_figure

        if network is not None:
            self._network(network)
        names = [item.name for item in self._findings.targets]
        if target is not None and target not in names:
            raise ConfigError(f"target: {target}: is none of this study's; there are {', '.join(names)}")
        return front_figure(self._findings, network, target)

    def time(self) -> go.Figure | None:
        """Where the time of each trial went."""
        from prunetune.results.figures.cost_figures import time_figure
        from prunetune.results.findings.costs import Costs

        return time_figure(Costs.of(self._findings))

    def progress(self, over: Literal["epochs", "hours"] = "epochs") -> go.Figure | None:
        """The hypervolume over what the trials took.

        Raises:
            ConfigError: It is drawn over something else than `epochs` and `hours`.
        """
        if over not in ("epochs", "hours"):
            raise ConfigError(f"over: takes epochs or hours, not {over!r}")
        from prunetune.results.figures.cost_figures import progress_figure
        from prunetune.results.findings.costs import progress

        return progress_figure(progress(self._findings), over, self._findings.hypervolume_baselines)

    def importances(self) -> go.Figure | None:
        """Which parameters of the space decided on accuracy and latency."""
        from prunetune.results.figures.parameter_figures import importances_figure
        from prunetune.results.findings.parameter_importances import Parameters

        parameters = Parameters(self._findings)
        return importances_figure(parameters.varied, parameters.importances())

    def parallel(self) -> go.Figure | None:
        """Each trial as a line over the parameters to its accuracy and latency."""
        from prunetune.results.figures.parameter_figures import parallel_figure
        from prunetune.results.findings.parameter_importances import Parameters

        parameters = Parameters(self._findings)
        return parallel_figure(parameters.varied, parameters.tried)

    def slices(self) -> dict[str, go.Figure]:
        """Accuracy over each parameter that varied, by its name."""
        from prunetune.results.figures.parameter_figures import slice_figure
        from prunetune.results.findings.parameter_importances import Parameters

        parameters = Parameters(self._findings)
        drawn = {item.name: slice_figure(item, parameters.tried) for item in parameters.varied}
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def recoveries(self) -> go.Figure | None:
        """Accuracy over the epochs of each recovery, with what was decided at the rungs."""
        from prunetune.results.figures.recoveries import recoveries, recoveries_figure

        return recoveries_figure(recoveries(self._findings, self._folder))

    def channels(self, network: int | str) -> go.Figure | None:
        """The channels that each layer of a network kept, beside half-width's.

        Raises:
            ConfigError: There is no such network.
        """
        from prunetune.results.figures.network_figures import channels_figure

        return channels_figure(self._findings, self._network(network))

    def gammas(self, trial: int) -> dict[tuple[int, str], go.Figure]:
        """The gammas over a trial's sparse phases, by round and region; empty where they were not kept.

        Raises:
            ConfigError: There is no such trial.
        """
        from prunetune.results.figures.network_figures import gamma_figures

        record = self._findings.records[find_trial(self._findings, trial).number]
        return gamma_figures(read_gammas(record, self._folder), record)

    def _network(self, name: int | str) -> StudyNetwork:
        """A network, also one whose files were not kept."""
        network = self._findings.network(str(name))
        if network is None:
            raise no_network(self._findings, name)
        return network
