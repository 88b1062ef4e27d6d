"""Waiting for processes that are not our children, or that somebody else reaps."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Final

import psutil

_TIMEOUT_S: Final = 10.0


def named(pid: int, name: str) -> psutil.Process:
    """Return the process of a run that bears a name."""
    (found,) = (one for one in psutil.Process(pid).children() if one.name() == name)
    return found


def kill_to_the_end(run: subprocess.Popen[str], name: str) -> None:
    """Kill the process of a run that bears a name each time that it is started again."""
    deadline = time.monotonic() + 3 * _TIMEOUT_S
    while run.poll() is None:
        assert time.monotonic() < deadline, f"{name} is started again for ever"
        with contextlib.suppress(ValueError, psutil.NoSuchProcess):  # it is not there just now
            named(run.pid, name).kill()
        time.sleep(0.02)


def data_path(pid: int) -> list[int]:
    """Pids of a run's processes in the order of their start, but for those beside the data path."""
    there = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for one in map(int, there):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            if psutil.Process(one).name() not in ("records", "control"):
                found.append(one)
    return found


def ended(process: psutil.Process) -> bool:
    """Whether the process, with all its threads, ends in time; nobody need have reaped it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], _TIMEOUT_S)[0])
    finally:
        os.close(descriptor)
