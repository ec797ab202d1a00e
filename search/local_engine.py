"""Carries out a study in this process, alone or beside other processes on the same study."""

from __future__ import annotations

import optuna

from prunetune.pruning.claims import StageClaimedError
from prunetune.results.entries import RETRY_OF
from prunetune.search.aside import Aside
from prunetune.search.engine import prepare
from prunetune.search.finish import finish
from prunetune.search.heartbeat import GRACE_S, Heartbeat, TrialLostError
from prunetune.search.interruption import safe_point
from prunetune.search.objective import carry_out, forget_lost
from prunetune.search.progress import Progress
from prunetune.search.spec import StudySpec
from prunetune.search.taking import Claim, give_trial_back, next_trial
from prunetune.search.telling import tell_progress
from prunetune.search.workspace import Workspace
from prunetune.spaces import PrunetuneError


class LocalEngine:
    """Does one thing after the other.

    Args:
        spec: The study's description.
        progress: Says what goes on.
        workspace: The study's, where it is there before `prepare` makes it.
    """

    def __init__(self, spec: StudySpec, progress: Progress, workspace: Workspace | None = None) -> None:
        self._spec, self._progress = spec, progress
        self._made = workspace

    @property
    def workspace(self) -> Workspace:
        """The study's. After `prepare`."""
        assert self._made is not None
        return self._made

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self) -> optuna.Study:
        """See `Engine`."""
        study, self._made = prepare(self._spec, self._progress)
        return study

    def finish(self, study: optuna.Study) -> None:
        """See `Engine`."""
        finish(study, self.workspace, self._progress)

    def all_trials(self, study: optuna.Study, heartbeat: Heartbeat) -> None:
        """See `Engine`. Trials that are put aside are this process's until then."""
        self.workspace.safe_point = heartbeat.safe_point
        aside: Aside[Claim] = Aside(self.workspace.store, self._progress)
        try:
            while (claim := self._next_work(study, aside)) is not None:
                self._progress.begin_trial(claim.trial.number, claim.recipe, claim.trial.user_attrs.get(RETRY_OF))
                heartbeat.begin(claim.trial)
                try:
                    with heartbeat.carrying_out(claim.trial):
                        self.carry_out(study, claim)
                except StageClaimedError as claimed:
                    aside.put(_name(claim), claim, claimed)
                    continue
                except TrialLostError:
                    self._lost(study, claim)
                heartbeat.end(claim.trial)
                safe_point()
        except (KeyboardInterrupt, PrunetuneError) as error:
            for claim in aside.take_all():
                self._give_back(study, claim, str(error) or INTERRUPTED)
            raise

    def _next_work(self, study: optuna.Study, aside: Aside[Claim]) -> Claim | None:
        """A trial whose stage is free again, or else a new one, or else, after waiting, the first that can go on."""
        if (ready := aside.ready()) is not None:
            return ready
        if not aside.is_full and (new := next_trial(study, self._spec)) is not None:
            return new
        return aside.wait()

    def carry_out(self, study: optuna.Study, claim: Claim) -> None:
        """Carries out one trial, and says how it ended.

        Raises:
            StageClaimedError: Another process trains a stage of it. The trial stays this process's.
            PrunetuneError, KeyboardInterrupt, TrialLostError: As `carry_out` does; the trial was given back.
        """
        try:
            result = carry_out(study, claim.trial, claim.recipe, self.workspace, claim.ledger)
        except StageClaimedError:
            raise
        except (KeyboardInterrupt, PrunetuneError) as error:
            self._give_back(study, claim, str(error) if isinstance(error, PrunetuneError) else INTERRUPTED)
            raise
        tell_progress(study, self._spec, result, self._progress)

    def _give_back(self, study: optuna.Study, claim: Claim, reason: str) -> None:
        give_trial_back(study, claim.trial.number, reason, ledger=claim.ledger)

    def _lost(self, study: optuna.Study, claim: Claim) -> None:
        forget_lost(study, claim.trial.number, self.workspace)
        self._progress.end()
        self._progress.say(
            f"{_name(claim)}: this process gave no sign of life for {GRACE_S} s, and the trial was given to another. "
            "Its result does not count; its stages are there for the other"
        )


INTERRUPTED = "the run was interrupted"


def _name(claim: Claim) -> str:
    return f"trial {claim.trial.number}"
