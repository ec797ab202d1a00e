"""Who carries out a trial: processes as a trial names them, and whether they still run.

filelock knows as much of the owner of a lease, but tells it only to who wants the lease, and a trial has none.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TypedDict

import psutil

from prunetune.spaces.fields import integer, number

CLOCK_STEP_S = 5.0
"""When a process started is derived from the wall clock, which may be set meanwhile by so much."""


class Process(TypedDict):
    """A process as a trial keeps it."""

    host: str
    pid: int
    started: float
    """When, in seconds since 1970."""
    namespace: str
    """What `pid_namespace` said."""


def this_process() -> Process:
    """Host, process, and when the process started: a number of a process alone is soon used again.

    Containers that share a host's name may each number their own processes: the name space tells them apart.
    """
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": process.create_time(),
        "namespace": pid_namespace(),
    }


def pid_namespace() -> str:
    """What tells apart containers that number their own processes; empty where the system has no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def is_alive(process: Mapping[str, object]) -> bool:
    """Whether a process may still run. One on another host or in another container may."""
    pid, started = integer(process.get("pid")), number(process.get("started"))
    if process.get("host") != socket.gethostname() or process.get("namespace", "") not in ("", pid_namespace()):
        return True
    if pid is None or started is None:
        return False
    try:
        found = psutil.Process(pid)
        is_same = abs(found.create_time() - started) < CLOCK_STEP_S
        return is_same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError):
        return False
