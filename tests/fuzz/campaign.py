"""Workers one after the other until all inputs are run, whatever becomes of a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.worker import Inputs, Place

STUCK_S: Final = 30.0
"""A worker whose input does not end for so long is in native code, or waits: it is killed."""

MAX_CRASHES: Final = 20
"""Of one target; then its campaign ends."""

_POLL_S: Final = 0.05
_ROOT: Final = Path(__file__).parents[2]
_FINDINGS: Final = "INGESTOR_FUZZ_DIR"


@dataclass(frozen=True)
class Finding:
    """An input that did what none may, the first of its kind."""

    target: str
    seed: int
    index: int
    kind: str
    trace: str

    def __str__(self) -> str:
        """Say what happened, and how to see it again."""
        again = f"python -m tests.fuzz {self.target} --seed {self.seed} --index {self.index}"
        return (
            f"{self.target}: {self.kind}\n  again: {again}\n  input: {self._saved()}\n{self.trace}"
        )

    def _saved(self) -> Path:
        folder = Path(os.environ.get(_FINDINGS, Path(tempfile.gettempdir()) / "ingestor-fuzz"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{self.seed}-{self.index}.hex"
        with tempfile.TemporaryDirectory() as scratch:
            path.write_text(Inputs(self.target, Path(scratch), self.seed)[self.index].hex())
        return path


@dataclass
class Report:
    """One target's inputs so far."""

    target: str
    seed: int
    inputs: int = 0
    seconds: float = 0.0
    growth_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.target}: {self.inputs} inputs, seed {self.seed}, {self.seconds:.1f} s, "
            f"{self.growth_bytes / 2**20:.1f} MiB, findings {dict(self.kinds)}"
        )


class Campaign:
    """Runs `numbers` of every target, in as few processes as survive."""

    def __init__(
        self, targets: Sequence[str], numbers: range, seed: int, *, stuck_s: float = STUCK_S
    ) -> None:
        self._targets = list(targets)
        self._numbers = numbers
        self._seed = seed
        self._stuck_s = stuck_s
        self.reports = {name: Report(name, seed) for name in targets}

    def run(self) -> list[Report]:
        """Return what became of each target."""
        targets, first, crashes = self._targets, self._numbers.start, 0
        with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
            while targets:
                crash = self._work(Path(folder), targets, first)
                if crash is None:
                    break
                number, index = crash
                crashes = crashes + 1 if number == 0 else 1
                targets, first = targets[number:], index + 1
                self.reports[targets[0]].inputs = first - self._numbers.start
                if first >= self._numbers.stop or crashes >= MAX_CRASHES:
                    targets, first, crashes = targets[1:], self._numbers.start, 0
        return list(self.reports.values())

    def _work(self, folder: Path, targets: Sequence[str], first: int) -> tuple[int, int] | None:
        """Run one worker; return where it died, None when it did not."""
        path = folder / "place"
        place = Place.create(path)
        place.write(0, first)
        job = {
            "targets": targets,
            "first": first,
            "begin": self._numbers.start,
            "end": self._numbers.stop,
            "seed": self._seed,
            "place": str(path),
            "folder": str(folder),
        }
        with (folder / "told").open("w+") as told, (folder / "errors").open("w+") as errors:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", json.dumps(job)],
                cwd=_ROOT,
                env=os.environ | {"PYTHONPATH": str(_ROOT), "PYTHONFAULTHANDLER": "1"},
                stdout=told,
                stderr=errors,
            )
            stuck = _watch(worker, place, self._stuck_s)
            told.seek(0)
            errors.seek(0)
            self._take(targets, told.read().splitlines())
            if worker.returncode == 0:
                return None
            number, index = place.read()
            how = "stands still" if stuck else f"ends its process ({worker.returncode})"
            self._add(targets[number], index, f"input {how}", errors.read()[-2000:])
            return number, index

    def _take(self, targets: Sequence[str], lines: Sequence[str]) -> None:
        at = 0
        for line in lines:
            told = json.loads(line)
            report = self.reports[targets[at]]
            if "done" not in told:
                self._add(targets[at], told["index"], told["kind"], told["trace"])
                continue
            report.inputs += told["done"]
            report.seconds += told["seconds"]
            report.growth_bytes = max(report.growth_bytes, told["growth"])
            report.kinds |= {
                kind: report.kinds.get(kind, 1) - 1 + count for kind, count in told["kinds"].items()
            }
            at += 1

    def _add(self, target: str, index: int, kind: str, trace: str) -> None:
        report = self.reports[target]
        if kind not in report.kinds:
            report.findings.append(Finding(target, self._seed, index, kind, trace))
        report.kinds[kind] = report.kinds.get(kind, 0) + 1


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _watch(worker: subprocess.Popen[bytes], place: Place, stuck_s: float) -> bool:
    """Wait for a worker; kill it and return True when one input takes longer than that."""
    seen, since = place.read(), _had_s(worker.pid)
    while worker.poll() is None:
        time.sleep(_POLL_S)
        now, there = _had_s(worker.pid), place.read()
        if there != seen:
            seen, since = there, now
        elif now - since > stuck_s:
            worker.kill()
            worker.wait()
            return True
    return False


def _had_s(pid: int) -> float:
    """Return the time now, less what a child has waited for a CPU: a busy machine is no hang."""
    waited_ns = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    return time.monotonic() - waited_ns / 1e9
