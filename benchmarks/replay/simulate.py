"""Carries out studies on recorded trials: the same decisions, with the epochs counted instead of trained."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from prunetune.results.findings.pareto import hypervolume, nondominated
from prunetune.results.record import TrialRecord
from prunetune.search.samplers.factory import create_sampler, next_sampler
from prunetune.search.study.stored_study import set_attributes
from prunetune.search.study.study_spec import EarlyStopping, SamplerName, StudySpec
from prunetune.search.trial.early_stopping import judge, rungs_of
from prunetune.search.trial.objective import UNFINISHED
from prunetune.spaces import LatencyShare, Outcome, Recipe

TABLE = Path(__file__).with_name("table.json")


@dataclass(frozen=True)
class Recorded:
    """One recorded candidate: a network with its way through recovery."""

    number: int
    latency: float
    """As a multiple of half-width's."""
    recalibrated: float
    """map50_95 after surgery."""
    recovery: tuple[float, ...]
    """map50_95 of the best epoch so far, after each epoch."""
    further: tuple[tuple[float, float], ...] = ()
    """map50_95 and latency of the recovered network at each smaller size."""

    @property
    def map50_95(self) -> float:
        """After the whole recovery."""
        return self.recovery[-1]


class Grid:
    """The recorded trials.

    Args:
        table: What `record.py` wrote.
    """

    def __init__(self, table: dict[str, Any]) -> None:
        self.dense_latency: float = table["dense"]["latency"]
        self.candidates = [
            _recorded(number, item, table["networks"]) for number, item in enumerate(table["candidates"])
        ]
        self._by_recipe = {tuple(recipe): self.candidates[number] for *recipe, number in table["recipes"]}
        self.sparsities, self.sparse_epochs, self.thresholds, sizes, self.depths = (
            sorted({recipe[place] for recipe in self._by_recipe}) for place in range(5)
        )
        self.sizes: tuple[int, ...] = tuple(reversed(sizes))
        self.recovery_epochs = len(self.candidates[0].recovery)

    @classmethod
    def read(cls) -> Grid:
        """The table of this folder."""
        return cls(json.loads(TABLE.read_text(encoding="utf-8")))

    def at(self, recipe: Recipe) -> Recorded:
        """What a recipe gave. Of a share of the budget that is the network of the lowest threshold that meets it, or of
        the highest one if none does; of a threshold, that of the nearest one."""
        threshold = recipe.threshold
        if isinstance(threshold, LatencyShare):
            meets = (value for value in self.thresholds if self._at(recipe, value).latency <= threshold.share)
            return self._at(recipe, next(meets, self.thresholds[-1]))
        return self._at(recipe, min(self.thresholds, key=lambda value: abs(value - threshold.backbone)))

    def _at(self, recipe: Recipe, threshold: float) -> Recorded:
        imgsz, depth = recipe.imgsz or self.sizes[0], recipe.depth or 0
        return self._by_recipe[recipe.sparsity, recipe.sparse_epochs, threshold, imgsz, depth]

    def hypervolume(self, found: Sequence[Recorded], *, further: bool = True) -> float:
        """Of the networks within the budget, as a study computes it; with what they do at smaller sizes, or without."""
        points = [
            point
            for item in found
            for point in ((item.map50_95, item.latency), *(item.further if further else ()))
            if point[1] <= 1
        ]
        return hypervolume(points, [self.dense_latency])

    @property
    def best_hypervolume(self) -> float:
        """Of all that was recorded."""
        return self.hypervolume(self.candidates)


def _recorded(number: int, item: dict[str, Any], networks: dict[str, Any]) -> Recorded:
    best, curve = 0.0, []
    for value in item["recovery"]:
        best = max(best, value)
        curve.append(best)
    return Recorded(
        number,
        networks[item["network"]]["latency"],
        item["recalibrated"],
        tuple(curve),
        tuple(map(tuple, item["further"])),
    )


@dataclass(frozen=True)
class Strategy:
    """How a study spends epochs. By default everything is on, as in prunetune."""

    sampler: SamplerName = "tpe"
    design: bool = True
    """The first recipes of TPE come from a design."""
    shares_stages: bool = True
    """A sparse phase or a recovery that was run is read back."""
    gate: bool = True
    """A network over the budget is not recovered."""
    early_stopping: EarlyStopping | None = field(default_factory=EarlyStopping)
    latency_space: bool = True
    """The space asks for a share of the budget instead of a threshold."""
    deployments: bool = True
    """Recovered networks are also evaluated at smaller sizes, which costs no epoch."""


@dataclass
class Spending:
    """A simulated study."""

    epochs: list[int] = field(default_factory=list)
    """Epochs spent in all, after each trial."""
    hypervolumes: list[float] = field(default_factory=list)
    """Hypervolume after each trial."""

    def epochs_to(self, goal: float) -> float:
        """Epochs until the hypervolume was reached; infinite if it was not."""
        reached = (spent for spent, found in zip(self.epochs, self.hypervolumes, strict=True) if found >= goal)
        return next(reached, math.inf)


