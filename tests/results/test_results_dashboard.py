"""What optuna-dashboard is shown of a study, and what it may do to one."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from PIL import Image

from prunetune.results import dashboard_storage
from prunetune.results.dashboard_app import dashboard_app
from prunetune.results.dashboard_storage import DashboardStorage, ReadOnlyError
from prunetune.results.record import RungDecision
from prunetune.spaces import MissingExtraError

pytest.importorskip("optuna_dashboard")

RUNG = RungDecision(1, 2, (0.3, 0.8), 0, 3, goes_on=True)


class Client:
    """Asks a dashboard as a page does."""

    def __init__(self, study: optuna.Study, folder: Path, host: str = "127.0.0.1:8080", is_local: bool = True) -> None:
        self._app, self._host, self.study = dashboard_app(study, folder, is_local), host, study

    def ask(self, path: str, method: str = "GET", body: Any = None, query: str = "") -> tuple[int, bytes]:
        sent = b"" if body is None else json.dumps(body).encode()
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_HOST": self._host,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(sent)),
            "wsgi.input": io.BytesIO(sent),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8080",
        }
        status: list[str] = []
        answer = b"".join(self._app(environ, lambda text, *_: status.append(text)))
        return int(status[0].split()[0]), answer

    @property
    def page(self) -> str:
        return f"/api/studies/{self.study._study_id}"

    def detail(self, query: str = "") -> dict[str, Any]:
        code, body = self.ask(self.page, query=query)
        assert code == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def file(self, artifact: dict[str, Any], trial: int | None = None) -> bytes:
        where = f"{self.study._study_id}" + ("" if trial is None else f"/{self.study.trials[trial]._trial_id}")
        code, body = self.ask(f"/artifacts/{where}/{artifact['artifact_id']}")
        assert code == 200, body
        return body


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study is read at every request."""
    monkeypatch.setattr(dashboard_storage, "REFRESH_S", 0.0)
    monkeypatch.setattr(dashboard_storage, "AT_EASE", 0.0)
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda **_: timedelta())  # it keeps trials for 2 s


@pytest.fixture
def build(make_builder: Callable[..., Any], tmp_path: Path) -> Any:
    """A stored study with one trial of each kind."""
    made = make_builder(storage=f"sqlite:///{tmp_path / 'study.db'}")
    made.context()
    made.trial(0.8, 0.9, decisions=(RUNG,))
    made.trial(0.7, 0.7)
    made.trial(0.95, 1.4, outcome="OVER_BUDGET", violation=0.4)
    made.trial(0.7, 0.7, duplicate_of=1, channels={"model.0.conv": 9})
    made.trial(None, None, outcome="DIVERGED", state=TrialState.FAIL, reason="<b>no</b>")
    return made


@pytest.fixture
def client(build: Any, tmp_path: Path, fresh: None) -> Client:
    return Client(build.study, tmp_path)


def test_the_study_s_note_has_the_verdict_the_table_and_links(client: Client) -> None:
    note = client.detail()["note"]["body"]
    assert "The most accurate network within the budget is trial 0: mAP50-95 0.800" in note
    assert "| half-width |" in note
    assert "| trial 0 |" in note
    assert f"[trial 0](/dashboard/studies/{client.study._study_id}/trials?numbers=0)" in note


def test_a_trial_s_note_has_recipe_figures_budget_and_the_trial_that_it_equals(client: Client) -> None:
    notes = [trial["note"]["body"] for trial in client.detail()["trials"]]
    assert notes[0].startswith("**ok**, on the front")
    assert "Recipe: pull 0.3" in notes[0]
    assert "within the budget, 10.0 % below 0.900 ms" not in notes[0]
    assert "within the budget, 10.0 % below 1.00 ms" in notes[0]
    assert "goes on at mAP50-95 0.300: after 2 epochs of recovery among the best: 0 of 3 are ahead" in notes[0]
    assert "over the budget, 40.0 % above 1.00 ms" in notes[2]
    assert f"duplicate of [trial 1](/dashboard/studies/{client.study._study_id}/trials?numbers=1)" in notes[3]
    assert notes[4].startswith("**diverged**")
    assert "<b>" not in notes[4]


def test_feasibility_is_told_in_the_form_that_the_dashboard_knows(client: Client) -> None:
    trials = client.detail()["trials"]
    assert [max(trial["constraints"]) <= 0 for trial in trials[:4]] == [True, True, False, True]


def test_its_best_trials_are_our_front(client: Client) -> None:
    found = client.detail()
    assert [trial["number"] for trial in found["best_trials"]] == [1, 0], "trial 2 is over the budget"
    later = client.detail(query="after=5")
    assert later["trials"] == []
    assert [trial["number"] for trial in later["best_trials"]] == [1, 0]


