"""What a change must pass: which tiers of tests run in the time that there is, and what fails it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "run"
DOCS, DIST, TEST, FAULTS, RETEST = "docs", "dist", "test", "test-faults", "retest"
FAILED = '{"tests/test_one.py::test_one": true}'


@pytest.mark.parametrize(
    ("minutes", "failing", "code", "cache", "calls", "said", "passes"),
    [
        (40, (), 0, "{}", [DOCS, DIST, TEST, FAULTS], ["tiers that ran: test, test-faults"], True),
        (40, (TEST,), 0, "{}", [DOCS, DIST, TEST, RETEST, FAULTS], ["tiers that ran: test, test-faults"], True),
        (40, (TEST, RETEST), 0, FAILED, [DOCS, DIST, TEST, RETEST], ["tiers that ran: test"], False),
        (40, (FAULTS,), 0, FAILED, [DOCS, DIST, TEST, FAULTS, RETEST], ["tiers that ran: test, test-faults"], True),
        (
            40, (FAULTS, RETEST), 0, FAILED, [DOCS, DIST, TEST, FAULTS, RETEST],
            ["tiers that ran: test, test-faults"], False,
        ),
        (
            40, (), 124, "{}", [DOCS, DIST, TEST, FAULTS],
            ["test-faults: ended by the time limit", "tiers that ran: test, test-faults in part"], True,
        ),
        (
            40, (RETEST,), 124, FAILED, [DOCS, DIST, TEST, FAULTS, RETEST],
            ["test-faults: ended by the time limit", "tiers that ran: test, test-faults in part"], False,
        ),
        (66, (), 0, "{}", [DOCS, DIST, TEST], ["test-faults: not run: 24 min are left", "tiers that ran: test"], True),
        (40, ("lint",), 0, "{}", [], ["tiers that ran: none"], False),
        (40, (DOCS,), 0, "{}", [DOCS], ["tiers that ran: none"], False),
        (40, (DIST,), 0, "{}", [DOCS, DIST], ["tiers that ran: none"], False),
    ],
)  # fmt: skip
def test_tiers_run_as_time_allows_and_what_fails_twice_fails_the_change(
    tmp_path: Path,
    minutes: int,
    failing: tuple[str, ...],
    code: int,
    cache: str,
    calls: list[str],
    said: list[str],
    passes: bool,
) -> None:
    place, tools = tmp_path / ".ci", tmp_path / "tools"
    kept = tmp_path / ".pytest_cache" / "v" / "cache"
    for folder in (place, tools, kept):
        folder.mkdir(parents=True)
    shutil.copy(SCRIPT, place)
    (kept / "lastfailed").write_text(cache)
    stubs = {
        "chromedriver": "",
        "make": f'echo "$1" >> calls\ncase " {" ".join(failing)} " in *" $1 "*) exit 2 ;; esac',
        "timeout": f'shift 3\n"$@" || exit\nexit {code}',
    }
    for name, text in stubs.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SECONDS": str(60 * minutes)}
    done = subprocess.run(["bash", str(place / "run")], env=environment, capture_output=True, text=True, check=False)
    assert (tmp_path / "calls").read_text().split() == ["lint", *calls]
    assert done.stdout.splitlines() == said
    assert (done.returncode == 0) is passes
