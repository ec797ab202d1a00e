"""A study in a data base, as one process of many sees it.

Trials that ended are read once, and of those that run only what can still change. `alone` and `together` make several
changes one, which is done again when the data base was away in its middle.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import FrozenTrial, Trial, TrialState

from prunetune.results.address import parse_address
from prunetune.results.storage import address_errors, with_tables
from prunetune.search.database import SharedStorage
from prunetune.search.history import History
from prunetune.search.patience import Patience
from prunetune.spaces import drafts

SIGNED = "recipe"
"""The attribute of a running trial whose parameters are all there."""

INTERVAL_S = int(drafts.INTERVAL_S)
GRACE_S = int(drafts.LEASE_S)
"""A trial whose worker gave no sign of life for so long is given to another."""

ALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A host that vanished is noticed within half a minute: PostgreSQL's client would wait for it much longer."""

Result = TypeVar("Result")
Memory = TypeVar("Memory")


class StudyCache(_CachedStorage):
    """What this process has read. Trials that ended are read once, and of those that run only what can change."""

    def __init__(self, backend: SharedStorage) -> None:
        super().__init__(backend)
        self.database = backend
        self._raw: dict[int, dict[str, str]] = {}
        self._is_fresh = False
        self._told: dict[int, FrozenTrial] = {}
        self._memories: dict[tuple[int, type], Any] = {}

    def memory(self, study_id: int, kind: type[Memory]) -> Memory:
        """What this process has made of a study's trials, one of each kind. It begins as `kind()`."""
        found: Memory = self._memories.setdefault((study_id, kind), kind())
        return found

    def forget_all(self) -> None:
        """Reads everything anew: what was read within a transaction that failed never came to be."""
        with self._lock:
            self._studies.clear()
            self._trial_id_to_study_id_and_number.clear()
            self._study_id_and_number_to_trial_id.clear()
            self._raw.clear()
            self._memories.clear()
            self._is_fresh = False

    @contextmanager
    def transaction(self, *, study_id: int | None = None, trial_id: int | None = None) -> Iterator[None]:
        """As `SharedStorage.transaction`. Within it, what others do is read once."""
        if self.database.in_transaction:
            yield
            return
        self._is_fresh = False
        try:
            with self.database.transaction(study_id=study_id, trial_id=trial_id):
                yield
        except BaseException:
            self.forget_all()
            raise
        finally:
            self._is_fresh = False
            self._told.clear()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Optuna's."""
        trial_id = super().create_new_trial(study_id, template_trial)
        with self._lock:
            self._studies[study_id].unfinished_trial_ids.add(trial_id)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Optuna's."""
        if trial_id in self._trial_id_to_study_id_and_number:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        else:
            self.database.set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Optuna's."""
        self._is_fresh = False
        done = super().set_trial_state_values(trial_id, state, values)
        if done and self.database.in_transaction and trial_id in self._trial_id_to_study_id_and_number:
            study_id, number = self._trial_id_to_study_id_and_number[trial_id]
            told = copy.deepcopy(self._studies[study_id].trials[number])
            told.state = state
            if values is not None:
                told.values = list(values)
            self._told[trial_id] = told
        return done

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial. Within a transaction that holds it, its state is what it is now, and the rest as it was read."""
        if trial_id in self._told:
            return self._told[trial_id]
        if self.database.holds(trial_id) and trial_id in self._trial_id_to_study_id_and_number:
            study_id, number = self._trial_id_to_study_id_and_number[trial_id]
            trial = copy.deepcopy(self._studies[study_id].trials[number])
            trial.state = TrialState.RUNNING
            return trial
        return super().get_trial(trial_id)

    def set_trial_user_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """As `SharedStorage.set_trial_user_attrs`."""
        self.database.set_trial_user_attrs(trial_id, values)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """A study's trials by number."""
        with self._lock:
            study = self._studies.setdefault(study_id, _StudyInfo())
            if not (self._is_fresh and self.database.in_transaction):
                self._read_on(study_id, study)
            trials = study.trials
            if states is None:
                found = list(trials.values())
            elif not any(state in states for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED)):
                numbers = sorted(self._trial_id_to_study_id_and_number[item][1] for item in study.unfinished_trial_ids)
                found = [trials[number] for number in numbers if trials[number].state in states]
            else:
                found = [trial for trial in trials.values() if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _read_on(self, study_id: int, study: _StudyInfo) -> None:
        unfinished, last = study.unfinished_trial_ids, study.last_finished_trial_id
        read, raw = self.database.news(study_id, unfinished, last, self._raw)
        highest = next(reversed(study.trials), -1)
        self._add_trials_to_cache(study_id, read)
        for trial in read:
            if trial.state.is_finished():
                unfinished.discard(trial._trial_id)
                self._raw.pop(trial._trial_id, None)
                study.last_finished_trial_id = max(study.last_finished_trial_id, trial._trial_id)
                continue
            unfinished.add(trial._trial_id)
            if trial.state == TrialState.RUNNING and SIGNED in trial.user_attrs:
                # What is not known yet differs from whatever will be read, which costs one more reading.
                self._raw[trial._trial_id] = raw.get(trial._trial_id, {})
        if any(trial.number < highest for trial in read):
            numbers = list(study.trials)
            if any(first > second for first, second in pairwise(numbers)):
                study.trials = dict(sorted(study.trials.items()))
        self._is_fresh = self.database.in_transaction


def cache_of(study: optuna.Study) -> StudyCache | None:
    """The storage of a study in a data base; None for one in memory."""
    return study._storage if isinstance(study._storage, StudyCache) else None


def memory(study: optuna.Study, kind: type[Memory]) -> Memory:
    """What this process has made of a study's trials; see `StudyCache.memory`. Of a study in memory it is empty."""
    storage = cache_of(study)
    return kind() if storage is None else storage.memory(study._study_id, kind)


def history(study: optuna.Study) -> History:
    """What follows from a study's trials; it has to be told of them."""
    return memory(study, History)


def alone(study: optuna.Study) -> AbstractContextManager[None]:
    """A block that processes enter one after the other, and whose changes to the study are made all or none."""
    storage = cache_of(study)
    return nullcontext() if storage is None else storage.transaction(study_id=study._study_id)


def together(study: optuna.Study, trial: Trial) -> AbstractContextManager[None]:
    """A block whose changes to a trial are made all or none, and while nobody else changes it."""
    storage = cache_of(study)
    return nullcontext() if storage is None else storage.transaction(trial_id=trial._trial_id)


def is_running(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial runs. Within `alone` it goes on to do so until the block ends, whatever its worker does."""
    storage = cache_of(study)
    if storage is None:
        return study._storage.get_trial(trial._trial_id).state == TrialState.RUNNING
    database = storage.database
    act = database.hold if database.in_transaction else database.state_of
    return act(trial._trial_id) == TrialState.RUNNING


def patiently_store(study: optuna.Study, act: Callable[[], Result]) -> Result:
    """Does something with a study, and again if the connection was lost in its middle."""
    storage = cache_of(study)
    return act() if storage is None else storage.database.patience.retry(act)


def set_attributes(trial: Trial, values: Mapping[str, Any]) -> None:
    """Stores several attributes with a trial."""
    storage = cache_of(trial.study)
    if storage is None:
        for key, value in values.items():
            trial.set_user_attr(key, value)
    else:
        storage.set_trial_user_attrs(trial._trial_id, values)
        trial._cached_frozen_trial.user_attrs.update(values)


def open_storage(url: str) -> StudyCache:
    """Opens a data base, and makes Optuna's tables where there are none.

    Raises:
        ConfigError: The address names nothing that can be used.
        MissingExtraError: The data base's client is not installed.
    """
    with address_errors(url):
        driver = parse_address(url).drivername
        options: dict[str, Any] = {"connect_args": {"timeout": 60}}
        if not driver.startswith("sqlite"):
            options = {"pool_size": 1, "max_overflow": 4}  # a server has not too many connections
        if driver in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
            options["connect_args"] = dict(ALIVE)
        lease = {"heartbeat_interval": INTERVAL_S, "grace_period": GRACE_S}
        return StudyCache(with_tables(partial(SharedStorage, url, options, Patience(url), **lease)))
