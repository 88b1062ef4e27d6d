"""Telling people where a run stands: a line on the terminal, or log lines where nobody watches."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import IO, Final, Protocol, cast

from ingestor.model.units import NS_PER_S
from ingestor.runtime.log import FREE, STDERR
from ingestor.runtime.output import Pen

_SMOOTHING_S: Final = 2.0
"""The rate shown is that of about the last two seconds."""

log = logging.getLogger(__name__)


class Told(Protocol):
    """Where a run stands."""

    @property
    def share(self) -> float | None:
        """Part of the work that is done, 0 to 1; None where there is no end to it."""
        ...

    def sentence(self) -> str:
        """One line for people."""
        ...


class Rate:
    """How much a number that only grows grows in a second."""

    def __init__(self, now_ns: int, value: int = 0) -> None:
        self._marked_ns = now_ns
        self._marked = value
        self._per_s = 0.0
        self._young = True

    def update(self, now_ns: int, value: int) -> float:
        """Return the rate over about the last `_SMOOTHING_S` seconds, or since the beginning."""
        passed_s = (now_ns - self._marked_ns) / NS_PER_S
        full = passed_s >= _SMOOTHING_S
        if passed_s > 0 and (full or self._young):
            self._per_s = (value - self._marked) / passed_s
        if full:
            self._marked_ns, self._marked, self._young = now_ns, value, False
        return self._per_s


class Teller:
    """Asks where the run stands when it is time to tell it."""

    def __init__(self, snapshot: Callable[[int], Told], interval_s: float) -> None:
        self._snapshot = snapshot
        self._interval_ns = int(interval_s * NS_PER_S)
        self._told_ns = time.monotonic_ns()
        self._watched = os.isatty(STDERR)
        self._line: _Line | None = None

    def tick(self) -> None:
        """Draw the line again, or log one if it is time for it."""
        now_ns = time.monotonic_ns()
        told = self._snapshot(now_ns)
        if self._watched:
            self._line = self._line or _Line(endless=told.share is None)
            self._line.draw(told)
        elif now_ns - self._told_ns >= self._interval_ns:
            self._told_ns = now_ns
            log.info("%s", told.sentence(), extra=FREE)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._line is not None:
            self._line.close()


class _Screen:
    """The terminal as a file for `rich`: a picture that is not shown in time is left out."""

    def __init__(self) -> None:
        self._pen = Pen(STDERR)
        self._picture: list[str] = []

    def write(self, text: str) -> int:
        self._picture.append(text)
        return len(text)

    def flush(self) -> None:
        picture, self._picture = "".join(self._picture), []
        if self._pen.drain():
            self._pen.put(picture.encode(errors="replace"))

    def isatty(self) -> bool:
        return True


class _Line:
    """A sentence on the terminal, behind a bar where there is an end; drawn only when told to."""

    def __init__(self, *, endless: bool) -> None:
        from rich.console import Console  # noqa: PLC0415  (50 ms that a run without a terminal saves)
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415
        from rich.table import Column  # noqa: PLC0415

        whole = Column(no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            *(() if endless else (BarColumn(),)),
            TextColumn("{task.description}", table_column=whole),
            console=Console(file=cast(IO[str], _Screen()), force_terminal=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("starting", total=None if endless else 1.0)
        self._progress.start()

    def draw(self, told: Told) -> None:
        self._progress.update(
            self._task, completed=told.share or 0.0, description=told.sentence(), refresh=True
        )

    def close(self) -> None:
        self._progress.stop()
