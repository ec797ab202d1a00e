"""Runs a study on this machine: trial after trial, alone or beside other processes on the same study."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from prunetune.pruning.claims import LOOK_S, StageClaimedError
from prunetune.pruning.ledger import Ledger
from prunetune.pruning.training import TrainingFailureError
from prunetune.results import front
from prunetune.results.tables import ms_text
from prunetune.search.aside import Aside, patiently
from prunetune.search.confirmation import move_to_these_devices
from prunetune.search.finish import finish
from prunetune.search.heartbeat import (
    GRACE_S,
    Clock,
    Heartbeat,
    TrialLostError,
    ask,
    clock_ahead_s,
    last_signs,
)
from prunetune.search.interruption import Interruption, StopAskedError, safe_point, stop_is_asked
from prunetune.search.limits import forecast
from prunetune.search.objective import carry_out
from prunetune.search.outcome import Outcome
from prunetune.search.progress import Progress
from prunetune.search.samplers import next_sampler
from prunetune.search.spec import StudySpec
from prunetune.search.spec_change import refuse_change
from prunetune.search.storage import alone, history, memory, patiently_store, recent_trials, together
from prunetune.search.study import open_study, storage_errors, stored_spec, study_exists
from prunetune.search.workers import give_back, is_near, is_to_reap, reap, requeue, this_worker
from prunetune.search.workspace import Workspace
from prunetune.spaces import PrunetuneError, Recipe

FRONT_EVERY, FRONT_SHARE = 5, 20
"""The front is shown after every fifth trial, in a large study after every twentieth part of them."""


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken."""

    trial: Trial
    recipe: Recipe
    ledger: Ledger = field(default_factory=Ledger, compare=False)
    """What all attempts at it took: one that meets a stage which another process trains is put aside."""


def run_study(spec: StudySpec, console: Console) -> optuna.Study:
    """Carries out a study's trials until there are enough, then finishes it.

    The same call resumes a study, joins one that runs elsewhere, and shows one that is done.

    Raises:
        PrunetuneError: Something the user must mend; what was finished is kept.
        StopAskedError: As asked for; the running trial was given back, and those put aside.
        KeyboardInterrupt: The same in the middle of an epoch, after a second signal.
    """
    progress = Progress(console, spec.trials)
    with Interruption():
        try:
            return _run(spec, progress)
        except Exception as error:
            if stop_is_asked() and not isinstance(error, PrunetuneError):
                raise StopAskedError from error  # a signal to the whole group also ends the processes that load images
            raise
        finally:
            progress.end()


def _run(spec: StudySpec, progress: Progress) -> optuna.Study:
    study = open_study(spec) if study_exists(spec) else None  # a changed description shows before any work
    progress.begin("checking model and data")
    workspace = Workspace(spec, progress.epochs)
    study = study or open_study(spec)
    with storage_errors(spec.folder, spec.storage):
        progress.begin("measuring the reference networks")
        if moved := workspace.prepare(study):
            progress.begin("measuring the kept networks on this device")
            move_to_these_devices(study, workspace, moved)
        _train_original(workspace, progress)
        done_before = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if done_before:
            rest = "no further trial" if _limit_reached(study, spec) else "going on"
            progress.say(f"study {spec.name}: {done_before} finished trials, {rest}")
        safe_point()
        with Heartbeat(study) as heartbeat:
            workspace.safe_point = heartbeat.safe_point
            carry_out_trials(study, spec, workspace, progress, heartbeat)
            while (others := _others_finish(study, spec, progress)) is None:
                carry_out_trials(study, spec, workspace, progress, heartbeat)
        if (reached := _limit_reached(study, spec)) and not reached.startswith("trials"):
            progress.say(f"no further trial: {reached}")
        if others:
            progress.say(
                "no trial is left to take; the processes that still run will train the controls and finish the study"
            )
        else:
            finish(study, workspace, progress)
    return study


