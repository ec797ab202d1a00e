"""Running a program: it always ends, takes its helpers with it, and has the last word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from prunetune.spaces.errors import MeasurementError, TargetError
from prunetune.targets.programs import program
from prunetune.targets.programs.program import Output, require_program, run_program

LONG = 300.0
"""Longer than any test may take: who waits for it fails."""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]


def time_is_up_once(file: Path) -> Callable[[], float]:
    """A clock that stands still until a file is there, then runs out."""
    return lambda: 10 * LONG if file.exists() else 0.0


def is_gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has asked for its exit code did."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or not psutil.wait_procs([process], timeout=LONG)[1]
    except psutil.NoSuchProcess:
        return True


def test_what_it_prints_comes_back() -> None:
    code = "import sys; print('out', sys.argv[1:]); print('err', file=sys.stderr)"
    assert run_program(python(code, "a b", "$HOME; *"), LONG) == Output("out ['a b', '$HOME; *']\n", "err\n")


def test_it_has_nothing_to_read_and_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOARD", "desk 3")
    code = "import os, sys; print(repr(sys.stdin.read()), os.environ['BOARD'])"
    assert run_program(python(code), LONG).stdout == "'' desk 3\n"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert run_program(["printf", r"a\377b"], LONG).stdout == "a\ufffdb"


def test_more_than_a_pipe_holds_comes_back_whole() -> None:
    code = "import sys; sys.stderr.write('e' * 10**6); sys.stdout.write('o' * 10**6)"
    output = run_program(python(code), LONG)
    assert (output.stdout, output.stderr) == ("o" * 10**6, "e" * 10**6)


def test_a_program_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    code = "import os, sys; os.close(1); os.close(2); open(sys.argv[1], 'w').write('done')"
    run_program(python(code, tmp_path / "file"), LONG)
    assert (tmp_path / "file").read_text() == "done"


# A program that does not end


def test_a_program_is_ended_after_its_time_with_its_last_words(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = "import sys, time; print('converting', flush=True); open(sys.argv[1], 'w'); time.sleep(1000)"
    with pytest.raises(MeasurementError) as caught:
        run_program(python(code, ready), LONG, time_is_up_once(ready))
    assert str(caught.value).endswith("did not end within 300 s (timeout); stdout: converting")


def test_it_has_the_chance_to_tidy_up(tmp_path: Path) -> None:
    ready, tidied = tmp_path / "ready", tmp_path / "tidied"
    code = (
        "import signal, sys, time\n"
        "def tidy(*_): open(sys.argv[2], 'w'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, tidy); open(sys.argv[1], 'w'); time.sleep(1000)"
    )
    with pytest.raises(MeasurementError, match="timeout"):
        run_program(python(code, ready, tidied), LONG, time_is_up_once(ready))
    assert tidied.exists()


def test_one_that_refuses_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GRACE", 0.01)
    ready = tmp_path / "ready"
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True); open(sys.argv[1], 'w'); time.sleep(1000)"
    )
    with pytest.raises(MeasurementError, match="timeout") as caught:
        run_program(python(code, ready), LONG, time_is_up_once(ready))
    assert is_gone(int(str(caught.value).rpartition(" ")[2]))


def test_one_that_prints_forever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LIMIT", 2**20)
    with pytest.raises(MeasurementError) as caught:
        run_program(["yes", "clock not locked"], LONG)
    told = str(caught.value)
    assert told.startswith("yes printed more than 1 MiB; stdout: ")
    assert "clock not locked | clock not locked" in told
    assert len(told) < 600


# Its helpers

HELPER = "import subprocess, sys; child = subprocess.Popen(['sleep', '1000']{}); print(child.pid, flush=True)"


@pytest.mark.parametrize("ends", [True, False])
def test_a_helper_ends_with_its_program(tmp_path: Path, ends: bool) -> None:
    ready = tmp_path / "ready"
    if ends:
        said = run_program(python(HELPER.format("")), LONG).stdout
    else:
        code = HELPER.format("") + "; open(sys.argv[1], 'w'); child.wait()"
        with pytest.raises(MeasurementError, match="timeout") as caught:
            run_program(python(code, ready), LONG, time_is_up_once(ready))
        said = str(caught.value).rpartition(" ")[2]
    assert is_gone(int(said))


def test_a_daemon_that_keeps_the_pipes_holds_nobody_up_and_lives_on() -> None:
    """So do adb's server and the shared connection of ssh."""
    daemon = int(run_program(python(HELPER.format(", start_new_session=True")), LONG).stdout)
    try:
        assert psutil.Process(daemon).is_running()
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_an_interruption_ends_the_program(tmp_path: Path) -> None:
    """Ctrl-C reaches prunetune alone: the program has a session of its own."""
    code = (
        "import signal, sys\n"
        "from prunetune.targets.programs.program import run_program\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background starts with it ignored
        "run_program([sys.executable, '-I', '-S', '-c', sys.argv[1], sys.argv[2]], 300)\n"
    )
    child = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(1000)"
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", code, child, str(pipe)], stderr=subprocess.PIPE, text=True) as process:
        pid = int(pipe.read_text())
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate()[1]
    assert is_gone(pid)


