"""Carries out a study in this process, alone or beside other processes on the same study."""

from __future__ import annotations

from dataclasses import replace

from prunetune.pruning.stages.lease import StageBusyError
from prunetune.search.callbacks.progress import Progress
from prunetune.search.callbacks.telling import tell_progress
from prunetune.search.engine.aside import Aside
from prunetune.search.engine.baselines import trained_controls
from prunetune.search.engine.engine import prepare
from prunetune.search.engine.finish import finish
from prunetune.search.engine.heartbeat import Heartbeat
from prunetune.search.engine.taking import give_trial_back, next_trial
from prunetune.search.interruption import TrialLostError, safe_point
from prunetune.search.study.stored_study import GRACE_S, StoredStudy
from prunetune.search.study.study_spec import StudySpec
from prunetune.search.trial.context import TrialContext
from prunetune.search.trial.objective import AskedTrial, forget_lost, run_and_tell, stored_record
from prunetune.spaces import PrunetuneError


class LocalEngine:
    """Does one thing after the other.

    Args:
        spec: The study's description.
        progress: Says what goes on.
    """

    def __init__(self, spec: StudySpec, progress: Progress) -> None:
        self._spec, self._progress = spec, progress
        self._context: TrialContext | None = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self) -> StoredStudy:
        """See `Engine`."""
        study, self._context = prepare(self._spec, self._progress)
        return study

    def help_to_finish(self) -> None:
        """See `Engine`."""
        assert self._context is not None
        for _ in trained_controls(self._context, self._progress, waits=False):
            pass

    def finish(self, study: StoredStudy) -> None:
        """See `Engine`."""
        assert self._context is not None  # `prepare` comes first
        finish(study, self._context, self._progress)

    def all_trials(self, study: StoredStudy, heartbeat: Heartbeat) -> None:
        """See `Engine`. Trials that are put aside are this process's until then."""
        assert self._context is not None
        carry_out_trials(study, self._context, heartbeat, self._progress)


def carry_out_trials(study: StoredStudy, context: TrialContext, heartbeat: Heartbeat, progress: Progress) -> None:
    """Asks for trials and carries them out until there is none left.

    Raises:
        PrunetuneError, KeyboardInterrupt: As `run_trial` does; all that this process had taken was given back.
    """
    deferred: Aside[AskedTrial] = Aside(context.store, progress)
    try:
        while (asked := _next_work(study, context.spec, deferred)) is not None:
            _carry_out(study, asked, context, heartbeat, progress, deferred)
            safe_point()
    except (KeyboardInterrupt, PrunetuneError) as error:
        for asked in deferred.take_all():
            give_trial_back(study, asked.number, str(error) or INTERRUPTED, cost=asked.spent)
        raise


def _next_work(study: StoredStudy, spec: StudySpec, deferred: Aside[AskedTrial]) -> AskedTrial | None:
    """A trial whose stage is free again, or else a new one, or else, after waiting, the first that can go on."""
    if (ready := deferred.ready()) is not None:
        return ready
    if not deferred.is_full and (new := next_trial(study, spec)) is not None:
        return new
    return deferred.wait()


def _carry_out(
    study: StoredStudy,
    asked: AskedTrial,
    context: TrialContext,
    heartbeat: Heartbeat,
    progress: Progress,
    deferred: Aside[AskedTrial],
) -> None:
    """Carries out one trial, and says how it ended; one whose stage another process trains is deferred."""
    progress.begin_trial(asked.number, asked.recipe, stored_record(study, asked.number).retry_of)
    heartbeat.begin(asked.trial)
    began = context.cost_meter.reading()
    try:
        with heartbeat.carrying_out(asked.trial):
            ended = run_and_tell(study, asked, context)
    except StageBusyError as busy:
        spent = asked.spent.then(context.cost_meter.reading() - began)
        deferred.put(f"trial {asked.number}", replace(asked, spent=spent), busy)
        return
    except (KeyboardInterrupt, PrunetuneError) as error:
        spent = asked.spent.then(context.cost_meter.reading() - began)
        reason = str(error) if isinstance(error, PrunetuneError) else INTERRUPTED
        give_trial_back(study, asked.number, reason, cost=spent)
        forget_lost(study, asked.number, context)
        raise
    except TrialLostError:
        forget_lost(study, asked.number, context)
        progress.end()
        progress.say(
            f"trial {asked.number}: this process had no heartbeat for {GRACE_S} s, and the trial was given to "
            "another. Its result does not count; its stages are there for the other"
        )
    else:
        tell_progress(study, context.spec, asked.number, ended, progress)
    heartbeat.end(asked.trial)


INTERRUPTED = "the run was interrupted"
