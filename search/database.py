"""Optuna's storage in a data base, for many processes: few statements, changes in one transaction, patience.

Optuna reads a trial with its ORM and writes each of its attributes in a transaction. With dozens of processes that is
what they do all day. Here rows are read as they are, and what belongs together is written together. The tables are
Optuna's, so whatever reads its studies reads these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialValueModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

from prunetune.search import rows
from prunetune.search.patience import Patience
from prunetune.search.sessions import Sessions

FROZEN_S = 60
"""A transaction whose process does nothing for so long is ended by the data base: others wait for it."""


class SharedStorage(RDBStorage):
    """The data base.

    Args:
        url: Where it is.
        engine_kwargs: For SQLAlchemy.
        patience: How long a lost connection is waited for; not the first one.
        options: `RDBStorage`'s.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any], patience: Patience, **options: Any) -> None:
        super().__init__(url, engine_kwargs, **options)
        self.patience = patience
        self._sessions = Sessions(self.scoped_session)
        self.scoped_session: Any = self._sessions
        if self.engine.dialect.name != "sqlite":
            sqlalchemy.event.listen(self.engine, "do_connect", patience.connect)
        if self.engine.dialect.name == "postgresql":
            sqlalchemy.event.listen(self.engine, "connect", _prepare)
            self.engine.dispose()

    @property
    def in_transaction(self) -> bool:
        """Whether this thread is within the block of `transaction`."""
        return self._sessions.joined is not None

    @contextmanager
    def transaction(self, *, study_id: int | None = None, trial_id: int | None = None) -> Iterator[None]:
        """Whatever is done within its block is done in one transaction, all or nothing.

        Args:
            study_id: Other processes that name this study wait until the block ends.
            trial_id: Nobody else changes this trial until the block ends.
        """
        session = self._sessions.begin()
        try:
            if self.engine.dialect.name == "sqlite":  # which locks nothing by a row
                session.connection().exec_driver_sql("BEGIN IMMEDIATE")
            if study_id is not None:
                session.execute(rows.STUDY_LOCKED, {"study": study_id})
            if trial_id is not None:
                self.hold(trial_id)
            yield
            self._write(session)
            self._sessions.commit()
        except sqlalchemy.exc.SQLAlchemyError as error:
            session.rollback()
            raise optuna.exceptions.StorageInternalError("the transaction failed") from error
        except BaseException:
            session.rollback()
            raise
        finally:
            self._sessions.end()

    def hold(self, trial_id: int) -> TrialState:
        """Within a transaction: nobody else changes a trial until it ends. Returns the trial's state."""
        assert self._sessions.joined is not None
        state: TrialState = self._sessions.joined.execute(rows.TRIAL_LOCKED, {"trial": trial_id}).scalar_one()
        self._sessions.joined.states[trial_id] = state
        return state

    def holds(self, trial_id: int) -> bool:
        """Whether this thread's transaction has a trial that runs, and nobody else can change it."""
        joined = self._sessions.joined
        return joined is not None and joined.states.get(trial_id) == TrialState.RUNNING

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as it is now."""
        with _create_scoped_session(self.scoped_session) as session:
            self._write(session)
            return rows.read_trials(session, session.execute(rows.TRIAL, {"trial": trial_id}).all())[0]

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """Optuna's own attributes of a trial."""
        with _create_scoped_session(self.scoped_session) as session:
            self._write(session)
            return {key: json.loads(text) for key, text in session.execute(rows.SYSTEM_ATTRIBUTES, {"trial": trial_id})}

    def state_of(self, trial_id: int) -> TrialState:
        """A trial's state."""
        joined = self._sessions.joined
        if joined is not None and trial_id in joined.states:
            state: TrialState = joined.states[trial_id]
            return state
        with _create_scoped_session(self.scoped_session) as session:
            state = session.execute(rows.TRIAL_STATE, {"trial": trial_id}).scalar_one()
        return state

    def news(
        self, study_id: int, known: Collection[int], newer_than: int, signed: Mapping[int, Mapping[str, str]]
    ) -> tuple[list[FrozenTrial], dict[int, dict[str, str]]]:
        """What happened to a study.

        Args:
            study_id: The study.
            known: Its trials that had not ended when they were read, by their numbers in the data base.
            newer_than: Trials with higher numbers are read as well.
            signed: Of those that run, their user attributes as they are stored. Only these can have changed.

        Returns:
            Trials that changed, and the stored user attributes of `signed` trials that still run.
        """
        with _create_scoped_session(self.scoped_session) as session:
            self._write(session)
            statements = rows.statements(session)
            values = {"study": study_id, "last": newer_than, "ids": [item for item in known if item <= newer_than]}
            found = rows.chunked(session, statements.news, values, "ids")
            running = [row[0] for row in found if row[2] == TrialState.RUNNING and row[0] in signed]
            raw: dict[int, dict[str, str]] = {trial_id: {} for trial_id in running}
            for trial_id, key, text in rows.chunked(session, statements.user_attributes, {"ids": running}, "ids"):
                raw[trial_id][key] = text
            changed = [row for row in found if row[0] not in raw or raw[row[0]] != signed[row[0]]]
            return rows.read_trials(session, changed), raw

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        found, _ = self.news(study_id, included_trial_ids, trial_id_greater_than, {})
        return [trial for trial in found if states is None or trial.state in states]

    # Signs of life

    def record_heartbeat(self, trial_id: int) -> None:
        """Stores a sign of life."""
        with _create_scoped_session(self.scoped_session) as session:
            rows.put(session, rows.HEARTBEATS, [{"trial_id": trial_id}])

    def last_signs(self, study_id: int) -> tuple[dict[int, datetime], datetime | None]:
        """When each running trial last gave a sign of life, and what time it is, by the data base's clock."""
        with _create_scoped_session(self.scoped_session) as session:
            found = session.execute(rows.LAST_SIGNS, {"study": study_id}).all()
        return {row[0]: row[1] for row in found}, found[0][2].replace(tzinfo=None) if found else None

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        assert self.grace_period is not None
        if self.patience.was_away_within(self.grace_period):
            return []  # nobody could give a sign of life, and not everybody has had the time for one
        signs, now = self.last_signs(study_id)
        grace = timedelta(seconds=self.grace_period)
        return [trial_id for trial_id, heard in signs.items() if now is not None and now - heard > grace]

    def clock(self) -> datetime:
        """What time it is, by a data base that has a clock."""
        with _create_scoped_session(self.scoped_session) as session:
            told: datetime = session.execute(rows.CLOCK).scalar_one()
            return told

    # Writing

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is not None or not self.in_transaction:
            return super()._create_new_trial(study_id, template_trial)
        assert self._sessions.joined is not None
        with _create_scoped_session(self.scoped_session) as session:
            trial_id, number = rows.insert_trial(session, study_id)
        self._sessions.joined.states[trial_id] = TrialState.RUNNING
        return FrozenTrial(number, TrialState.RUNNING, None, datetime.now(), None, {}, {}, {}, {}, {}, trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Optuna's."""
        takes = state == TrialState.RUNNING and values is None
        with _create_scoped_session(self.scoped_session) as session:
            self._write(session)
            changed = rows.take_waiting(session, trial_id) if takes else rows.end_trial(session, trial_id, state)
            if changed and values:
                stored = [TrialValueModel.value_to_stored_repr(value) for value in values]
                names = ("trial_id", "objective", "value", "value_type")
                found = [dict(zip(names, (trial_id, place, *told), strict=True)) for place, told in enumerate(stored)]
                rows.put(session, rows.VALUES, found)
        joined = self._sessions.joined
        if not changed:
            if joined is not None:
                joined.states.pop(trial_id, None)
            self.check_trial_is_updatable(trial_id, self.state_of(trial_id))
        elif joined is not None:
            joined.states[trial_id] = state
        return changed

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is None or not self.in_transaction:
            super()._set_trial_param(trial_id, param_name, param_value_internal, distribution, previous_distribution)
            return
        check_distribution_compatibility(previous_distribution, distribution)
        text = distribution_to_json(distribution)
        row = {"trial_id": trial_id, "param_name": param_name, "param_value": param_value_internal}
        self._put(rows.PARAMS, trial_id, [{**row, "distribution_json": text}])

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Optuna's."""
        self.set_trial_user_attrs(trial_id, {key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Optuna's."""
        self._put(rows.SYSTEM, trial_id, [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}])

    def set_trial_user_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """Stores several attributes of a trial.

        Raises:
            UpdateFinishedTrialError: The trial has ended.
        """
        found = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()]
        self._put(rows.USER, trial_id, found)

    def _put(self, table: Any, trial_id: int, found: list[dict[str, Any]]) -> None:
        """Writes rows of a trial, within a transaction with all others of its kind."""
        self.check_trial_is_updatable(trial_id, self.state_of(trial_id))
        if (joined := self._sessions.joined) is not None:
            joined.states.setdefault(trial_id, TrialState.RUNNING)
            joined.waiting.setdefault(table, []).extend(found)
        elif found:
            with _create_scoped_session(self.scoped_session) as session:
                rows.put(session, table, found)

    def _write(self, session: Any) -> None:
        """Writes the rows of the transaction that wait."""
        joined = self._sessions.joined
        if joined is None:
            return
        waiting, joined.waiting = joined.waiting, {}
        for table, found in waiting.items():
            last = {tuple(row[key] for key in rows.KEYS[table]): row for row in found}
            rows.put(session, table, list(last.values()))


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """A call that is done again when the connection was lost in its middle. Doing it twice must do no harm."""

    @wraps(method)
    def call(self: SharedStorage, *arguments: Any, **options: Any) -> Any:
        if not hasattr(self, "_sessions") or self.in_transaction:
            return method(self, *arguments, **options)  # whoever began the transaction begins it anew
        return self.patience.retry(partial(method, self, *arguments, **options))

    return call


for _name in (
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions", "get_all_studies", "get_trial"),
    *("get_study_user_attrs", "get_study_system_attrs", "get_trial_user_attrs", "get_trial_system_attrs", "state_of"),
    *("get_trial_id_from_study_id_trial_number", "news", "record_heartbeat", "last_signs", "clock"),
    *("set_study_user_attr", "set_study_system_attr", "set_trial_system_attr", "set_trial_user_attrs"),
):
    setattr(SharedStorage, _name, _patient(getattr(SharedStorage, _name)))


def _prepare(connection: Any, _: Any) -> None:
    # Heartbeats are stored without a time zone. One that clients choose, or that has summer time, would shift them by
    # hours.
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{FROZEN_S}s'")
    connection.commit()