def carry_out_trials(
    study: optuna.Study, spec: StudySpec, workspace: Workspace, progress: Progress, heartbeat: Heartbeat
) -> None:
    """Carries out trials until the study has all it should have. Those put aside are this process's until then."""
    aside: Aside[Claim] = Aside(workspace.store, progress)
    try:
        while (claim := _next_work(study, spec, aside)) is not None:
            name = f"trial {claim.trial.number}"
            progress.begin(name)
            heartbeat.begin(claim.trial)
            try:
                with heartbeat.carrying_out(claim.trial):
                    _one_trial(study, claim, workspace, progress)
            except StageClaimedError as claimed:
                aside.put(name, claim, claimed)
                continue
            except TrialLostError:
                workspace.forget(f"trial-{claim.trial.number}")
                progress.end()
                progress.say(
                    f"{name}: this process gave no sign of life for {GRACE_S} s, and the trial was given to another. "
                    "Its result does not count; its stages are there for the other"
                )
            heartbeat.end(claim.trial)
            safe_point()
    except (KeyboardInterrupt, PrunetuneError) as error:
        for claim in aside.take_all():
            _return(study, claim, str(error) or "the run was interrupted")
        raise


def _next_work(study: optuna.Study, spec: StudySpec, aside: Aside[Claim]) -> Claim | None:
    """A trial whose stage is free again, or else a new one, or else, after waiting, the first that can go on."""
    if (ready := aside.ready()) is not None:
        return ready
    if not aside.is_full and (new := next_trial(study, spec)) is not None:
        return new
    return aside.wait()


def _train_original(workspace: Workspace, progress: Progress) -> None:
    """Trains the dense network, or reads it back. Of several processes one does it and the others wait.

    Raises:
        PrunetuneError: Its training failed.
    """
    try:
        stage = patiently(workspace.pipeline.original, "dense network", workspace.store, progress)
    except TrainingFailureError as error:
        raise PrunetuneError(
            f"dense network: {error.cause}: {error}. Without it there is nothing to prune; change train, batch "
            f"or imgsz, and start again with name={workspace.spec.name}-2"
        ) from error
    progress.end()
    dense = ms_text({yardstick.name: yardstick.references["dense"] for yardstick in workspace.yardsticks})
    progress.say(
        f"dense network: map50_95 {stage.record['accuracy']['map50_95']:.3f}  "
        f"{dense}  {stage.record['gflops']:.2f} GFLOPs  "
        f"{stage.record['params'] / 1e6:.2f}M" + ("  (read back)" if stage.reused else "")
    )


def next_trial(study: optuna.Study, spec: StudySpec) -> Claim | None:
    """Takes the next trial, or None if the study has all it should have.

    Trials of dead processes are failed first, and their recipes come before new ones.
    """
    ahead_s = memory(study, Clock).ahead_s(study)

    def claim() -> tuple[Trial, list[FrozenTrial]] | None:
        trials = recent_trials(study)  # read here, and not while others wait
        running = recent_trials(study, (TrialState.RUNNING,))
        room = _room(spec, trials, len(running))
        if is_to_reap(study, trials, running) or not room:
            return exactly()
        with suppress(_NoRoomError), alone(study, recent=True):
            trial = _asked(study, spec, ahead_s)
            if trial.number - len(trials) >= room:  # so many were begun meanwhile
                raise _NoRoomError
            return trial, trials
        return exactly()

    def exactly() -> tuple[Trial, list[FrozenTrial]] | None:
        with alone(study):
            reap(study)
            trials = study.get_trials(deepcopy=False)
            if not trials:  # until the first one the description may change
                refuse_change(stored_spec(study), spec)
            if spec.limits.reached(history(study).spent(trials, time.time() - ahead_s)) is not None:
                return None
            return _asked(study, spec, ahead_s), trials

    if (claimed := patiently_store(study, claim)) is None:
        return None
    trial, before = claimed
    study.sampler = next_sampler(spec, before, unseen=max(0, trial.number - len(before)))
    return _signed(study, spec, trial)


class _NoRoomError(Exception):
    """Others have begun so many trials that it has to be counted exactly what is left."""


def _room(spec: StudySpec, trials: list[FrozenTrial], running: int) -> int:
    """How many trials can surely be begun after these, by any process; 0 where that is not worth a guess."""
    if spec.limits.trials is None or spec.limits.epochs is not None or spec.limits.hours is not None or not trials:
        return 0
    left = spec.limits.trials - len(trials)
    return left if left > 2 * running else 0


