"""Ray Tune as the engine: a study on real clusters of one machine, whose parts are killed one after the other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands.command import Command
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import get_note

from prunetune.results.dashboard.dashboard import ARTIFACTS
from prunetune.results.record import TrialRecord
from prunetune.search.study.open_study import find_study
from prunetune.spaces import Outcome

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.faults

StartCommand = Callable[..., Command]
WriteStudy = Callable[..., Path]

STUDY: dict[str, Any] = {
    "name": "on ray",
    "batch": 4,
    "train": {"mosaic": 0.0},
    "space": {"sparsity": 0.3, "sparse_epochs": 1, "threshold": {"low": 0.5, "high": 0.9}, "recovery_epochs": 8},
    "targets": [{"kind": "onnxruntime", "name": "cpu", "threads": 1, "alignment": 8, "runs": 6, "tolerance": 0.9}],
    "budget": {"latency": "<= 100 x dense"},
    "sampler": "random",
    "early_stopping": False,
    "engine": "ray",
}


class Scene:
    """A study on disk, as its runs see it."""

    def __init__(self, file: Path, runs: Path) -> None:
        self.file, self.folder, self.store = file, runs / STUDY["name"], runs / ".store"

    def trials(self) -> list[FrozenTrial]:
        """None before there is a study."""
        if not (self.folder / "study.db").is_file():
            return []
        return find_study(str(self.file))[0].get_trials()

    def training(self) -> list[FrozenTrial]:
        """The trials whose processes train their recoveries."""
        if not any((self.store / "progress").glob("recovery-*.pt")):
            return []
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        return [trial for trial in running if worker(trial) not in (None, self.driver)]

    driver: int | None = None

    def epochs(self) -> int:
        """What all finished stages took, by their records."""
        files = (self.store / "stages").glob("*/stage.json")
        return sum(json.loads(file.read_text())["record"].get("epochs", 0) for file in files)


@pytest.fixture
def scene(write_study: WriteStudy, shapes: Path, tmp_path: Path) -> Scene:
    return Scene(write_study(**STUDY, data=str(shapes), trials=3), tmp_path / "runs")


def worker(trial: FrozenTrial) -> int | None:
    """The number of the process that carries a trial out."""
    return (TrialRecord.from_trial(trial).worker or {}).get("pid")


def driver(trial: FrozenTrial) -> int | None:
    """The number of the process that has it carried out."""
    return (TrialRecord.from_trial(trial).driver or {}).get("pid")


def outcomes(trials: list[FrozenTrial]) -> list[Outcome | None]:
    return [TrialRecord.from_trial(trial).outcome for trial in trials]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_outlives_its_workers_and_its_driver(scene: Scene, start: StartCommand) -> None:
    log = scene.folder.parent / "log.jsonl"
    ray_options = ("ray.address=local", "ray.concurrent=1", "--log-json", log)

    # A worker dies: Ray has another one carry on with the same trial.
    run = start("run", scene.file, *ray_options)
    scene.driver = run.pid
    run.until(lambda: bool(scene.training()))
    (first,) = scene.training()
    died = worker(first)
    assert died is not None
    os.kill(died, signal.SIGKILL)
    run.until(lambda: len(scene.trials()) == 2)
    done = scene.trials()[0]
    assert outcomes([done]) == [Outcome.OK], run.said
    assert worker(done) != died
    assert driver(done) == run.pid
    assert TrialRecord.from_trial(done).cost.epochs_trained < 9, "what the first one finished was read back"
    assert "trial 0: its process died; another one goes on with it" in run.said
    assert "Traceback" not in run.said, run.said

    # The driver dies, and with it all that it started. The same command takes its recipe up.
    run.until(lambda: bool(scene.training()))
    run.kill()
    run = start("run", scene.file, *ray_options)
    scene.driver = run.pid
    run.until(lambda: any(driver(trial) == run.pid for trial in scene.training()))

    # It is asked to stop: after the epoch the trial goes back to the study.
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 0, run.said
    assert run.said.rstrip().endswith("stopped; the same command goes on from here")
    assert "Traceback" not in run.said, run.said
    assert all(trial.state != TrialState.RUNNING for trial in scene.trials())

    # Whoever listens has heard of every epoch.
    heard = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    epochs = [told for told in heard if told["event"] == "epoch_ended" and told["trial"] == 0]
    assert {told["stage"] for told in epochs} == {"sparse", "recovery"}
    assert all(told["losses"] and told["what"] == "trial 0" for told in epochs)
    assert [told["trial"] for told in heard if told["event"] == "trial_begun"][:2] == [0, 1]

    # Ray's workers have stored what the dashboard shows.
    assert "trial 0" in get_note(find_study(str(scene.file))[0])
    assert list((scene.folder / ARTIFACTS).iterdir())

    # Another engine ends it.
    last = start("run", scene.file, "engine=local")
    assert last.wait() == 0, last.said
    trials = scene.trials()
    assert outcomes(trials).count(Outcome.OK) == 3
    assert set(outcomes(trials)) <= {Outcome.OK, Outcome.INTERRUPTED, Outcome.WORKER_DIED}
    for trial, outcome in zip(trials, outcomes(trials), strict=True):
        again = [other for other in trials if TrialRecord.from_trial(other).retry_of == trial.number]
        assert [other.params for other in again] == ([] if outcome is Outcome.OK else [trial.params])
    verified = start("store", "verify", "--runs", scene.folder.parent)
    assert verified.wait() == 0, verified.said


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes with a core each."""
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()
        signal.signal(signal.SIGTERM, before)  # a node takes it from the process that starts it


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_outlives_one_of_two_nodes(
    scene: Scene, cluster: Any, start: StartCommand, postgres: Callable[[], str]
) -> None:
    second = cluster.add_node(num_cpus=1)
    address = postgres()
    storage = address + ("&" if "?" in address else "?") + "application_name=secret-word"
    run = start("run", scene.file, f"ray.address={cluster.address}", f"storage={storage}")

    def running() -> list[FrozenTrial]:
        return [trial for trial in trials() if worker(trial) != driver(trial)]

    def trials() -> list[FrozenTrial]:
        began = any(any((scene.store / place).glob("sparse-*")) for place in ("progress", "stages"))
        return find_storage_trials(storage) if began else []

    run.until(lambda: len({worker(trial) for trial in running()}) == 2)
    cluster.remove_node(second, allow_graceful=False)
    assert run.wait() == 0, run.said
    ended = find_storage_trials(storage)
    assert outcomes(ended).count(Outcome.OK) == 3
    assert "secret-word" not in run.said
    written = [path for path in (scene.folder / "ray").rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if b"secret-word" in path.read_bytes()] == []
    assert (scene.folder / "front.json").is_file()


def find_storage_trials(storage: str) -> list[FrozenTrial]:
    import optuna

    try:
        return optuna.load_study(study_name=STUDY["name"], storage=storage).get_trials()
    except KeyError:
        return []
