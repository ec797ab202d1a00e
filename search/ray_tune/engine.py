"""Has a Ray cluster carry out a study: Ray Tune starts trials where there is room, and again where a node was lost.

The study stays Optuna's: the driver takes its trials as any other process does, and a trial's worker tells them. So
processes of one machine and drivers of clusters may share a study, and it can go on with either. A trial names the
driver beside its worker: as long as the driver lives, the death of a worker is Ray's to mend.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any

from prunetune.search.callbacks.progress import Progress
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.interruption import Interruption, StopAskedError, safe_point, stop_is_asked
from prunetune.search.study.open_study import open_study
from prunetune.search.study.stored_study import StoredStudy
from prunetune.search.study.study_spec import RaySettings, StudySpec
from prunetune.spaces import ConfigError, MissingExtraError, PrunetuneError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    from ray import tune
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

from prunetune.search.ray_tune.searcher import StudySearcher
from prunetune.search.ray_tune.worker import finish_study, prepare_study, prunetune_trial

CONNECT_S = 20.0
"""So long a head node may take to answer."""


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['trial']}"


class RayEngine:
    """Does a study's work on a Ray cluster.

    Args:
        spec: The study's description.
        progress: Says what goes on.
    """

    def __init__(self, spec: StudySpec, progress: Progress) -> None:
        gpus = spec.ray.gpus if spec.ray.gpus is not None else float(spec.devices[0].isdigit())
        self._resources = {"cpu": spec.ray.cpus, "gpu": gpus}
        device = "0" if gpus else spec.devices[0]  # Ray shows a process no other GPU than its own
        self._spec = spec.model_copy(update={"device": device})
        self._progress, self._leaves = progress, False

    def __enter__(self) -> RayEngine:
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends at a safe point
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with `verbose=0` the older output says nothing
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a worker's death is told in a line
        console = self._progress.console
        if console is None or not console.is_terminal:
            os.environ["RAY_COLOR_PREFIX"] = "0"
        if not ray.is_initialized():
            self._leaves = True
            _connect(self._spec.ray, is_shown=console is not None)
        if Interruption.current is not None:
            Interruption.current.hold()  # Ray takes SIGTERM
        self._check_nodes()
        return self

    def __exit__(self, *_: object) -> None:
        if self._leaves:
            ray.shutdown()

    def prepare(self) -> StoredStudy:
        """See `Engine`. A worker does it: it has the GPU."""
        self._do(prepare_study)
        return open_study(self._spec)

    def help_to_finish(self) -> None:
        """See `Engine`. The driver trains nothing."""

    def finish(self, study: StoredStudy) -> None:
        """See `Engine`."""
        self._do(finish_study)

    def all_trials(self, study: StoredStudy, heartbeat: Heartbeat) -> None:
        """See `Engine`."""
        searcher = StudySearcher(study, self._spec, self._progress, heartbeat)
        try:
            self._tuner(searcher).fit()
        finally:
            searcher.give_all_back()
        if searcher.problem is not None:
            raise PrunetuneError(searcher.problem)
        safe_point()

    def _tuner(self, searcher: StudySearcher) -> tune.Tuner:
        trainable = tune.with_parameters(prunetune_trial, spec=self._spec, folder=os.getcwd())
        return tune.Tuner(
            tune.with_resources(trainable, self._resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,  # the study knows when it has enough
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}",
                storage_path=str(self._spec.folder.resolve() / "ray"),
                stop=searcher.stops,
                failure_config=tune.FailureConfig(max_failures=self._spec.ray.max_failures),
                verbose=0,
            ),
        )

    def _do(self, task: Callable[[StudySpec, str], str | None]) -> None:
        """Has a worker do something, and waits for it.

        Raises:
            PrunetuneError: What the worker met, or that its process died too often.
            StopAskedError: A stop was asked for, and the worker came to a safe point.
        """
        settings = self._spec.ray
        remote = ray.remote(task).options(
            num_cpus=settings.cpus,
            num_gpus=self._resources["gpu"],
            max_retries=settings.max_failures,
            name=f"{task.__name__} {self._spec.name}",
        )
        waiting = [remote.remote(self._spec, os.getcwd())]
        is_cancelled = False
        while not ray.wait(waiting, timeout=1)[0]:
            if stop_is_asked() and not is_cancelled:  # a second one would stop it at once
                is_cancelled = True
                ray.cancel(waiting[0])
        try:
            problem = ray.get(waiting[0])
        except ray.exceptions.RayError as error:
            if stop_is_asked():
                raise StopAskedError from error
            raise PrunetuneError(f"Ray could not {task.__name__.replace('_', ' the ')}: {error}") from error
        safe_point()
        if problem is not None:
            raise PrunetuneError(problem)

    def _check_nodes(self) -> None:
        hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        if len(hosts) > 1 and self._spec.storage_url.startswith("sqlite"):
            raise ConfigError(
                f"storage: an SQLite file is not safe for the {len(hosts)} hosts of this Ray cluster; give one that "
                "all of them reach, such as storage=postgresql+psycopg://USER@HOST/NAME"
            )
        for kind, asked in (("CPU", self._resources["cpu"]), ("GPU", self._resources["gpu"])):
            most = max((node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
            if asked > most:
                raise ConfigError(
                    f"ray.{kind.lower()}s: a trial asks for {asked:g}, and no node has more than {most:g}"
                )


def _connect(settings: RaySettings, is_shown: bool) -> None:
    host, _, port = (settings.address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        ray.init(
            address=settings.address,
            namespace="prunetune",
            logging_level=logging.ERROR,
            log_to_driver=is_shown,
        )
    except (OSError, ValueError, RuntimeError) as error:
        where = settings.address or "a cluster"
        raise ConfigError(
            f"ray.address: {where} cannot be reached ({error}); start one with `ray start --head`"
        ) from error