def _asked(study: optuna.Study, spec: StudySpec, ahead_s: float) -> Trial:
    """Takes a trial and signs it. Call it while no other process does."""
    safe_point()
    trial = ask(study)
    trial.set_user_attr("worker", this_worker(spec.device, ahead_s))
    return trial


def _signed(study: optuna.Study, spec: StudySpec, trial: Trial) -> Claim:
    """Chooses a trial's recipe. Others take their trials meanwhile; who dies here has asked for nothing."""
    attempts = count()

    def sign() -> Claim:
        # What a lost attempt has chosen is not in the data base: Optuna's object takes it for stored.
        mine = trial if next(attempts) == 0 else Trial(study, trial._trial_id)
        mine.relative_params  # noqa: B018  # sampled here, before anything is locked
        with together(study, mine):
            recipe = spec.space.suggest(mine)
            mine.set_user_attr("recipe", recipe.as_dict())
        return Claim(mine, recipe)

    try:
        return patiently_store(study, sign)
    except optuna.exceptions.UpdateFinishedTrialError as error:
        raise TrialLostError from error


def _one_trial(study: optuna.Study, claim: Claim, workspace: Workspace, progress: Progress) -> None:
    try:
        result = carry_out(study, claim.trial, claim.recipe, workspace, claim.ledger)
    except StageClaimedError:
        raise
    except KeyboardInterrupt:
        _return(study, claim, "the run was interrupted")
        raise
    except PrunetuneError as error:
        _return(study, claim, str(error))
        raise
    trials = study.get_trials(deepcopy=False)
    finished = history(study).spent(trials, time.time()).finished
    progress.trial(result, finished)
    if finished % max(FRONT_EVERY, finished // FRONT_SHARE) == 0:
        members = [f"trial {item.trial}: {item.map50_95:.3f} at {item.latency_ms:.2f} ms" for item in front(study)]
        progress.say("front: " + ("; ".join(members) or "no trial meets the budget yet"))
        if remaining := forecast(workspace.spec.limits, trials, _now(study)):
            progress.say(remaining.text(datetime.now()))


def _return(study: optuna.Study, claim: Claim, reason: str) -> None:
    def act() -> None:
        with alone(study):
            frozen = study.get_trials(deepcopy=False)[claim.trial.number]
            if frozen.state == TrialState.RUNNING:
                ledger = claim.ledger  # what was trained counts in the study's budget; whoever goes on reads it back
                claim.trial.set_user_attr("epochs", {"trained": ledger.epochs_trained, "reused": ledger.epochs_reused})
                give_back(study, frozen, Outcome.INTERRUPTED, reason)
            requeue(study)

    patiently_store(study, act)


def _limit_reached(study: optuna.Study, spec: StudySpec) -> str | None:
    return spec.limits.reached(history(study).spent(study.get_trials(deepcopy=False), _now(study)))


def _now(study: optuna.Study) -> float:
    """Seconds since the epoch, by the data base's clock."""
    return time.time() - clock_ahead_s(study)


def _reap(study: optuna.Study) -> list[int]:
    with alone(study):
        return reap(study)


def _others_finish(study: optuna.Study, spec: StudySpec, progress: Progress) -> bool | None:
    """Whether others, who live, will finish the study; None if there is work again.

    Who died on another host is noticed only when it was silent for a while. So nobody leaves before each of those that
    run was heard once more, ended, or was given up.
    """
    first, pause = last_signs(study), threading.Event()
    while running := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if patiently_store(study, lambda: _reap(study)):
            return None
        signs = last_signs(study)
        far = [trial for trial in running if not is_near(trial.user_attrs.get("worker") or {})]
        unheard = [trial for trial in far if trial.number in first and first[trial.number] == signs.get(trial.number)]
        if not unheard:
            return True
        told = ", ".join(f"trial {trial.number} on {trial.user_attrs['worker'].get('host')}" for trial in unheard)
        progress.begin(f"waiting for a sign of life of {told}")
        safe_point()
        pause.wait(LOOK_S)
    return False