def test_it_runs_outside_of_the_main_thread_as_well() -> None:
    said: list[Output] = []
    thread = threading.Thread(target=lambda: said.append(run_program(["echo", "here"], LONG)))
    thread.start()
    thread.join()
    assert said == [Output("here\n", "")]


# Ends that are no success


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("exit 3", "ended with exit code 3; it said nothing"),
        ("echo out; echo err >&2; exit 255", "ended with exit code 255; stderr: err; stdout: out"),
        ("kill -SEGV $$", "was ended by SIGSEGV; it said nothing"),
        (r"printf 'loading\r\033[31mred\033[0m  \t\n\n\nlast\007' >&2; exit 1", "stderr: loading red | last"),
        ("for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; exit 1", "stdout: line 5 | line 6 | line 7 | line 8 | "),
    ],
)
def test_an_end_that_is_no_success_is_told(code: str, said: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        run_program(["sh", "-c", code], LONG)
    assert str(caught.value).startswith("sh ")
    assert said in str(caught.value)


def test_a_long_last_line_is_cut() -> None:
    with pytest.raises(MeasurementError, match=r"stderr: \.\.\.x{490}") as caught:
        run_program(python("import sys; sys.exit('x' * 10000)"), LONG)
    assert len(str(caught.value)) < 700


# Programs that cannot be started


def script(folder: Path, text: str, mode: int = 0o755) -> str:
    file = folder / "measure.sh"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_no_such_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nosuch", "./measure.sh"):
        with pytest.raises(TargetError, match=rf"no program '{name}'.*PATH.*current folder \({tmp_path}\)"):
            run_program([name], LONG)
    script(tmp_path, "#!/bin/sh\necho from here\n")
    assert run_program(["./measure.sh"], LONG).stdout == "from here\n"


def test_a_program_that_is_not_executable(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"measure\.sh: is not executable; run: chmod \+x"):
        run_program([script(tmp_path, "#!/bin/sh\n", 0o644)], LONG)


def test_a_script_whose_interpreter_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"measure\.sh: the interpreter .* is not there"):
        run_program([script(tmp_path, "#!/opt/nosuch/python\n")], LONG)


def test_a_script_without_a_first_line(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"measure\.sh: cannot be started .*#!/bin/sh"):
        run_program([script(tmp_path, "echo hello\n")], LONG)


def test_where_there_are_no_process_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_HAS_PROCESS_GROUPS", False)
    with pytest.raises(TargetError, match="WSL"):
        run_program(["echo"], LONG)


def test_a_folder_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"is a folder; give the program in it"):
        require_program(str(tmp_path))


def test_a_program_that_is_there_is_not_run(tmp_path: Path) -> None:
    require_program(sys.executable)
    require_program("sh")
