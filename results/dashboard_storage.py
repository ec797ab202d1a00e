"""A study as optuna-dashboard shows it: with notes, pictures, feasibility and our front.

optuna-dashboard reads all of these from a study's storage. Here they are made up when it reads, so that a study which
runs is shown as it is at that moment, and nothing is written to its storage but notes that a user edits.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, TypeAlias

import optuna
from optuna.artifacts import ArtifactMeta
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from prunetune.results.dashboard_artifacts import Pictures
from prunetune.results.findings import Findings
from prunetune.results.notes import study_note, trial_note
from prunetune.results.record import StudyRecord
from prunetune.spaces.errors import MissingExtraError

REFRESH_S = 2.0
"""A study is read again at most so often."""

AT_EASE = 4.0
"""And reading it takes at most the fifth part of the time."""

CARD = 450
"""The height of a figure on the dashboard in px."""

LONG = 300
"""A longer attribute is no reading, and left out: channels, stages. Notes and pictures say what it holds."""

NOTE = re.compile(r"dashboard:(?:(\d+):)?note_(?:ver|str:\d+)")
"""What optuna-dashboard calls the attributes of its notes, a trial's with its id: the only ones that it may write."""


def trials_page(study_id: int, number: int) -> str:
    """The address of a trial's page on the dashboard."""
    return f"/dashboard/studies/{study_id}/trials?numbers={number}"


_Page: TypeAlias = tuple[FrozenTrial, dict[str, Any]]


class ReadOnlyError(Exception):
    """The dashboard was asked to change a study."""