def test_a_trial_with_a_round_on_the_front_is_a_best_trial_too(client: Client, build: Any) -> None:
    # For samplers the constraint of a recipe that ended before its last round may be violated.
    build.trial(0.3, 1.2, outcome="OVER_BUDGET", violation=0.2, rounds=[build.network(0.85, 0.6)])
    found = client.detail()
    assert [trial["number"] for trial in found["best_trials"]] == [5]
    shown = found["trials"][5]
    assert max(shown["constraints"]) <= 0
    note = shown["note"]["body"]
    assert note.startswith("**over budget**, round 1 on the front")
    assert "| trial 5, round 1 | 0.850 |" in note
    assert "| trial 5 | 0.300 |" in note
    assert f"[trial 5, round 1](/dashboard/studies/{client.study._study_id}/trials?numbers=5)" in found["note"]["body"]


def test_each_round_has_a_picture_of_its_channels(client: Client, build: Any) -> None:
    number = build.trial(0.3, 0.5, rounds=[build.network(0.85, 0.6, channels={"model.0.conv": 12})])
    drawn = {item["filename"]: item for item in client.detail()["trials"][number]["artifacts"]}
    assert set(drawn) == {"channels.png", "channels-round-1.png"}
    pictures = [client.file(item, trial=number) for item in drawn.values()]
    assert pictures[0] != pictures[1]


def test_a_page_that_was_opened_before_the_server_started_has_them_too(build: Any, tmp_path: Path) -> None:
    later = Client(build.study, tmp_path).detail(query="after=5")
    assert [trial["number"] for trial in later["best_trials"]] == [1, 0]


def test_with_one_objective_the_best_trial_keeps_the_budget(make_builder: Callable[..., Any], tmp_path: Path) -> None:
    made = make_builder(latencies=0)
    made.context()
    made.trial(0.8, 0.9)
    made.trial(0.95, 1.4, outcome="OVER_BUDGET", violation=0.4)
    assert [trial["number"] for trial in Client(made.study, tmp_path).detail()["best_trials"]] == [0]


def test_our_front_is_a_figure_of_the_study(client: Client) -> None:
    (figure,) = client.detail()["plotly_graph_objects"]
    assert figure["id"] == "front"
    assert {"front", "controls"} <= {trace.get("name") for trace in json.loads(figure["graph_object"])["data"]}


def test_study_and_trials_have_files(client: Client) -> None:
    found = client.detail()
    files = {item["filename"]: item for item in found["artifacts"]}
    assert set(files) == {"front.png", "table.csv", "table.md"}
    assert Image.open(io.BytesIO(client.file(files["front.png"]))).format == "PNG"
    rows = list(csv.DictReader(io.StringIO(client.file(files["table.csv"]).decode())))
    assert len(rows) == 4
    drawn = {item["filename"]: item for item in found["trials"][0]["artifacts"]}
    assert set(drawn) == {"recovery.png", "channels.png"}
    for item in drawn.values():
        assert item["mimetype"] == "image/png"
        assert Image.open(io.BytesIO(client.file(item, trial=0))).width > 500
    assert found["trials"][4]["artifacts"] == [], "nothing can be drawn of a failure"


def test_gammas_and_curves_are_drawn_from_the_study_s_folder(client: Client, build: Any, tmp_path: Path) -> None:
    histogram = {"edges": [0.0, 0.5, 1.0], "counts": {"backbone": [3, 5], "head": [6, 2]}}
    told = [{"round": number, "epoch": epoch, "histogram": histogram} for number in (1, 2) for epoch in range(1, 9)]
    (tmp_path / "gammas.json").write_text(json.dumps(told))
    (tmp_path / "curves.json").write_text(json.dumps([{"round": 1, "map50_95": [0.1, 0.3, 0.4]}]))
    number = build.trial(0.6, 0.5, gammas="gammas.json", curves="curves.json")
    drawn = {item["filename"]: item for item in client.detail()["trials"][number]["artifacts"]}
    assert set(drawn) == {"recovery.png", "channels.png", "gammas.png"}
    pictures = {name: Image.open(io.BytesIO(client.file(item, trial=number))) for name, item in drawn.items()}
    assert pictures["gammas.png"].height > pictures["recovery.png"].height, "a row for each round"
    build.trial(0.6, 0.5, gammas="lost.json", curves="lost.json")
    for item in client.detail()["trials"][-1]["artifacts"]:
        assert client.file(item, trial=number + 1).startswith(b"\x89PNG"), "an empty picture, and no error"


