"""The stage store: stages are whole or absent, whoever writes them and however the writer ends."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetune.pruning.stages.lease import StageBusyError
from prunetune.pruning.stages.store import StageStore, StoredStage, digest_of
from prunetune.pruning.stages.store_contents import RECENT_S, StoreContents, free
from prunetune.spaces import StoreError
from prunetune.spaces.drafts import draft
from prunetune.spaces.files import file_sha256

STAGE = "sparse-0123"

WRITE = """
import sys
from pathlib import Path
from prunetune.pruning.stages.store import StageStore
from prunetune.spaces import StoreError

def half(path):
    path.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.readline()

store = StageStore(Path(sys.argv[1]))
try:
    if sys.argv[2] == "stage":
        files = {"first.pt": lambda path: path.write_bytes(b"whole"), "second.pt": half}
        print(store.publish("sparse-0123", {"by": "it"}, files).record["by"])
    else:
        store.save_progress("sparse-0123", half)
except StoreError:
    print("refused")
"""

OPEN = """
import os, sys
from pathlib import Path
from prunetune.pruning.stages.store import StageStore
StageStore(Path(sys.argv[1]))
print(os.getpid())
"""


def writes(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def breaks(path: Path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


def fills_the_disk(path: Path) -> None:
    path.write_text("half")
    Path("/dev/full").write_text("x")


def drafts(store: StageStore) -> list[Path]:
    return list((store.root / "drafts").iterdir())


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "store")


def test_a_published_stage_is_read_back(store: StageStore) -> None:
    record = {"params": 7, "channels": {"model.0.conv": 16}}
    published = store.publish(STAGE, record, {"checkpoint.pt": writes("weights"), "history.json": writes("[]")})
    assert (published.digest, published.record, published.reused) == (STAGE, record, False)
    found = StageStore(store.root).find(STAGE)
    assert found == StoredStage(STAGE, published.folder, record, reused=True)
    assert found.file("checkpoint.pt").read_text() == "weights"
    assert drafts(store) == []


def test_an_unknown_stage(store: StageStore) -> None:
    assert store.find("sparse-none") is None


def test_the_first_to_finish_wins(store: StageStore) -> None:
    store.publish(STAGE, {"by": "first"}, {"checkpoint.pt": writes("first")})
    second = StageStore(store.root).publish(STAGE, {"by": "second"}, {"checkpoint.pt": writes("second")})
    assert second.record == {"by": "first"}
    assert second.file("checkpoint.pt").read_text() == "first"
    assert drafts(store) == []


def test_threads_that_finish_the_same_stage_at_once(store: StageStore) -> None:
    together = threading.Barrier(4)
    results: list[tuple[str, str]] = []

    def work(name: str) -> None:
        def write(path: Path) -> None:
            path.write_text(name)
            together.wait()

        stage = store.publish(STAGE, {"by": name}, {"checkpoint.pt": write})
        results.append((stage.record["by"], stage.file("checkpoint.pt").read_text()))

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1, "all of them got the same stage"
    assert results[0][0] == results[0][1], "record and file are of the same writer"
    assert drafts(store) == []


def _publish_together(root: Path, name: str, together: Barrier, results: Any) -> None:
    def write(path: Path) -> None:
        path.write_text(name)
        together.wait()

    stage = StageStore(root).publish(STAGE, {"by": name}, {"checkpoint.pt": write})
    results.put((stage.record["by"], stage.file("checkpoint.pt").read_text()))


def test_processes_that_finish_the_same_stage_at_once(store: StageStore) -> None:
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_publish_together, args=(store.root, name, together, results)) for name in ("a", "b")
    ]
    for worker in workers:
        worker.start()
    got = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert got[0] == got[1]
    assert got[0] in [("a", "a"), ("b", "b")]


@pytest.mark.parametrize("moment", ["is_dir", "read_text"])
def test_a_stage_published_during_a_look_is_not_taken_for_a_damaged_one(
    store: StageStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    other, original, published = StageStore(store.root), getattr(Path, moment), []

    def look(path: Path, *args: Any, **options: Any) -> Any:
        try:
            return original(path, *args, **options)
        finally:
            monkeypatch.undo()
            published.append(other.publish(STAGE, {}, {"checkpoint.pt": writes("whole")}))

    monkeypatch.setattr(Path, moment, look)
    store.find(STAGE)
    monkeypatch.undo()
    assert all(stage.file("checkpoint.pt").read_text() == "whole" for stage in published)


def test_a_writer_that_fails_leaves_nothing(store: StageStore) -> None:
    with pytest.raises(ZeroDivisionError):
        store.publish(STAGE, {}, {"first.pt": writes("whole"), "second.pt": breaks})
    assert store.find(STAGE) is None
    assert drafts(store) == []
    assert list((store.root / "stages").iterdir()) == []


def test_nobody_sees_a_stage_that_is_being_written(store: StageStore) -> None:
    seen: list[StoredStage | None] = []

    def write(path: Path) -> None:
        path.write_text("half")
        seen.append(StageStore(store.root).find(STAGE))
        path.write_text("whole")

    store.publish(STAGE, {}, {"first.pt": writes("whole"), "second.pt": write})
    assert seen == [None]


def writing(store: StageStore, what: str) -> subprocess.Popen[str]:
    """A process that goes on writing when it reads a line."""
    command = [sys.executable, "-c", WRITE, str(store.root), what]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@pytest.mark.parametrize("what", ["stage", "progress"])
def test_a_killed_writer_leaves_nothing_visible(store: StageStore, what: str) -> None:
    store.save_progress(STAGE, writes("old"))
    with writing(store, what) as process:
        assert StageStore(store.root).find(STAGE) is None
        assert len(drafts(store)) == 2, "a living writer keeps its draft and the lease"
        process.kill()
        process.wait()
    after = StageStore(store.root)
    assert after.find(STAGE) is None
    assert after.progress(STAGE).read_text() == "old"
    assert drafts(after) == []
    assert after.publish(STAGE, {}, {"checkpoint.pt": writes("whole")}).file("checkpoint.pt").is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [("checkpoint.pt", "wei"), ("checkpoint.pt", None), ("stage.json", '{"rec'), ("stage.json", "")],
)
def test_a_damaged_stage_is_run_again(store: StageStore, name: str, content: str | None) -> None:
    file = store.publish(STAGE, {}, {"checkpoint.pt": writes("weights")}).file(name)
    file.unlink() if content is None else file.write_text(content)
    assert store.find(STAGE) is None
    again = store.publish(STAGE, {}, {"checkpoint.pt": writes("weights")})
    assert again.file("checkpoint.pt").read_text() == "weights"
    assert drafts(store) == []


@pytest.mark.parametrize("record", ["[]", "{}", '{"files": 3}', '{"files": {}, "digest": "x"}', "null"])
def test_a_foreign_record_is_a_damaged_stage(store: StageStore, record: str) -> None:
    store.publish(STAGE, {}, {}).file("stage.json").write_text(record)
    assert store.find(STAGE) is None
    assert not (store.root / "stages" / STAGE).exists()


def test_a_stage_damaged_since_the_last_look_is_replaced(store: StageStore) -> None:
    store.publish(STAGE, {}, {"checkpoint.pt": writes("weights")}).file("checkpoint.pt").write_text("")
    again = store.publish(STAGE, {}, {"checkpoint.pt": writes("weights")})
    assert again.file("checkpoint.pt").read_text() == "weights"


def test_a_discarded_stage_is_gone(store: StageStore) -> None:
    store.publish(STAGE, {}, {"checkpoint.pt": writes("weights")})
    store.discard(STAGE)
    store.discard(STAGE)
    assert store.find(STAGE) is None
    assert drafts(store) == []


@pytest.mark.parametrize("is_freed", [False, True])
def test_a_frozen_writer_that_wakes_damages_nothing(store: StageStore, is_freed: bool) -> None:
    """Neither another's stage of the same name, nor another's draft; also where its own draft was freed meanwhile."""
    with writing(store, "stage") as process:
        os.kill(process.pid, signal.SIGSTOP)
        store.publish(STAGE, {"by": "other"}, {"checkpoint.pt": writes("whole")})
        if is_freed:
            for path in drafts(store):
                os.utime(path, (1.0, 1.0))
            free(store.root, StoreContents.read(store.root).removable(max_age_s=RECENT_S))
            assert drafts(store) == []
        with draft(store.root / "drafts") as others:
            os.kill(process.pid, signal.SIGCONT)
            said, _ = process.communicate("\n")
            assert said == ("refused\n" if is_freed else "other\n")
            assert sorted(drafts(store)) == [others, others.with_suffix(".lease")]
    stage = store.find(STAGE)
    assert stage is not None
    assert (stage.record, stage.file("checkpoint.pt").read_text()) == ({"by": "other"}, "whole")
    assert drafts(store) == []


def test_a_container_of_the_same_host_name_leaves_a_living_draft_alone(store: StageStore) -> None:
    """It numbers its own processes: what it cannot see may live."""
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make name spaces")

    def write(path: Path) -> None:
        command = [*container, sys.executable, "-c", OPEN, str(store.root)]
        opened = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(opened.stdout) < os.getpid(), "it counts anew"
        path.write_text("whole")

    assert store.publish(STAGE, {}, {"checkpoint.pt": write}).file("checkpoint.pt").read_text() == "whole"


def test_progress_is_replaced_as_one_step(store: StageStore) -> None:
    assert not store.progress(STAGE).exists()
    store.save_progress(STAGE, writes("epoch 1"))

    def write(path: Path) -> None:
        path.write_text("half")
        assert store.progress(STAGE).read_text() == "epoch 1"
        path.write_text("epoch 2")

    store.save_progress(STAGE, write)
    assert store.progress(STAGE).read_text() == "epoch 2"
    with pytest.raises(ZeroDivisionError):
        store.save_progress(STAGE, breaks)
    assert store.progress(STAGE).read_text() == "epoch 2"
    store.forget_progress(STAGE)
    store.forget_progress(STAGE)
    assert not store.progress(STAGE).exists()
    assert drafts(store) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk(store: StageStore) -> None:
    store.save_progress(STAGE, writes("old"))
    with pytest.raises(StoreError, match=rf"stages/{STAGE}: the disk is full; free some space"):
        store.publish(STAGE, {}, {"checkpoint.pt": fills_the_disk})
    with pytest.raises(StoreError, match=rf"progress/{STAGE}\.pt: the disk is full"):
        store.save_progress(STAGE, fills_the_disk)
    assert store.find(STAGE) is None
    assert store.progress(STAGE).read_text() == "old"
    assert drafts(store) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_torch_on_a_full_disk(tiny_disk: Path) -> None:
    from prunetune.pruning.yolo.detector import Detector

    detector, store = Detector.load("yolov5n.yaml", ("square",)), StageStore(tiny_disk)
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        store.publish(STAGE, {}, {"checkpoint.pt": lambda path: detector.save(path, {}, {})})
    assert drafts(store) == []
    assert store.find(STAGE) is None


def test_a_file_where_the_store_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(StoreError, match=r"runs/study: "):
        StageStore(tmp_path / "runs" / "study")


def test_an_unwritable_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # a real one would not stop root
    with pytest.raises(StoreError, match=r"store: not writable \(Permission denied\); choose another folder"):
        StageStore(tmp_path / "store")


@pytest.mark.parametrize("what", ["stage", "progress"])
def test_a_store_that_became_unwritable(store: StageStore, what: str) -> None:
    shutil.rmtree(store.root / "drafts")
    (store.root / "drafts").write_text("in the way")
    with pytest.raises(StoreError, match=STAGE):
        if what == "stage":
            store.publish(STAGE, {}, {})
        else:
            store.save_progress(STAGE, writes("x"))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), PLAIN, max_size=6))
def test_a_digest_does_not_depend_on_the_order_of_keys(values: dict[str, Any]) -> None:
    assert digest_of(dict(reversed(values.items()))) == digest_of(values)


def test_digests_stay_the_same_from_version_to_version() -> None:
    """A change here makes every store of a user worthless."""
    assert digest_of({"b": [1, 0.5, None], "a": "größe"}) == "07c0437f96c2cb432f4a"


@pytest.mark.parametrize("other", [{"a": 2}, {"a": 1.5}, {"a": "1"}, {"b": 1}, {"a": [1]}, {"a": 1, "b": None}])
def test_other_values_have_another_digest(other: dict[str, Any]) -> None:
    assert digest_of(other) != digest_of({"a": 1})


def test_a_number_that_is_none_cannot_name_a_stage() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"penalty": float("nan")})


def test_the_sum_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert file_sha256(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


# Who uses a stage, and who trains it


def test_a_stage_is_touched_when_it_is_used(store: StageStore) -> None:
    folder = store.publish(STAGE, {}, {}).folder
    for use in (lambda: store.find(STAGE), lambda: store.publish(STAGE, {}, {}), lambda: store.touch(STAGE)):
        os.utime(folder, (1.0, 1.0))
        assert use()
        assert folder.stat().st_mtime > 1.0
    assert not store.touch("sparse-none")


def test_a_stage_in_a_store_that_may_only_be_read(store: StageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    store.publish(STAGE, {}, {})
    monkeypatch.setattr(os, "utime", refuse)
    assert store.find(STAGE) is not None


def test_a_stage_that_is_removed_during_a_look_is_missed(store: StageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(STAGE, {}, {})
    monkeypatch.setattr(os, "utime", lambda folder: store.discard(STAGE))
    assert store.find(STAGE) is None


def busy_elsewhere(store: StageStore) -> StageBusyError:
    with pytest.raises(StageBusyError) as caught:
        StageStore(store.root).lease("sparse-trunk", STAGE)
    return caught.value


def test_a_leased_stage_is_awaited_until_its_lease_ends(store: StageStore) -> None:
    lease, heard = store.lease("sparse-trunk", STAGE), []
    error = busy_elsewhere(store)
    assert not store.is_released(error)

    def listen() -> None:
        heard.append(1)
        lease.release()

    assert store.await_release([error], listen) is error
    assert heard == [1]


def test_a_leased_stage_is_awaited_until_it_is_published(store: StageStore) -> None:
    """A longer training leaves it on its way."""
    with store.lease("sparse-trunk", "sparse-longer"):
        error = busy_elsewhere(store)
        assert store.await_release([error], lambda: store.publish(STAGE, {}, {}) and None) is error


def test_waiting_can_be_interrupted(store: StageStore) -> None:
    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    with store.lease("sparse-trunk", STAGE):
        error = busy_elsewhere(store)
        with pytest.raises(KeyboardInterrupt):
            store.await_release([error], interrupt)
