"""What a run takes of its machine, memory and descriptors, and what it leaves behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import psutil

from tests.faults.runs import Command

SETTLED_S: Final = 300.0
"""Figures of a run's first minutes are its growing up."""
MEMORY_SHARE: Final = 0.05
SHARED_SHARE: Final = 0.01
DESCRIPTORS: Final = 2
"""That a supervisor may have more at its end, for one that is open at the moment. Another process
inherits ends of the pipes of those that are there when it starts, hence more when it is started
again, and its sum says nothing."""
SAMPLES: Final = 5
"""Of which the middle one counts, at the beginning and at the end."""
_KB: Final = 1024
_SHARED: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Sample:
    """Bytes of all processes of a run, and descriptors of its supervisor."""

    at_s: float
    memory: int
    shared: int
    descriptors: int


@dataclass
class Resources:
    """Samples of one run, and the processes that it ever had."""

    samples: list[Sample] = field(default_factory=list)
    _began_s: float = field(default_factory=time.monotonic)
    _parent: int = 0
    _processes: set[psutil.Process] = field(default_factory=set)
    _shared_before: set[str] = field(default_factory=lambda: _names(_SHARED))

    def sample(self, command: Command) -> None:
        """Look at a run all of whose processes are there."""
        memory = shared = 0
        with contextlib.suppress(psutil.Error, OSError):
            parent = psutil.Process(command.process.pid)
            if parent.pid != self._parent:
                # Another run begins small.
                self._parent, self._began_s = parent.pid, time.monotonic()
                self.samples.clear()
            for process in (parent, *parent.children(recursive=True)):
                self._processes.add(process)
                text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                sizes = dict(line.split(":") for line in text.splitlines()[1:])
                memory += _bytes(sizes["Pss_Anon"])
                shared += _bytes(sizes["Pss_Shmem"])
            now_s = time.monotonic() - self._began_s
            self.samples.append(Sample(now_s, memory, shared, parent.num_fds()))

    def lines(self) -> Iterator[str]:
        """Yield what is told of it."""
        if ends := self._ends():
            for one in ends:
                yield (
                    f"after {one.at_s:.0f} s: {one.memory / 1e6:.1f} MB of their own,"
                    f" {one.shared / 1e6:.1f} MB shared, {one.descriptors} descriptors of the"
                    " supervisor"
                )

    def findings(self, command: Command) -> Iterator[str]:
        """Yield what has grown, and what is left behind once the run has ended."""
        if (ends := self._ends()) and ends[1].at_s >= 2 * SETTLED_S:
            first, last = ends
            if last.memory > first.memory * (1 + MEMORY_SHARE):
                yield "memory has grown by more than 5 %"
            if last.shared > first.shared * (1 + SHARED_SHARE):
                yield "shared memory has grown"
            if last.descriptors > first.descriptors + DESCRIPTORS:
                yield "descriptors have grown"
        if left := [one.pid for one in self._processes if one.is_running()]:
            yield f"processes left behind: {left}"
        if new := _names(_SHARED) - self._shared_before:
            yield f"left in {_SHARED}: {sorted(new)}"
        if new := _names(command.temporary):
            yield f"left in the folder for temporary files: {sorted(new)}"

    def _ends(self) -> tuple[Sample, Sample] | None:
        if len(self.samples) < 2 * SAMPLES:
            return None
        span_s = self.samples[-1].at_s
        settled_s = min(SETTLED_S, span_s / 4)
        settled = [one for one in self.samples if one.at_s >= settled_s]
        return _middle(settled[:SAMPLES]), _middle(self.samples[-SAMPLES:])


def _middle(samples: Sequence[Sample]) -> Sample:
    return Sample(
        median(one.at_s for one in samples),
        int(median(one.memory for one in samples)),
        int(median(one.shared for one in samples)),
        int(median(one.descriptors for one in samples)),
    )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _bytes(size: str) -> int:
    return int(size.split(maxsplit=1)[0]) * _KB
