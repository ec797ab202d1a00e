"""Optuna's storage in a data base, for many processes: few queries, changes in one transaction, patience.

Optuna reads a trial with its ORM and writes each of its attributes in a transaction. With dozens of processes that is
what they do all day. Here rows are read as they are, and what belongs together is written together. The tables are
Optuna's, so whatever reads its studies reads these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta, timezone
from functools import cache, partial, wraps
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.dialects.postgresql
import sqlalchemy.dialects.sqlite
import sqlalchemy.event
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

from prunetune.search.patience import Patience
from prunetune.search.sessions import Sessions

CHUNK = 500
"""So many trials are read by one query."""

FROZEN_S = 60
"""A transaction whose process does nothing for so long is ended by the data base: others wait for it."""

_trials, _heartbeats = models.TrialModel.__table__, models.TrialHeartbeatModel.__table__


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
            for table, key in ((models.StudyModel, study_id), (models.TrialModel, trial_id)):
                if key is not None:
                    (column,) = sqlalchemy.inspect(table).primary_key
                    session.execute(sqlalchemy.select(column).where(column == key).with_for_update())
            yield
            self._sessions.commit()
        except sqlalchemy.exc.SQLAlchemyError as error:
            session.rollback()
            raise optuna.exceptions.StorageInternalError("the transaction failed") from error
        except BaseException:
            session.rollback()
            raise
        finally:
            self._sessions.end()

    # Reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as it is now."""
        for trial in self.read([trial_id]):
            return trial
        raise KeyError(models.NOT_FOUND_MSG)

    def state_of(self, trial_id: int) -> TrialState:
        """A trial's state."""
        with _create_scoped_session(self.scoped_session) as session:
            state: TrialState = session.execute(
                sqlalchemy.select(_trials.c.state).where(_trials.c.trial_id == trial_id)
            ).scalar_one()
            return state

    def states(self, study_id: int, known: Collection[int], newer_than: int) -> dict[int, TrialState]:
        """The states of some trials, and of all whose number in the data base is above another, in their order."""
        table, found = _trials, {}
        with _create_scoped_session(self.scoped_session) as session:
            rows = sqlalchemy.select(table.c.trial_id, table.c.state).where(table.c.study_id == study_id)
            query = rows.where(table.c.trial_id > newer_than)
            older = [trial_id for trial_id in known if trial_id <= newer_than]
            if older:
                query = rows.where((table.c.trial_id > newer_than) | table.c.trial_id.in_(older))
            found = {row[0]: row[1] for row in session.execute(query.order_by(table.c.trial_id))}
        return found

    def raw_attributes(self, trial_ids: Collection[int]) -> dict[int, dict[str, str]]:
        """The user attributes of trials, as they are stored."""
        table = models.TrialUserAttributeModel.__table__
        found: dict[int, dict[str, str]] = {trial_id: {} for trial_id in trial_ids}
        with _create_scoped_session(self.scoped_session) as session:
            for trial_id, key, text in self._rows(session, table, trial_ids, "key", "value_json"):
                found[trial_id][key] = text
        return found

    def read(self, trial_ids: Sequence[int]) -> list[FrozenTrial]:
        """Trials as they are now, by their number in the data base."""
        if not trial_ids:
            return []
        with _create_scoped_session(self.scoped_session) as session:
            rows = partial(self._rows, session)
            names = ("number", "state", "datetime_start", "datetime_complete")
            found = {row[0]: _Row(row) for row in sorted(rows(_trials, trial_ids, *names))}
            table = models.TrialParamModel.__table__
            for trial_id, _, name, value, text in sorted(
                rows(table, trial_ids, "param_id", "param_name", "param_value", "distribution_json")
            ):
                found[trial_id].distributions[name] = distribution = _distribution(text)
                found[trial_id].params[name] = distribution.to_external_repr(value)
            for trial_id, place, value, kind in rows(
                models.TrialValueModel.__table__, trial_ids, "objective", "value", "value_type"
            ):
                found[trial_id].values[place] = models.TrialValueModel.stored_repr_to_value(value, kind)
            table = models.TrialUserAttributeModel.__table__
            for trial_id, key, text in rows(table, trial_ids, "key", "value_json"):
                found[trial_id].user_attrs[key] = json.loads(text)
            table = models.TrialSystemAttributeModel.__table__
            for trial_id, key, text in rows(table, trial_ids, "key", "value_json"):
                found[trial_id].system_attrs[key] = json.loads(text)
            return [row.trial() for row in found.values()]

    def _rows(self, session: Any, table: Any, trial_ids: Collection[int], *names: str) -> Iterator[Any]:
        columns = [table.c[name] for name in ("trial_id", *names)]
        wanted = list(trial_ids)
        for begin in range(0, len(wanted), CHUNK):
            part = wanted[begin : begin + CHUNK]
            yield from session.execute(sqlalchemy.select(*columns).where(table.c.trial_id.in_(part)))

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        found = self.states(study_id, included_trial_ids, trial_id_greater_than)
        return self.read([trial_id for trial_id, state in found.items() if states is None or state in states])

    # Signs of life

    def record_heartbeat(self, trial_id: int) -> None:
        """Stores a sign of life."""
        with _create_scoped_session(self.scoped_session) as session:
            self._put(session, _heartbeats, [{"trial_id": trial_id, "heartbeat": sqlalchemy.func.now()}], ["trial_id"])

    def last_signs(self, study_id: int) -> tuple[dict[int, Any], Any]:
        """When each running trial last gave a sign of life, and what time it is, by the data base's clock."""
        query = sqlalchemy.select(_heartbeats.c.trial_id, _heartbeats.c.heartbeat, sqlalchemy.func.now())
        query = query.join(_trials, _trials.c.trial_id == _heartbeats.c.trial_id)
        query = query.where(_trials.c.study_id == study_id, _trials.c.state == TrialState.RUNNING)
        with _create_scoped_session(self.scoped_session) as session:
            rows = session.execute(query).all()
        return {row[0]: row[1] for row in rows}, rows[0][2].replace(tzinfo=None) if rows else None

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        assert self.grace_period is not None
        if self.patience.was_away_within(self.grace_period):
            return []  # nobody could give a sign of life, and not everybody has had the time for one
        signs, now = self.last_signs(study_id)
        grace = timedelta(seconds=self.grace_period)
        return [trial_id for trial_id, heard in signs.items() if now - heard > grace]

    # Writing

    def set_trial_user_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """Stores several attributes of a trial.

        Raises:
            UpdateFinishedTrialError: The trial has ended.
        """
        self._put_attributes(models.TrialUserAttributeModel.__table__, trial_id, values)

    def set_trial_system_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        """Stores several attributes of Optuna's own; raises as `set_trial_user_attrs` does."""
        self._put_attributes(models.TrialSystemAttributeModel.__table__, trial_id, values)

    def _put_attributes(self, table: Any, trial_id: int, values: Mapping[str, Any]) -> None:
        if not values:
            return
        rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()]
        with _create_scoped_session(self.scoped_session) as session:
            query = sqlalchemy.select(_trials.c.state).where(_trials.c.trial_id == trial_id)
            self.check_trial_is_updatable(trial_id, session.execute(query).scalar_one())
            self._put(session, table, rows, ["trial_id", "key"])

    def _put(self, session: Any, table: Any, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
        """Inserts rows, or replaces those with the same keys."""
        dialects: dict[str, Any] = {"postgresql": sqlalchemy.dialects.postgresql, "sqlite": sqlalchemy.dialects.sqlite}
        dialect = dialects.get(self.engine.dialect.name)
        if dialect is None:
            for row in rows:
                session.execute(sqlalchemy.delete(table).where(*(table.c[key] == row[key] for key in keys)))
            session.execute(sqlalchemy.insert(table).values(list(rows)))
            return
        insert = dialect.insert(table).values(list(rows))
        changed = {name: insert.excluded[name] for name in rows[0] if name not in keys}
        session.execute(insert.on_conflict_do_update(index_elements=list(keys), set_=changed))


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
    *("get_trial_id_from_study_id_trial_number", "states", "raw_attributes", "read", "record_heartbeat", "last_signs"),
    *("set_study_user_attr", "set_study_system_attr", "set_trial_user_attr", "set_trial_system_attr"),
    *("set_trial_user_attrs", "set_trial_system_attrs"),
):
    setattr(SharedStorage, _name, _patient(getattr(SharedStorage, _name)))


class _Row:
    """What is read of a trial, table by table."""

    def __init__(self, row: Sequence[Any]) -> None:
        self.trial_id, self.number, self.state, *self.times = row
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.values: dict[int, float] = {}
        self.user_attrs: dict[str, Any] = {}
        self.system_attrs: dict[str, Any] = {}

    def trial(self) -> FrozenTrial:
        # Optuna stores times in UTC and tells them in local time.
        begun, ended = (
            None if time is None else time.replace(tzinfo=timezone.utc).astimezone().replace(tzinfo=None)
            for time in self.times
        )
        return FrozenTrial(
            number=self.number,
            state=self.state,
            value=None,
            values=[self.values[place] for place in sorted(self.values)] or None,
            datetime_start=begun,
            datetime_complete=ended,
            params=self.params,
            distributions=self.distributions,
            user_attrs=self.user_attrs,
            system_attrs=self.system_attrs,
            intermediate_values={},
            trial_id=self.trial_id,
        )


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _prepare(connection: Any, _: Any) -> None:
    # Heartbeats are stored without a time zone. One that clients choose, or that has summer time, would shift them by
    # hours.
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{FROZEN_S}s'")
    connection.commit()