class Simulation:
    """One study on recorded trials: its space, sampler and rungs are prunetune's own.

    Args:
        grid: The recorded trials.
        strategy: How epochs are spent.
        trials: How many trials the study has.
        seed: Of the sampler.
    """

    def __init__(self, grid: Grid, strategy: Strategy, trials: int, seed: int) -> None:
        self.grid, self.strategy = grid, strategy
        cut: dict[str, Any] = {"latency": {"low": 0.5, "high": 1.0}}
        if not strategy.latency_space:
            cut = {"threshold": {"low": grid.thresholds[0], "high": grid.thresholds[-1]}}
        self.spec = StudySpec.parse(
            {
                "name": "simulated",
                "model": "recorded.yaml",
                "data": "recorded.yaml",
                "seed": seed,
                "sampler": strategy.sampler,
                "trials": trials,
                "imgsz": grid.sizes[0],
                "deploy": {"imgsz": list(grid.sizes)},
                "space": {
                    "sparsity": {"choices": grid.sparsities},
                    "sparse_epochs": {"choices": grid.sparse_epochs},
                    "depth": {"choices": grid.depths},
                    "recovery_epochs": grid.recovery_epochs,
                    **cut,
                },
            }
        )
        self.space = self.spec.space.over_sizes(grid.sizes)
        self.study = optuna.create_study(directions=["maximize", "minimize"])
        self._trunks: dict[float, int] = {}
        self._recovered: dict[int, int] = {}
        self._rungs: dict[int, list[tuple[float, float]]] = {}
        self.finished: list[Recorded] = []
        self.spent = 0

    def run(self, goal: float = math.inf) -> Spending:
        """Carries out trials until there are enough or the hypervolume is reached."""
        found = Spending()
        for _ in range(self.spec.trials or 0):
            self._trial()
            found.epochs.append(self.spent)
            found.hypervolumes.append(self.grid.hypervolume(self.finished, further=self.strategy.deployments))
            if found.hypervolumes[-1] >= goal:
                break
        return found

    def _trial(self) -> None:
        trials, spec = self.study.get_trials(deepcopy=False), self.spec
        if self.strategy.design:
            self.study.sampler = next_sampler(spec, self.space, trials)
        else:
            self.study.sampler = create_sampler(spec.sampler, spec.trials, spec.seed + 100_003 * len(trials))
        trial = self.study.ask()
        recipe = self.space.suggest(trial)
        candidate = self.grid.at(recipe)
        self._pay_sparse(recipe.sparsity, recipe.sparse_epochs)
        over = candidate.latency > 1
        gated = over and self.strategy.gate
        epochs = 0 if gated else self._recover(candidate)
        self._pay_recovery(candidate, epochs)
        stopped = not gated and epochs < self.grid.recovery_epochs
        outcome = Outcome.OVER_BUDGET if over else Outcome.STOPPED_EARLY if stopped else Outcome.OK
        if outcome is Outcome.OK:
            self.finished.append(candidate)
        set_attributes(trial, TrialRecord(recipe, outcome).to_attrs())
        trial.set_constraint("latency", candidate.latency - 1)
        if self.strategy.early_stopping:
            trial.set_constraint(UNFINISHED, float(stopped))
        accuracy = candidate.recovery[epochs - 1] if epochs else candidate.recalibrated
        self.study.tell(trial, [accuracy, candidate.latency])

    def _recover(self, candidate: Recorded) -> int:
        """Epochs after which a candidate is stopped, or all."""
        settings, all_epochs = self.strategy.early_stopping, self.grid.recovery_epochs
        if settings is None or self._is_paid(candidate):  # an equal trial copies the result, and is not judged
            return all_epochs
        for epochs, rung in rungs_of(settings, all_epochs).items():
            values = (candidate.recovery[epochs - 1] if epochs else candidate.recalibrated, candidate.latency)
            others = self._rungs.setdefault(rung, [])
            decision = judge(rung, epochs, values, others, settings.reduction)
            others.append(values)
            if not decision.goes_on:
                return epochs
        return all_epochs

    def _is_paid(self, candidate: Recorded) -> bool:
        return self.strategy.shares_stages and self._recovered.get(candidate.number) == self.grid.recovery_epochs

    def _pay_sparse(self, sparsity: float, epochs: int) -> None:
        done = self._trunks.get(sparsity, 0) if self.strategy.shares_stages else 0
        self.spent += max(0, epochs - done)
        self._trunks[sparsity] = max(done, epochs)

    def _pay_recovery(self, candidate: Recorded, epochs: int) -> None:
        done = self._recovered.get(candidate.number, 0) if self.strategy.shares_stages else 0
        self.spent += max(0, epochs - done)
        self._recovered[candidate.number] = max(done, epochs)


def stopped_members(grid: Grid, settings: EarlyStopping, trials: int, seed: int) -> tuple[int, int]:
    """Of the final front of a study that pays every recovery in full: how many members the rungs would have stopped.

    Returns:
        Stopped members, and all members.
    """
    paid = Simulation(grid, Strategy(early_stopping=None), trials, seed)
    paid.run()
    judged = Simulation(grid, Strategy(early_stopping=settings), 1, seed)
    stopped = {item.number for item in paid.finished if judged._recover(item) < grid.recovery_epochs}
    members = _front(paid.finished)
    return len(members & stopped), len(members)


def _front(found: Sequence[Recorded]) -> set[int]:
    kept = nondominated([(item.map50_95, item.latency) for item in found])
    return {item.number for item, is_kept in zip(found, kept, strict=True) if is_kept}
