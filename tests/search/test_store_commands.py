"""`prunetune store`: what is there and who needs it, what is freed and what never is, and what is damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunetune.pruning.stages import Stage
from prunetune.pruning.store import StageStore
from prunetune.results.record import TrialRecord
from prunetune.search.spec import StudySpec
from prunetune.search.store_commands import age_text, size_text
from prunetune.search.store_usage import register
from prunetune.search.study import open_study
from prunetune.spaces import Cost, StageUse

Prunetune = Callable[..., Any]
MakeSpec = Callable[..., StudySpec]

ODD = "naïve [bold]größe[-bold] 'x' $(y) %41 ?#&"


class Store:
    """A folder of studies with a store of small stages."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.root = runs, runs / ".store"
        self.plain = StageStore(self.root)

    def of(self, study: str) -> StageStore:
        """The store as a study uses it."""
        return StageStore(self.root, owner=study)

    def publish(self, store: StageStore, kind: str, parent: str = "", epochs: int = 0, size: int = 1000) -> str:
        """Publishes a stage of so many bytes, and returns its digest."""
        phase = {"schedule": "constant", "choose": "last"} if kind == "sparse" else None
        stage = Stage(kind, parent, {"setup": {}, "phase": phase, "epochs": epochs, "size": size})
        record = {"kind": kind, "parent": parent, "settings": dict(stage.settings), "epochs": epochs}
        store.publish(stage.digest, record, {"checkpoint.pt": lambda path: path.write_bytes(b"x" * size) and None})
        return stage.digest

    def chain(self, study: str, size: int = 1000) -> list[str]:
        """A dense network, its sparse phase, and what was cut of it, as the study's."""
        mine = self.of(study)
        original = self.publish(mine, "original", size=7)
        sparse = self.publish(mine, "sparse", original, epochs=3, size=size)
        return [original, sparse, self.publish(mine, "pruning", sparse)]

    def stages(self) -> set[str]:
        return {path.name for path in (self.root / "stages").iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture
def add_study(store: Store, make_spec: MakeSpec) -> Callable[..., StudySpec]:
    """Starts a study and registers it, as its first process does."""

    def add(name: str, **changes: Any) -> StudySpec:
        spec = make_spec(name=name, runs=str(store.runs), **changes)
        register(store.of(name), open_study(spec), spec)
        return spec

    return add


def as_json(answer: Any) -> Any:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


# ls


def test_ls_tells_what_is_there_and_who_needs_it(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec]
) -> None:
    add_study("one")
    add_study(ODD)
    shared, sparse, pruning = store.chain("one")
    _, other, _ = store.chain(ODD, size=2_500_000)
    store.of("one").save_progress("recovery-0", lambda path: path.write_bytes(b"x" * 10) and None)
    store.of("one").use("recovery-0")
    with store.of(ODD).claim("sparse-9", "sparse-8", shared):
        told = as_json(prunetune("store", "ls", "--runs", store.runs, "--json"))
    stages = {stage["name"]: stage for stage in told["stages"]}
    assert stages[shared]["needed_by"] == sorted(["one", ODD, next(iter(processes(stages[shared])))])
    assert stages[sparse]["needed_by"] == stages[pruning]["needed_by"] == ["one"]
    assert (stages[sparse]["kind"], stages[sparse]["epochs"], stages[sparse]["parent"]) == ("sparse", 3, shared)
    assert 1000 < stages[sparse]["bytes"] < 2000
    assert 0 <= stages[sparse]["age_s"] < 600
    assert [(item["name"], item["kind"], item["bytes"]) for item in told["others"]] == [
        ("recovery-0", "unfinished", 10)
    ]
    assert told["others"][0]["needed_by"] == ["one"]
    assert told["totals"]["sparse"]["count"] == 2
    assert told["totals"]["sparse"]["bytes"] == stages[sparse]["bytes"] + stages[other]["bytes"]
    assert [(claim["trunk"], claim["stage"], claim["pid"]) for claim in told["claims"]] == [
        ("sparse-9", "sparse-8", os.getpid())
    ]
    assert {study["name"]: study["state"] for study in told["studies"]} == {"one": "here", ODD: "here"}

    answer = prunetune("store", "ls", "--runs", store.runs)
    assert answer.code == 0
    assert "2.5 MB" in answer.out
    assert ODD in answer.out, "a name is shown as it is"
    assert "unfinished: 1, 10 B" in answer.out