class DashboardStorage(BaseStorage):
    """One study of a storage, with what the dashboard shows of it beside what is stored.

    Args:
        study: The study.
        folder: Its folder, where the records of its trainings are.

    Raises:
        MissingExtraError: optuna-dashboard is not installed.
    """

    def __init__(self, study: optuna.Study, folder: Path) -> None:
        try:
            import optuna_dashboard
        except ImportError as error:
            raise MissingExtraError("optuna-dashboard", "dashboard") from error
        self._save_note: Callable[[Any, str], None] = optuna_dashboard.save_note
        self._save_figure: Callable[..., Any] = optuna_dashboard.save_plotly_graph_object
        self._stored, self._name, self.study_id = study._storage, study.study_name, study._study_id
        self.pictures = Pictures(folder)
        self._lock = threading.Lock()
        self._due_at = float("-inf")
        self._state: tuple[list[Any], dict[str, Any]] | None = None
        self._ended: dict[tuple[int, tuple[str, ...]], _Page] = {}
        self._trials: list[FrozenTrial] = []
        self._shown: dict[str, Any] = {}

    # What is shown

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What is stored, and our notes and figures. A note that a user has edited stays his."""
        self._require(study_id)
        stored = self._stored.get_study_system_attrs(study_id)
        edited = {_note_of(key) for key in stored} - {None}
        with self._lock:
            self._refresh()
            return {key: value for key, value in self._shown.items() if _note_of(key) not in edited} | stored

    def get_all_studies(self) -> list[FrozenStudy]:
        """The one study."""
        found = next(item for item in self._stored.get_all_studies() if item._study_id == self.study_id)
        return [
            FrozenStudy(
                found.study_name,
                None,
                self.get_study_user_attrs(self.study_id),
                self.get_study_system_attrs(self.study_id),
                self.study_id,
                directions=found.directions,
            )
        ]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials, with their violations and pictures as the dashboard knows them."""
        self._require(study_id)
        with self._lock:
            self._refresh()
            trials = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _refresh(self) -> None:
        """Reads the study again, if that is due, and makes up what is shown if anything in it has changed."""
        begun = time.monotonic()
        if begun < self._due_at:
            return
        trials = self._stored.get_all_trials(self.study_id, deepcopy=False)
        attributes = self._stored.get_study_user_attrs(self.study_id)
        state = [(trial.state, len(trial.user_attrs)) for trial in trials], attributes
        if state != self._state:
            if self._state is None or attributes != self._state[1]:
                self._ended.clear()
            found = Findings(self._name, tuple(trials), StudyRecord.parse(self._name, attributes))
            pages = [self._page(found, trial) for trial in trials]
            self._shown = self._study_attributes(found) | {key: text for _, note in pages for key, text in note.items()}
            self._trials = [shown for shown, _ in pages]
            self.pictures.found, self._state = found, state
        took = time.monotonic() - begun
        self._due_at = begun + took + max(REFRESH_S, AT_EASE * took)

    def _page(self, found: Findings, trial: FrozenTrial) -> _Page:
        """A trial as it is shown, and its note. Those of an ended one change with the front or attributes."""
        key = (trial._trial_id, tuple(network.name for network in found.front if network.trial == trial.number))
        if (known := self._ended.get(key)) is not None:
            return known
        note = self._note(trial._trial_id, trial_note(found, trial, partial(trials_page, self.study_id)))
        page = self._decorated(found, trial), note
        if trial.state.is_finished():
            self._ended[key] = page
        return page

    def _study_attributes(self, found: Findings) -> dict[str, Any]:
        from prunetune.results.figures import front_figure

        memory = optuna.create_study(storage=InMemoryStorage())
        self._save_note(memory, study_note(found, partial(trials_page, self.study_id)))
        figure = front_figure(found).update_layout(height=CARD, legend={"y": -0.22, "font": {"size": 10}})
        self._save_figure(memory, figure, graph_object_id="front")
        attributes = dict(memory._storage.get_study_system_attrs(memory._study_id))
        return attributes | _artifacts(self.pictures.of_study(found))

    def _note(self, trial_id: int, body: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        recorder = SimpleNamespace(
            get_study_system_attrs=lambda _: attributes,
            set_study_system_attr=lambda _, key, value: attributes.__setitem__(key, value),
        )
        self._save_note(
            SimpleNamespace(storage=recorder, study=SimpleNamespace(_study_id=self.study_id), _trial_id=trial_id), body
        )
        return attributes

    def _decorated(self, found: Findings, trial: FrozenTrial) -> FrozenTrial:
        networks = found.networks_of(trial.number)
        violations = list(trial.constraints.values())
        if any(network.result.is_candidate for network in networks):  # samplers may see such a trial as unfinished
            violations = [min(value, 0.0) for value in violations]
        excess: dict[str, float] = {}
        if networks and all(found.misses_budget(network) for network in networks):
            excess = found.excess(networks[-1])
        shown = copy.copy(trial)
        attributes = dict(trial._system_attrs) | _artifacts(self.pictures.of_trial(found, trial))
        if violations or excess:  # optuna-dashboard knows the older form only
            attributes["constraints"] = [*violations, *excess.values()]
        shown._system_attrs, shown.user_attrs = attributes, _readable(trial.user_attrs)
        return shown

    # What is passed on

    def get_study_id_from_name(self, study_name: str) -> int:
        """The study's id."""
        return self._require(self._stored.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """The study's name."""
        return self._stored.get_study_name_from_id(self._require(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The directions of its objectives."""
        return self._stored.get_study_directions(self._require(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """What prunetune stores with it, as far as it can be read."""
        return _readable(self._stored.get_study_user_attrs(self._require(study_id)))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best member of the front; where there is none, of all trials."""
        trials = self.get_all_trials(study_id, deepcopy=False)
        best = None if self.pictures.found is None else self.pictures.found.best
        return super().get_best_trial(study_id) if best is None else next(t for t in trials if t.number == best.trial)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial as it is shown."""
        for trial in self.get_all_trials(self.study_id, deepcopy=False):
            if trial._trial_id == trial_id:
                return trial
        raise KeyError(f"no trial has the id {trial_id}")

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Stores a part of a note."""
        if _note_of(key) is None:
            self._refuse()
        self._stored.set_study_system_attr(self._require(study_id), key, value)

    def _require(self, study_id: int) -> int:
        if study_id != self.study_id:
            raise KeyError(f"no study has the id {study_id}")
        return study_id

    # What a dashboard must not do

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnlyError("prunetune's dashboard changes nothing but notes")

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Refused."""
        self._refuse()

    def delete_study(self, study_id: int) -> None:
        """Refused."""
        self._refuse()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Refused."""
        self._refuse()

    def set_trial_param(self, *_: object, **__: object) -> None:
        """Refused."""
        self._refuse()

    def set_trial_state_values(self, *_: object, **__: object) -> bool:
        """Refused."""
        self._refuse()

    def set_trial_intermediate_value(self, *_: object, **__: object) -> None:
        """Refused."""
        self._refuse()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Refused."""
        self._refuse()


def _note_of(key: str) -> str | None:
    """Whose note an attribute belongs to: a trial's id, an empty text for the study's; None for other attributes."""
    found = NOTE.fullmatch(key)
    return None if found is None else found[1] or ""


def _readable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if len(json.dumps(value)) <= LONG}


def _artifacts(files: Sequence[ArtifactMeta]) -> dict[str, str]:
    """Files as Optuna's attributes name them."""
    return {f"artifacts:{file.artifact_id}": json.dumps(asdict(file)) for file in files}