def test_trials_appear_while_the_study_runs(client: Client, build: Any) -> None:
    assert len(client.detail()["trials"]) == 5
    files = {item["filename"]: item["artifact_id"] for item in client.detail()["artifacts"]}
    trial = build.study.ask()
    running = client.detail()["trials"][5]
    assert (running["state"], running["artifacts"]) == ("Running", [])
    assert f"Running: [trial {trial.number}]" in client.detail()["note"]["body"]
    number = build.trial(0.9, 0.95)
    found = client.detail()
    assert found["trials"][number]["note"]["body"].startswith("**ok**, on the front")
    assert [item["number"] for item in found["best_trials"]] == [1, 0, number]
    assert {item["filename"]: item["artifact_id"] for item in found["artifacts"]} != files, "a browser draws it anew"


def test_looking_writes_nothing(client: Client, build: Any, tmp_path: Path) -> None:
    before = build.study._storage.get_study_system_attrs(build.study._study_id)
    client.detail()
    for item in client.detail()["artifacts"]:
        client.file(item)
    assert build.study._storage.get_study_system_attrs(build.study._study_id) == before
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_a_note_that_was_edited_is_kept(client: Client, build: Any, tmp_path: Path) -> None:
    trial = build.study.trials[1]
    note = client.detail()["trials"][1]["note"]
    edit = {"version": note["version"] + 1, "body": "the one to ship"}
    assert client.ask(f"{client.page}/{trial._trial_id}/note", "PUT", edit)[0] == 204
    assert client.ask(f"{client.page}/note", "PUT", {"version": 2, "body": "mine"})[0] == 204
    for reader in (client, Client(build.study, tmp_path)):
        found = reader.detail()
        assert found["note"]["body"] == "mine"
        assert found["trials"][1]["note"]["body"] == "the one to ship"
        assert found["trials"][0]["note"]["body"].startswith("**ok**")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/{study}", {}),
        ("POST", "/api/studies", {"study_name": "other", "directions": ["minimize"]}),
        ("POST", "/api/studies/{study}/rename", {"study_name": "other"}),
        ("POST", "/api/trials/1/tell", {"state": "Fail"}),
        ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"outcome": "OK"}}),
        ("DELETE", "/api/artifacts/{study}/0a", {}),
        ("POST", "/api/artifacts/{study}", {"file": "data:,x"}),
    ],
)
def test_nothing_else_can_be_changed(client: Client, method: str, path: str, body: Any) -> None:
    code, answer = client.ask(path.format(study=client.study._study_id), method, body)
    assert code == 403
    assert "changes nothing but notes" in json.loads(answer)["reason"]
    assert len(client.detail()["trials"]) == 5


def test_the_storage_itself_refuses(build: Any, tmp_path: Path) -> None:
    shown = DashboardStorage(build.study, tmp_path)
    for act in (
        lambda: shown.delete_study(shown.study_id),
        lambda: shown.create_new_trial(shown.study_id),
        lambda: shown.set_study_system_attr(shown.study_id, "dashboard:plot_data:x:0", "{}"),
        lambda: shown.set_trial_user_attr(1, "outcome", "OK"),
    ):
        with pytest.raises(ReadOnlyError):
            act()


def test_other_studies_of_the_storage_are_not_shown(build: Any, client: Client, tmp_path: Path) -> None:
    other = optuna.create_study(storage=build.study._storage, study_name="secret")
    told = json.loads(client.ask("/api/studies")[1])["study_summaries"]
    assert [item["study_name"] for item in told] == [build.study.study_name]
    assert client.ask(f"/api/studies/{other._study_id}")[0] == 404


def test_a_page_from_elsewhere_cannot_have_its_name_lead_here(build: Any, tmp_path: Path) -> None:
    for host, code in (("evil.example:8080", 403), ("localhost:8080", 200), ("[::1]:8080", 200), ("", 403)):
        assert Client(build.study, tmp_path, host).ask("/api/meta")[0] == code, host
    assert Client(build.study, tmp_path, "box.example", is_local=False).ask("/api/meta")[0] == 200


def test_names_are_no_markup(make_builder: Callable[..., Any], tmp_path: Path) -> None:
    made = make_builder("<img src=x> | 条码 $x$")
    made.context()
    made.trial(0.8, 0.9, reason="a | b <script>")
    found = Client(made.study, tmp_path).detail()
    assert "<script>" not in found["trials"][0]["note"]["body"]
    assert "<img" not in found["note"]["body"]


def test_an_empty_study_says_so(make_builder: Callable[..., Any], tmp_path: Path) -> None:
    found = Client(make_builder().study, tmp_path).detail()
    assert "No trial has started yet." in found["note"]["body"]
    assert found["best_trials"] == []


def test_without_optuna_dashboard_its_extra_is_named(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'prunetune\[dashboard\]'"):
        dashboard_app(build.study, tmp_path)
