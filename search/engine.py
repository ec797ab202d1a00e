"""Who does the work of a study: this process, or a cluster that it drives."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import optuna

from prunetune.pruning.training import TrainingFailureError
from prunetune.results.headline import LEARNT
from prunetune.results.storage import storage_errors
from prunetune.search.aside import patiently
from prunetune.search.confirmation import move_to_these_devices
from prunetune.search.heartbeat import Heartbeat
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.study import open_study
from prunetune.search.workspace import Workspace
from prunetune.spaces import PrunetuneError


class Engine(Protocol):
    """Does a study's work within its block."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def prepare(self) -> optuna.Study:
        """Checks model and data, opens the study, measures the references and trains the dense network."""

    def all_trials(self, study: optuna.Study, heartbeat: Heartbeat) -> None:
        """Carries out trials until the study has all it should have, and none of this engine's still runs."""

    def finish(self, study: optuna.Study) -> None:
        """Trains the controls and writes the results."""


def prepare(spec: StudySpec, progress: Progress) -> tuple[optuna.Study, Workspace]:
    """Does in this process what comes before a study's trials. Of several processes one trains, and others wait.

    Raises:
        PrunetuneError: Something the user must mend.
    """
    progress.begin("checking model and data")
    workspace = Workspace(spec, progress.epochs)
    study = open_study(spec)
    with storage_errors(spec.folder, spec.storage):
        measure_references(study, workspace, progress)
        if half_is_no_smaller(study.user_attrs):
            progress.say(
                f"half-width has half of the channels of the network that {spec.model} was pruned from, which are not "
                "fewer than it has itself; give a budget in multiples of dense, or in ms"
            )
        _train_original(workspace, progress)
    return study, workspace


def half_is_no_smaller(attributes: Mapping[str, Any]) -> bool:
    """Whether a study's narrow network is as wide as its dense one, which then was pruned before."""
    half: Mapping[str, int] | None = attributes.get("channels_half")
    return half is not None and sum(half.values()) >= sum(attributes["channels_dense"].values())


def measure_references(study: optuna.Study, workspace: Workspace, progress: Progress) -> None:
    """Fixes what a study's latencies are told by; all is measured again where its device is another one.

    Raises:
        ConfigError: As `Workspace.prepare` does.
    """
    progress.begin("measuring the reference networks")
    if moved := workspace.prepare(study):
        progress.begin("measuring the kept networks on this device")
        move_to_these_devices(study, workspace, moved)


def _train_original(workspace: Workspace, progress: Progress) -> None:
    try:
        stage = patiently(workspace.pipeline.original, "dense network", workspace.store, progress)
        if workspace.pipeline.rewinds:  # a study that began without them has none yet
            patiently(workspace.pipeline.early, "first epochs of the dense network", workspace.store, progress)
    except TrainingFailureError as error:
        raise PrunetuneError(
            f"dense network: {error.cause}: {error}. Without it there is nothing to prune; change train, batch "
            f"or imgsz, and start again with name={workspace.spec.name}-2"
        ) from error
    accuracy = stage.record["accuracy"]["map50_95"]
    progress.network(
        "dense network",
        accuracy,
        {yardstick.name: yardstick.references["dense"] for yardstick in workspace.yardsticks},
        stage.record["gflops"],
        stage.record["params"],
        stage.reused,
    )
    if accuracy < LEARNT:
        progress.say(
            f"the dense network has hardly learnt (map50_95 {accuracy:.3f}): what is pruned of it cannot be compared; "
            "give it more epochs (dense_epochs), or look at its data"
        )