def processes(stage: dict[str, Any]) -> list[str]:
    return [user for user in stage["needed_by"] if user.startswith("process ")]


def test_ls_says_what_is_also_a_file_of_a_study(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec]
) -> None:
    spec = add_study("one")
    _, _, pruning = store.chain("one")
    os.link(store.root / "stages" / pruning / "checkpoint.pt", spec.folder / "trial-0.pt")
    told = as_json(prunetune("store", "ls", "--runs", store.runs, "--json"))
    assert {stage["name"]: stage["linked_bytes"] for stage in told["stages"] if stage["linked_bytes"]} == {
        pruning: 1000
    }
    assert "1.0 kB are also files of studies" in prunetune("store", "ls", "--runs", store.runs).out


def test_a_name_that_no_terminal_can_show(prunetune: Prunetune, store: Store) -> None:
    (store.root / "stages" / "odd\n\udc80\x1b[31m").mkdir()
    answer = prunetune("store", "ls", "--runs", store.runs)
    assert answer.code == 0, answer.err
    assert r"odd\n\udc80\x1b[31m" in answer.out
    assert as_json(prunetune("store", "ls", "--runs", store.runs, "--json"))["stages"][0]["kind"] == "damaged"
    assert prunetune("store", "verify", "--runs", store.runs).code == 1
    assert "odd" in prunetune("store", "gc", "--runs", store.runs).out
    assert store.stages() == set()


@pytest.mark.parametrize("command", ["ls", "gc", "verify"])
def test_without_a_store(prunetune: Prunetune, tmp_path: Path, command: str) -> None:
    answer = prunetune("store", command, "--runs", tmp_path / "rnus")
    assert answer.code == 2
    assert (
        answer.err
        == f"error: {tmp_path / 'rnus' / '.store'}: no stage store; give the folder of studies with --runs FOLDER\n"
    )
    assert list(tmp_path.iterdir()) == []


# gc


def test_gc_frees_what_only_a_removed_study_used(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec]
) -> None:
    kept = store.chain("one")
    (_, sparse, pruning) = store.chain(ODD, size=5000)
    add_study("one")
    spec = add_study(ODD)
    gc = ("store", "gc", "--runs", store.runs)
    assert as_json(prunetune(*gc, "--json"))["freed"] == [], "both studies are there"
    store.of(ODD).save_progress(sparse, lambda path: path.write_bytes(b"x" * 10) and None)
    shutil.rmtree(spec.folder)
    before = store.stages()
    size = sum(file.stat().st_size for name in (sparse, pruning) for file in (store.root / "stages" / name).iterdir())

    told = as_json(prunetune(*gc, "--dry-run", "--json"))
    assert {item["name"] for item in told["freed"]} >= {sparse, pruning}
    assert (told["dry_run"], told["studies_gone"]) == (True, [ODD])
    assert store.stages() == before
    assert "would free" in prunetune(*gc, "--dry-run").out

    answer = prunetune(*gc)
    assert answer.code == 0
    assert f"freed {sparse} (sparse, 5." in answer.out
    assert ODD in answer.out
    assert store.stages() == set(kept)
    assert told["bytes"] == size + 10
    assert not (store.root / "studies" / ODD).exists()
    assert as_json(prunetune(*gc, "--json"))["freed"] == []


