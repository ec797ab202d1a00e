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
from typing import Any

from prunetune.search.heartbeat import Heartbeat
from prunetune.search.interruption import Interruption, StopAskedError, safe_point, stop_is_asked
from prunetune.search.progress import Progress
from prunetune.search.spec import RaySettings, StudySpec
from prunetune.search.storage import StoredStudy
from prunetune.search.study import open_study
from prunetune.spaces import ConfigError, MissingExtraError, PrunetuneError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    from ray import tune
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

from prunetune.search.ray_drive import Drive, Listen, StopWhenAsked, StudySearcher
from prunetune.search.ray_experiments import Experiments
from prunetune.search.ray_worker import finish_study, prepare_study, prunetune_trial

CONNECT_S = 20.0
"""So long a head node may take to answer."""

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with `verbose=0` the older output says nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a description's paths start where the command was given
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends at a safe point
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # a trial that waits for room was chosen without what others find meanwhile
}


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
        os.environ.update(_ENVIRONMENT)
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

    def finish(self, study: StoredStudy) -> None:
        """See `Engine`."""
        self._do(finish_study)

    def all_trials(self, study: StoredStudy, heartbeat: Heartbeat) -> None:
        """See `Engine`."""
        drive = Drive.begin(study, self._spec, self._progress, heartbeat)
        while not drive.is_exhausted:
            try:
                self._fit()
            finally:
                drive.give_all_back()
            if drive.problem is not None:
                raise PrunetuneError(drive.problem)
            safe_point()

    def _fit(self) -> None:
        trainable = tune.with_resources(
            tune.with_parameters(prunetune_trial, spec=self._spec, folder=os.getcwd()), self._resources
        )
        experiments = Experiments(self._spec.folder)
        with experiments.one_that_died() as name:
            if name is not None:
                self._progress.say(f"going on with Ray's experiment {name}, whose driver died")
                try:
                    tune.Tuner.restore(str(experiments.folder / name), trainable).fit()
                except PrunetuneError:
                    raise
                # What is left of it may be anything. Nothing is lost: the study has the recipes, the store the stages.
                except Exception as error:
                    self._progress.say(f"it cannot be restored ({type(error).__name__}: {error}); starting another one")
                return
        with experiments.new() as name:
            self._tuner(name, trainable).fit()

    def _tuner(self, name: str, trainable: Any) -> tune.Tuner:
        settings = self._spec.ray
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(),
                num_samples=-1,  # the study knows when it has enough
                max_concurrent_trials=settings.concurrent,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(Experiments(self._spec.folder).folder),
                stop=StopWhenAsked(),
                callbacks=[Listen()],
                failure_config=tune.FailureConfig(max_failures=settings.max_failures),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
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
            runtime_env={"env_vars": _ENVIRONMENT},
        )
    except (OSError, ValueError, RuntimeError) as error:
        where = settings.address or "a cluster"
        raise ConfigError(
            f"ray.address: {where} cannot be reached ({error}); start one with `ray start --head`"
        ) from error
