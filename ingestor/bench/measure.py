"""What a command costs: processor time of it and all its children, and their memory together."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SAMPLE_S: Final = 0.5
"""One sample costs the machine some milliseconds: more of them would slow down what is measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds (user and system, all processes) and the largest PSS sum seen, in bytes."""

    output: str
    errors: str
    exit_code: int
    cpu_s: float
    peak_pss_bytes: int


def run_measured(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command to its end, sampling the memory of its whole family."""
    before = os.times()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(environment)
    )
    sampler = _Sampler(process.pid)
    output, errors = process.communicate()
    peak = sampler.finish()
    after = os.times()
    cpu_s = after.children_user + after.children_system
    cpu_s -= before.children_user + before.children_system
    return Cost(output, errors, process.returncode, cpu_s, peak)


def title(pid: int) -> str:
    """Return what `ps` shows of a process, such as "ingestor: publisher"."""
    line = Path(f"/proc/{pid}/cmdline").read_bytes()
    return line.replace(b"\0", b" ").decode(errors="replace").strip()


def family(pid: int) -> list[int]:
    """Return a process and all its descendants, as far as they are there."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        try:
            waiting += _children(one)
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(one)
    return found


def family_pss_bytes(pid: int) -> int:
    """Proportional set size of a process and all its descendants; gone ones count nothing."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += _pss_bytes(one)
    return total


class _Sampler:
    """Samples memory in a thread until finished."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> int:
        self._finished.set()
        self._thread.join()
        return self._peak

    def _run(self) -> None:
        while not self._finished.wait(_SAMPLE_S):
            self._peak = max(self._peak, family_pss_bytes(self._pid))


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