def test_gc_keeps_parents_lengths_of_a_trunk_and_progress(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec]
) -> None:
    add_study("one")
    foreign = store.of("gone")
    original = store.publish(foreign, "original")
    lengths = [store.publish(foreign, "sparse", original, epochs=epochs) for epochs in (1, 5)]
    pruning = store.publish(foreign, "pruning", lengths[0])
    other = store.publish(foreign, "sparse", "original-1", epochs=1)
    trunk = Stage(
        "sparse", original,
        {"setup": {}, "phase": {"schedule": "constant", "choose": "last"}, "epochs": None, "size": 1000},
    ).digest  # fmt: skip
    store.plain.save_progress(trunk, lambda path: path.write_bytes(b"x") and None)
    store.of("one").use(pruning)
    told = as_json(prunetune("store", "gc", "--runs", store.runs, "--json"))
    assert [item["name"] for item in told["freed"]] == [other]
    assert store.stages() == {original, *lengths, pruning}
    assert store.plain.progress(trunk).is_file()


def test_gc_keeps_what_a_living_claim_uses(prunetune: Prunetune, store: Store) -> None:
    original = store.publish(store.plain, "original")
    sparse = store.publish(store.plain, "sparse", original, epochs=1)
    with store.plain.claim("sparse-trunk", "sparse-longer", sparse):
        assert as_json(prunetune("store", "gc", "--runs", store.runs, "--json"))["freed"] == []
    assert {item["name"] for item in as_json(prunetune("store", "gc", "--runs", store.runs, "--json"))["freed"]} == {
        original,
        sparse,
    }


def test_gc_keeps_what_came_into_use_since_it_looked(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunetune.search import store_usage

    add_study("one")
    digest = store.publish(store.plain, "original")
    look = store_usage.find_garbage

    def then_use(*arguments: Any) -> Any:
        found = look(*arguments)
        assert store.of("one").find(digest) is not None
        return found

    monkeypatch.setattr(store_usage, "find_garbage", then_use)
    assert as_json(prunetune("store", "gc", "--runs", store.runs, "--json"))["freed"] == []
    assert store.plain.find(digest) is not None


def test_a_study_in_another_storage_is_kept_until_it_is_forgotten(
    prunetune: Prunetune, store: Store, make_spec: MakeSpec
) -> None:
    spec = make_spec(
        name="far", runs=str(store.runs), storage="postgresql+psycopg://me:secret@db.example:5432/studies?password=s2"
    )
    chain = store.chain("far")
    register(store.of("far"), open_study(make_spec(name="far", runs=str(store.runs))), spec)
    written = (store.root / "studies" / "far" / "study.json").read_text()
    assert "db.example:5432/studies" in written
    assert not any(word in written for word in ("secret", "s2", "me:"))
    shutil.rmtree(store.runs / "far")
    answer = prunetune("store", "gc", "--runs", store.runs)
    assert "far: its folder is gone, but it may go on in postgresql+psycopg://db.example:5432/studies" in answer.out
    assert store.stages() == set(chain)
    wrong = prunetune("store", "gc", "--runs", store.runs, "--forget", "fra")
    assert wrong.code == 2
    assert "--forget fra: the store knows no such study; it knows far" in wrong.err
    assert prunetune("store", "gc", "--runs", store.runs, "--forget", "far").code == 0
    assert store.stages() == set()


def test_a_study_that_is_there_is_not_forgotten(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec]
) -> None:
    spec = add_study("one")
    answer = prunetune("store", "gc", "--runs", store.runs, "--forget", "one")
    assert answer.code == 2
    assert f"its folder {spec.folder} is there; remove that instead" in answer.err


def test_a_study_in_another_file_is_gone_with_the_file(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec], tmp_path: Path
) -> None:
    add_study("far", storage=f"sqlite:///{tmp_path / 'all.db'}")
    chain = store.chain("far")
    shutil.rmtree(store.runs / "far")
    assert "far: its folder is gone" in prunetune("store", "gc", "--runs", store.runs).out
    assert store.stages() == set(chain)
    (tmp_path / "all.db").unlink()
    assert prunetune("store", "gc", "--runs", store.runs).code == 0
    assert store.stages() == set()


