"""SIGKILL at random moments, for one worker and several, on each kind of data base: nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from commands.command import Command
from faults.moments import Moment
from optuna.trial import FrozenTrial, TrialState

from prunetune.pruning.stages.store import StageStore
from prunetune.results.record import TrialRecord
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome, StoreError

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STUDY: dict[str, Any] = {
    "name": "torn",
    "model": "yolov5n.yaml",
    "imgsz": 32,
    "batch": 8,
    "dense_epochs": 1,
    "train": {"mosaic": 0.0},
    "space": {
        "sparsity": {"low": 0.2, "high": 0.4, "grid": 2},
        "sparse_epochs": 2,
        "threshold": {"low": 0.5, "high": 1.1},
        "recovery_epochs": 2,
    },
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},  # met on the busiest machine
    "sampler": "random",
    "controls": [],
    "early_stopping": False,  # every trial is to end OK, whatever its accuracy
    "trials": 3,
}

ENGINES: dict[str, Callable[[int], list[list[str]]]] = {
    "local": lambda workers: [[] for _ in range(workers)],
    "ray": lambda workers: [["engine=ray", "ray.address=local", "ray.cpus=0.5", f"ray.concurrent={workers}"]],
}
"""The arguments of each process that a study's workers need, by engine."""

KILLS = {1: 9, 2: 8, 4: 8}
"""How often a study of so many workers is struck: 50 times in all, or for each one with PRUNETUNE_KILLS=50."""

EPOCH = re.compile(r": (original|sparse|recovery|control), epoch (\d+) in ")


class Study:
    """A study whose processes are killed.

    Args:
        file: Its description.
        runs: Its folder.
        start: Starts a process.
    """

    def __init__(self, file: Path, runs: Path, start: Callable[..., Command]) -> None:
        self.file, self.folder, self.store = file, runs / "torn", runs / ".store"
        self._start = start
        self.trials_wanted = STUDY["trials"]
        self.commands: list[Command] = []
        self.moments: list[str] = []
        self.finished: dict[int, FrozenTrial] = {}
        self.stages: dict[str, tuple[int, int]] = {}

    def start(self, arguments: list[str], moment: Moment | None = None) -> Command:
        """Starts a worker that dies at a moment."""
        limit = f"trials={self.trials_wanted}"
        prepare = None if moment is None else moment.prepare
        self.commands.append(self._start("run", self.file, limit, *arguments, prepare=prepare))
        return self.commands[-1]

    def trials(self) -> list[FrozenTrial]:
        """Its trials; none before it exists."""
        with suppress(StoreError):
            return find_study(str(self.file))[0].get_trials()
        return []

    def check_that_nothing_changed(self, after: str) -> None:
        """What is finished stays as it is."""
        now = {trial.number: trial for trial in self.trials() if trial.state.is_finished()}
        assert {number: now.get(number) for number in self.finished} == self.finished, f"a trial changed: {after}"
        kept = {}
        for stage in (self.store / "stages").glob("*"):
            record = (stage / "stage.json").stat()  # a stage without a record would be half-written
            kept[stage.name] = (record.st_ino, record.st_mtime_ns)
        assert {name: kept.get(name) for name in self.stages} == self.stages, f"a stage was written again: {after}"
        self.finished, self.stages = now, kept

    def strike(self, engine: str, workers: int, kills: int, chance: random.Random) -> None:
        """Keeps so many workers running and kills them, one by one. A study that is done gets more trials."""
        living: list[tuple[Command, Moment, list[str]]] = []
        pause = threading.Event()
        idle = ENGINES[engine](workers)
        while len(self.moments) < kills:
            for arguments in idle:
                moment = Moment.draw(chance)
                living.append((self.start(arguments, moment), moment, arguments))
            idle = []
            pause.wait(0.005)
            for item in list(living):
                command, moment, arguments = item
                if moment.has_come(command):
                    command.kill()
                if command.code is None:
                    continue
                living.remove(item)
                if command.code == 0:
                    self.trials_wanted += not idle
                else:
                    assert command.code == -9, command.said
                    self.moments.append(f"{moment}: {command.said[-100:]}")
                    self.check_that_nothing_changed(self.moments[-1])
                idle.append(arguments)
            if idle and any(command.code == 0 for command, _, _ in living):
                continue
        for command, _, _ in living:
            command.kill()
            self.moments.append("at the end")

    def strike_cluster(self, workers: int, kills: int, chance: random.Random) -> None:
        """Kills, while their trials train, the driver of a cluster or one of its workers."""
        (arguments,) = ENGINES["ray"](workers)
        command, pause = self.start(arguments), threading.Event()
        while len(self.moments) < kills:
            kills_driver, delay = chance.random() < 0.5, chance.uniform(0.0, 2.0)
            while not (at_work := self._at_work(command)) and command.code is None:
                pause.wait(0.05)
            pause.wait(delay)
            if command.code is not None:
                assert command.code == 0, command.said
                self.trials_wanted += workers
                command = self.start(arguments)
            elif kills_driver:
                command.kill()
                self._note("the driver")
                command = self.start(arguments)
            else:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(at_work), signal.SIGKILL)
                    self._note("a worker")
        command.kill()
        self._note("the driver, at the end")

    def _at_work(self, driver: Command) -> list[int]:
        """The processes that carry out a driver's trials."""
        running = [TrialRecord.from_trial(trial) for trial in self.trials() if trial.state == TrialState.RUNNING]
        mine = [(record.worker or {})["pid"] for record in running if (record.driver or {}).get("pid") == driver.pid]
        return [pid for pid in mine if pid != driver.pid and psutil.pid_exists(pid)]

    def _note(self, moment: str) -> None:
        self.moments.append(moment)
        self.check_that_nothing_changed(moment)


