"""Writing where somebody may have stopped reading: never waited for, bounded, losses counted.

Theory. A pipe that is full, a terminal after Ctrl-S and a socket whose peer sleeps stop whoever
writes to them. Setting O_NONBLOCK on a standard stream would set it for everybody who has it, the
shell included; so pipe and terminal are opened anew (the flag belongs to what is opened), a socket
is asked not to wait message by message, and a file never makes anybody wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_HELD_BYTES: Final = 256 * 1024
"""What one process keeps for a reader that stands still; beyond that lines are lost and counted."""

PIECE_BYTES: Final = 4096
"""PIPE_BUF: a piece of this size goes into a pipe as a whole or not at all."""

_REPORT_S: Final = 3.0
"""How long a report waits for its reader."""

Write = Callable[[bytes], int]
"""Writes some of it without waiting, and returns how much. Raises BlockingIOError, OSError."""


class Pen:
    """Lines for one descriptor, kept in order while nobody reads them."""

    def __init__(self, fd: int, *, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._fd = fd
        self._write = _unwaiting(fd)
        self._max_held_bytes = max_held_bytes
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self.lost = 0
        """Lines that were given up since they were last told of."""

    def put(self, line: bytes) -> bool:
        """Write a line, or keep it for later; False when it is lost."""
        if self._held_bytes + len(line) > self._max_held_bytes:
            self.lost += 1
            return False
        self._held.append(line)
        self._held_bytes += len(line)
        self.drain()
        return True

    def drain(self) -> bool:
        """Write what is kept, as far as that goes at once; whether nothing is kept any more."""
        while self._held:
            line = self._held[0]
            try:
                done = self._write(line[:PIECE_BYTES])
            except BlockingIOError:
                return False
            except OSError:
                # The reader is gone or the disk is full: that may change, the line is lost.
                done = len(line)
                self.lost += 1
            self._held_bytes -= done
            if done < len(line):
                self._held[0] = line[done:]
            else:
                self._held.popleft()
        return True

    def drain_within(self, timeout_s: float) -> bool:
        """Write what is kept in bounded time; whether nothing is kept any more."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not self.drain():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if poll.poll(left_s * 1000):
                time.sleep(0.001)  # ready as a pipe with less room than this piece is
        return True


def say(text: str, fd: int = 1, timeout_s: float = _REPORT_S) -> bool:
    """Write a text in bounded time; whether all of it was taken."""
    pen = Pen(fd, max_held_bytes=len(text) * 4 + 1)
    pen.put(f"{text}\n".encode(errors="backslashreplace"))
    return pen.drain_within(timeout_s) and not pen.lost


def _unwaiting(fd: int) -> Write:
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        own = socket.socket(fileno=os.dup(fd))
        return lambda data: own.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        # Not where a terminal is somebody else's (su), or where the pipe has no reader any more.
        with contextlib.suppress(OSError):
            again = os.open(f"/proc/self/fd/{fd}", flags)
            return lambda data: os.write(again, data)
        return lambda data: _write_if_ready(fd, data)
    return lambda data: os.write(fd, data)


def _write_if_ready(fd: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data)