# Studies that the store took no notes of


def test_a_study_from_before_the_notes_keeps_what_its_trials_name(
    prunetune: Prunetune, store: Store, make_spec: MakeSpec
) -> None:
    spec = make_spec(name="old", runs=str(store.runs))
    study = open_study(spec)
    original, sparse, pruning = store.chain("nobody")
    control = store.publish(store.plain, "control", original)
    left = store.publish(store.plain, "pruning", "sparse-0")
    trial = study.ask()
    for name, value in TrialRecord(cost=Cost(stages=(StageUse("pruning", pruning),))).to_attrs().items():
        trial.set_user_attr(name, value)
    gc = ("store", "gc", "--runs", store.runs)
    answer = prunetune(*gc)
    assert "old: it has trials that run" in answer.out
    assert left in store.stages(), "nothing is freed that it may use"
    study.tell(trial, [0.5, 1.0])
    assert [item["name"] for item in as_json(prunetune(*gc, "--json"))["freed"]] == [left]
    assert store.stages() == {original, sparse, pruning, control}
    register(store.of("old"), study, spec)
    assert as_json(prunetune(*gc, "--json"))["freed"] == []
    assert {path.name for path in (store.root / "studies" / "old").iterdir()} == {
        original, control, pruning, "study.json",
    }  # fmt: skip


@pytest.mark.parametrize("file", ["study.db", "data.yaml"])
def test_a_study_that_cannot_be_read_keeps_everything(prunetune: Prunetune, store: Store, file: str) -> None:
    chain = store.chain("nobody")
    (store.runs / "broken").mkdir()
    (store.runs / "broken" / file).write_text("not a database")
    (store.runs / "notes").mkdir()
    answer = prunetune("store", "gc", "--runs", store.runs)
    assert answer.code == 0
    assert f"{store.runs / 'broken'}: it " in answer.out
    assert "remove its folder" in answer.out
    assert store.stages() == set(chain)


@pytest.mark.parametrize("kind", ["link to a disk that is not mounted", "file"])
def test_a_study_that_may_come_back_keeps_everything(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec], kind: str
) -> None:
    chain = store.chain("one")
    folder = add_study("one").folder
    shutil.rmtree(folder)
    folder.write_text("") if kind == "file" else folder.symlink_to(store.runs.parent / "scratch" / "one")
    answer = prunetune("store", "gc", "--runs", store.runs)
    assert answer.code == 0
    assert f"{folder}: it " in answer.out
    assert store.stages() == set(chain)


# verify


def test_verify_names_damage_and_removes_it(
    prunetune: Prunetune, store: Store, add_study: Callable[..., StudySpec]
) -> None:
    add_study("one")
    original, sparse, pruning = store.chain("one")
    verify = ("store", "verify", "--runs", store.runs)
    answer = prunetune(*verify)
    assert answer.code == 0
    assert "3 stages, all sound" in answer.out
    (store.root / "stages" / sparse / "checkpoint.pt").write_bytes(b"y" * 1000)
    assert StageStore(store.root).find(sparse) is not None, "its sizes are right"
    answer = prunetune(*verify)
    assert answer.code == 1
    assert f"{sparse}: checkpoint.pt has another SHA-256 than was recorded" in answer.out
    assert "1 damaged; --remove discards them" in answer.out
    told = prunetune(*verify, "--json")
    assert told.code == 1
    assert list(json.loads(told.out)["damaged"]) == [sparse]
    assert store.stages() == {original, sparse, pruning}
    answer = prunetune(*verify, "--remove")
    assert answer.code == 1
    assert f"{sparse}: checkpoint.pt has another SHA-256 than was recorded; removed" in answer.out
    assert store.stages() == {original, pruning}
    assert prunetune(*verify).code == 0


# How figures read


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_951, "1.0 MB"), (5 * 10**12, "5.0 TB")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (7200, "2 h"), (90000, "1 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