def asked(trial: FrozenTrial) -> dict[str, Any]:
    """The recipe that a trial carries out; what it was to repeat if it ended before it had stored all of one."""
    if TrialRecord.from_trial(trial).recipe is not None:
        return trial.params
    params: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return params


ON_REQUEST = pytest.mark.skipif(
    "PRUNETUNE_KILLS" not in os.environ,
    reason="a driver takes half a minute to start again: PRUNETUNE_KILLS=8 strikes Ray at random, test_ray.py in turn",
)
COMBINATIONS = [
    pytest.param(engine, workers, storage, marks=[ON_REQUEST] if engine == "ray" else [])
    for engine in ENGINES
    for workers in sorted(KILLS)
    for storage in ("sqlite", "postgresql")
]


@pytest.mark.timeout(3600 if "PRUNETUNE_KILLS" in os.environ else 900)
@pytest.mark.parametrize(("engine", "workers", "kind"), COMBINATIONS)
def test_a_study_survives_kills_at_random_moments(
    engine: str,
    workers: int,
    kind: str,
    shapes: Path,
    tmp_path: Path,
    start: Callable[..., Command],
    request: pytest.FixtureRequest,
    nondominated: Callable[..., set[tuple[float, float]]],
) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db" if kind == "sqlite" else request.getfixturevalue("postgres")()
    runs, file = tmp_path / "runs", tmp_path / "torn.yaml"
    values = {**STUDY, "data": str(shapes), "runs": str(runs), "storage": storage}
    if workers == 2:
        values["space"] = {**STUDY["space"], "rounds": {"low": 1, "high": 2}}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    study = Study(file, runs, start)
    kills = int(os.environ.get("PRUNETUNE_KILLS", KILLS[workers]))
    chance = random.Random(f"{engine} {workers} {kind}")
    if engine == "ray":
        study.strike_cluster(workers, kills, chance)
    else:
        study.strike(engine, workers, kills, chance)

    last = [study.start(arguments) for arguments in ENGINES[engine](workers)]
    assert [command.wait() for command in last] == [0] * len(last), [command.said for command in last]
    study.check_that_nothing_changed("the last run")
    said = [command.said for command in study.commands]
    assert not any("Traceback" in text or "error:" in text for text in said), said

    # Each network that a trial had on its way is in its record once, whoever carried out the rest. Two trials may come
    # to the same one on their ways: then it was trained once.
    trials = study.trials()
    assert all(trial.state.is_finished() for trial in trials)
    found = [TrialRecord.from_trial(trial) for trial in trials]
    done = [record for record in found if record.outcome is Outcome.OK]
    for record in done:
        assert [network.round for network in record.networks] == [*range(1, len(record.networks) + 1)]
    recoveries = {stage for stage in study.stages if stage.startswith("recovery-")}
    assert recoveries <= {network.stage for record in done for network in record.networks}

    # As many trials as were asked for, and each recipe of a dead worker carried out in the end, once.
    assert len(done) == study.trials_wanted
    for trial, record in zip(trials, found, strict=True):
        again = [other for other in trials if found[other.number].retry_of == trial.number]
        if record.outcome is Outcome.OK or not asked(trial):  # who died before he chose a recipe left nothing to repeat
            assert again == []
        else:
            assert [asked(other) for other in again] == [asked(trial)]

    # A kill costs one epoch at most. A cluster's workers say only what happens every now and then.
    trained = sum(len(EPOCH.findall(text)) for text in said)
    records = [json.loads(item.read_text()) for item in (study.store / "stages").glob("*/stage.json")]
    needed = sum(record["record"]["epochs"] for record in records)
    if engine == "local":
        assert needed - len(study.moments) <= trained <= needed + len(study.moments)

    # The store and the front are whole.
    store = StageStore(study.store)
    assert {record.name for record in (study.store / "stages").iterdir()} == set(study.stages)
    assert all(store.find(name) is not None for name in study.stages)
    verified = start("store", "verify", "--runs", runs)
    assert verified.wait() == 0, verified.said
    assert list((study.store / "drafts").iterdir()) == []
    # Who died between storing a stage and forgetting its progress left a file that nobody will ask for.
    assert {item.stem for item in (study.store / "progress").glob("*.pt")} <= set(study.stages)
    document = json.loads((study.folder / "front.json").read_text(encoding="utf-8"))
    points = {(entry["map50_95"], entry["latency_ms"]) for entry in document["front"]}
    assert points == nondominated(study.file)
    assert (study.folder / "best.onnx").is_file()
