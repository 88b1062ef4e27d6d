"""Keys by which a replay is steered from the terminal that it was started in.

Keys are read without waiting and only while the run is in the foreground: who reads a terminal from
the background is stopped by the kernel. The terminal hands on each key at once and does not show
it; it is set back at the end. Ctrl-C and Ctrl-Z mean what they always do.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import termios
import time
from collections.abc import Iterator
from typing import Final

from ingestor.model.replay_control import MAX_SPEED, MIN_SPEED, Do, ReplayCommand, ReplayState
from ingestor.model.units import NS_PER_S
from ingestor.runtime.controller import Controller
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.log import FREE, STDERR
from ingestor.runtime.progress_reporter import SpeedMeter

STDIN: Final = 0
READ_BYTES: Final = 64
"""Of a whole text that is pasted here, as much is looked at each time; there are ten a second."""

HELP: Final = (
    "space pauses and resumes, right steps by one event, up doubles the speed, down halves it,"
    " left seeks 10 s back, > 1 min on, < 1 min back, 0 to 9 go to tenths of the replay,"
    " l ends a loop"
)

_FIXED: Final = {
    b" ": ReplayCommand(do=Do.TOGGLE),
    b"l": ReplayCommand(do=Do.LOOP),
    b"\x1b[D": ReplayCommand(do=Do.SEEK, by_ns=-10 * NS_PER_S),
    b"\x1bOD": ReplayCommand(do=Do.SEEK, by_ns=-10 * NS_PER_S),
    b"<": ReplayCommand(do=Do.SEEK, by_ns=-60 * NS_PER_S),
    b">": ReplayCommand(do=Do.SEEK, by_ns=60 * NS_PER_S),
    **{b"%d" % tenth: ReplayCommand(do=Do.SEEK, share=tenth / 10) for tenth in range(10)},
}

_RIGHT: Final = (b"\x1b[C", b"\x1bOC")
_UP: Final = (b"\x1b[A", b"\x1bOA")
_DOWN: Final = (b"\x1b[B", b"\x1bOB")
_ESCAPED_BYTES: Final = 3

log = logging.getLogger(__name__)


def keys_of(data: bytes) -> Iterator[bytes]:
    """Yield the keys in what a terminal sent: a byte each, or three for an arrow."""
    while data:
        size = _ESCAPED_BYTES if data[:2] in (b"\x1b[", b"\x1bO") else 1
        yield data[:size]
        data = data[size:]


def command_of(key: bytes, speed: float, attained: float) -> ReplayCommand | None:
    """Return what a key commands at a speed that was told, and one that was attained."""
    if key in _FIXED:
        return _FIXED[key]
    if key in _RIGHT:
        return ReplayCommand(do=Do.STEP, events=1)
    if key in _UP and 0 < speed <= MAX_SPEED / 2:
        return ReplayCommand(do=Do.SPEED, speed=speed * 2)
    if key in _DOWN and speed >= MIN_SPEED * 2:
        return ReplayCommand(do=Do.SPEED, speed=speed / 2)
    if key in _DOWN and not speed and attained >= 1:
        # As fast as possible has no half: it becomes the next power of two below what it was.
        return ReplayCommand(do=Do.SPEED, speed=min(2.0 ** math.floor(math.log2(attained)), 2**19))
    return None


def is_there() -> bool:
    """Whether somebody may press keys here, and sees what comes of it."""
    return os.isatty(STDIN) and os.isatty(STDERR)


class Keyboard:
    """Reads keys and has them done; nothing where standard input or error is no terminal."""

    def __init__(self, controller: Controller, publisher: CounterRow) -> None:
        self._controller = controller
        self._publisher = publisher
        self._meter = SpeedMeter()
        self._before: list[int | list[bytes | int]] | None = None
        self._on = is_there()
        self._introduced = False
        self._poll = select.poll()
        self._poll.register(STDIN, select.POLLIN)

    def tick(self) -> None:
        """Do what the keys say that were pressed since."""
        if not self._on:
            return
        self._meter.update(time.monotonic_ns(), self._publisher[Counter.EVENT_TIME_NS])
        try:
            # In the background even to ask would stop us; nobody types there anyway.
            if os.tcgetpgrp(STDIN) == os.getpgrp():
                self._hand_on_keys()
                if self._poll.poll(0):
                    self._do(os.read(STDIN, READ_BYTES))
        except (OSError, termios.error):
            self._on = False  # the terminal is gone

    def close(self) -> None:
        """Set the terminal back."""
        if self._before is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(STDIN, termios.TCSANOW, self._before)

    def _hand_on_keys(self) -> None:
        """Have each key handed on at once; a shell may have changed that while we were stopped."""
        now = termios.tcgetattr(STDIN)
        if not now[3] & (termios.ICANON | termios.ECHO):
            return
        self._before = self._before or termios.tcgetattr(STDIN)
        now[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(STDIN, termios.TCSANOW, now)
        if not self._introduced:
            self._introduced = True
            log.info("keys: %s; ? shows this again", HELP, extra=FREE)

    def _do(self, data: bytes) -> None:
        if not data:
            self._on = False  # nobody will ever type again
        speed = (self._controller.state or ReplayState()).speed
        for key in keys_of(data):
            if key == b"?":
                log.info("keys: %s", HELP, extra=FREE)
            elif (command := command_of(key, speed, self._meter.speed)) is not None:
                # Of keys that came together the second builds upon the first.
                speed = speed if command.speed is None else command.speed
                self._controller.send(command)
