r"""Logging of one process: lines on standard error, with the process's name in each.

Standard output is kept for results. Every process of a run configures logging for itself, since
handlers do not survive into a child in a defined state.

Whatever is logged, a line is one line: control characters are shown as escapes, what is long is
cut, a registered secret is shown as ``***``, and of lines that repeat themselves (one place in the
program, many times) only so many are told in a while, the others counted. Nobody waits for whoever
reads them (see `output`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import mmap
import os
import select
import socket
import stat
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from ingestor.model.bounds import MAX_LINE_CHARS, printable
from ingestor.model.errors import ConfigurationError

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

    def __init__(
        self, fd: int, *, max_held_bytes: int = MAX_HELD_BYTES, write: Write | None = None
    ) -> None:
        self._fd = fd
        self._write = write or _unwaiting(fd)
        self._max_held_bytes = max_held_bytes
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self.lost = 0
        """Lines that were given up since they were last told of."""

    def put(self, line: bytes) -> bool:
        """Write a line, or keep it for later; False when it is lost."""
        # The newest goes: what led to the trouble was said first.
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
        # A flag of the call, since O_NONBLOCK would hold for whoever else has the socket.
        own = socket.socket(fileno=os.dup(fd))
        return lambda data: own.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        # Opened anew: O_NONBLOCK belongs to the open file, which a shell and other processes share.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        # Not where a terminal is somebody else's (su), or where the pipe has no reader any more.
        with contextlib.suppress(OSError):
            again = os.open(f"/proc/self/fd/{fd}", flags)
            return lambda data: os.write(again, data)
        return lambda data: _write_if_ready(fd, data)
    # A file on a disk never says that it would block.
    return lambda data: os.write(fd, data)


def _write_if_ready(fd: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        # As the kernel would say it of a descriptor that does not wait.
        raise BlockingIOError
    return os.write(fd, data)


MAX_REPEATS: Final = 20
"""Lines of one place in the program that are told within `REPEAT_WINDOW_S`."""
REPEAT_WINDOW_S: Final = 10.0
MAX_PLACES: Final = 1_000
"""Places whose lines are counted at a time."""
MAX_TRACEBACK_LINES: Final = 100
MIN_SECRET_CHARS: Final = 4
"""A shorter secret would be found in every other word, and is no secret."""

FREE: Final = {"free": True}
"""``extra`` of a line that comes at a pace of its own, and is never left out."""

STDERR: Final = 2

ERASE: Final = "\r\x1b[J"
"""Clears the line of progress that a terminal may show, which the supervisor draws again.

Everything from the cursor on: a terminal that was made narrower shows the line as several, and the
cursor, which stands before its first character, moves with that.
"""

_CLOSE_S: Final = 0.5
_LOST: Final = "%d lines of this log were lost: nobody read them, or they could not be written"

Place = tuple[str, int, str]
"""Logger, level and message before its arguments."""


_secrets: Final[set[str]] = set()
"""What no line shows; children have those that are known when they start."""


def hide(*secrets: str | None) -> None:
    """Never show these, whoever says them."""
    for secret in secrets:
        if secret and len(secret) >= MIN_SECRET_CHARS:
            # As it is written in a URL as well, by either rule.
            _secrets.update((secret, quote(secret), quote(secret, safe="")))


def plain(text: str, limit: int = MAX_LINE_CHARS) -> str:
    """Return foreign text as it may be shown: one line, cut, without secrets."""
    # Cut before it is searched, so that a message of megabytes costs little.
    text = text[: 4 * limit]
    # The longest first: one may be a part of another.
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return printable(text, limit)


@dataclass(slots=True)
class _Spell:
    """What one place has said since a moment."""

    since_s: float
    told: int = 0
    left_out: int = 0


class Repeats:
    """Which lines of a place are told. No clock is read here: seconds are handed in."""

    def __init__(self, most: int = MAX_REPEATS, window_s: float = REPEAT_WINDOW_S) -> None:
        self._most = most
        self._window_s = window_s
        self._spells: dict[Place, _Spell] = {}

    def told(self, place: Place, now_s: float) -> bool:
        """Count a line; return whether to write it."""
        spell = self._spells.get(place)
        if spell is None:
            # Bounded by telling more, not less: a line of a new place may be the one that matters.
            if len(self._spells) >= MAX_PLACES:
                return True
            spell = self._spells[place] = _Spell(now_s)
        if spell.told >= self._most:
            spell.left_out += 1
            return False
        spell.told += 1
        return True

    def ended(self, now_s: float) -> Iterator[tuple[Place, int]]:
        """Forget the spells that are over; yield the places that left out lines, and how many."""
        over = [p for p, spell in self._spells.items() if now_s - spell.since_s >= self._window_s]
        for place in over:
            left_out = self._spells.pop(place).left_out
            if left_out:
                yield place, left_out


class _Handler(logging.Handler):
    """Makes lines of records, and writes them without waiting."""

    def __init__(self, label: str, pen: Pen, before: str, form: Form) -> None:
        super().__init__()
        self._label = label
        self._form = form
        self._pid = os.getpid()
        self._pen = pen
        self._before = before
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        place = record.name, record.levelno, str(record.msg)
        if not getattr(record, "free", False) and not self._repeats.told(place, time.monotonic()):
            return
        # What was left out before this line belongs before it.
        self.drain()
        try:
            message = record.getMessage()
        except (TypeError, ValueError) as error:
            message = f"{record.msg!r} cannot be told with its arguments: {error}"
        trace = _traceback(record) if record.exc_info else []
        message = message.removeprefix(f"{self._label}: ")
        self._write(record.levelno, message, record.created, trace)

    def drain(self) -> None:
        """Write what waits, and tell what was left out or lost meanwhile."""
        if not self._pen.drain():
            return
        lost, self._pen.lost = self._pen.lost, 0
        if lost and not self._write(logging.WARNING, _LOST % lost, time.time()):
            self._pen.lost = lost
        for (_, level, message), count in self._repeats.ended(time.monotonic()):
            self._write(level, f"and {count} more lines like {message!r}", time.time())

    def close(self) -> None:
        """Write what waits, in bounded time; what a parent has not written is the parent's."""
        # After a fork the child has a copy of what waits: written twice it would be a lie.
        if self._pid == os.getpid():
            self._pen.drain_within(_CLOSE_S)
            self.drain()
        super().close()

    def _write(self, level: int, message: str, at_s: float, trace: Sequence[str] = ()) -> bool:
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at_s))}.{int(at_s % 1 * 1000):03d}Z"
        name = logging.getLevelName(level)
        lost = self._pen.lost
        if self._form == "json":
            values = {"time": at, "level": name, "process": self._label, "message": plain(message)}
            more = {"traceback": [plain(line) for line in trace]} if trace else {}
            self._pen.put(f"{self._before}{json.dumps(values | more)}\n".encode())
        else:
            for line in (message, *(f"  {one}" for one in trace)):
                text = f"{self._before}{at} {name:<7} {self._label}: {plain(line)}\n"
                self._pen.put(text.encode(errors="backslashreplace"))
        return self._pen.lost == lost


def _traceback(record: logging.LogRecord) -> list[str]:
    assert record.exc_info
    text = "".join(traceback.format_exception(*record.exc_info))
    lines = text.splitlines()
    if len(lines) > MAX_TRACEBACK_LINES:
        half = MAX_TRACEBACK_LINES // 2
        # The ends of an endless recursion tell where it began and what it ran into.
        lines = [*lines[:half], "...", *lines[-half:]]
    return lines


Form = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Target:
    """How lines are written, and where: `file` is appended to and rotated; None: standard error."""

    form: Form = "text"
    file: Path | None = None
    file_bytes: int = 16 * 1024 * 1024
    files_kept: int = 5


class _State:
    """Where this process's lines go, and those of the processes that it forks."""

    target = Target()
    level: Final = mmap.mmap(-1, 1)
    """Shared by a process and those that it forks: what `set_level` has told, 0 until then."""


def configure(label: str, level: str, target: Target | None = None) -> None:
    """Send this process's log to a target, by default to that of the process that forked it.

    `level` is a name such as ``INFO``. Raises ConfigurationError for a file that cannot be opened.
    """
    _State.target = target = target or _State.target
    before = ""
    if target.file is None:
        pen = Pen(STDERR)
        # Lines of a program that reads them are whole; only people have a line of progress.
        before = ERASE if os.isatty(STDERR) and target.form == "text" else ""
    else:
        file = LogFile(target.file, target.file_bytes, target.files_kept)
        pen = Pen(file.fd, write=file.write)
    handler = _Handler(label, pen, before, target.form)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _heed_level()
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("websockets").setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Have this process and those that it has forked, or will, tell what `level` says."""
    _State.level[0] = logging.getLevelNamesMapping()[level.upper()]
    _heed_level()


def _heed_level() -> None:
    level, root = _State.level[0], logging.getLogger()
    # A change empties the caches of all loggers: only where there is one.
    if level and level != root.level:
        root.setLevel(level)


def complain(prog: str, sentence: object) -> None:
    """Say on standard error what is wrong, whole and safe to show, in bounded time."""
    close()
    lines = str(sentence).splitlines() or [""]
    say("\n".join([plain(f"{prog}: {lines[0]}"), *map(plain, lines[1:])]), STDERR, _CLOSE_S)


def close() -> None:
    """Write what waits, in bounded time: the last act of a process that logs."""
    for handler in logging.getLogger().handlers:
        handler.close()


def drain() -> None:
    """Write what waits since nobody read it, and heed `set_level`; to be called now and then."""
    _heed_level()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.drain()


class LogFile:
    """Appends to `path` and rotates it: ``FILE``, ``FILE.1`` to ``FILE.kept``.

    Several processes append. Each looks before it writes whether the path still leads to the file
    that it has open, so it does not matter which process rotated it, or whether logrotate did. One
    rotates at a time: it holds a lock on ``FILE.lock``; who does not get it writes on, a little
    beyond the bound. `write` is what `Pen` writes with.
    """

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        """Raises ConfigurationError when it cannot be opened."""
        self._path = path.absolute()
        self._max_bytes = max_bytes
        self._kept = kept
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = self._open()
        except OSError as error:
            raise ConfigurationError(
                f"log.file = {path} cannot be written: {error.strerror}"
            ) from error

    @property
    def fd(self) -> int:
        """The descriptor that is written to now."""
        return self._fd

    def write(self, data: bytes) -> int:
        """Append, after a rotation if it is time for one; return how much. Raises OSError."""
        status = os.fstat(self._fd)
        if status.st_size >= self._max_bytes:
            self._rotate()
        try:
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (status.st_ino, status.st_dev):
            os.close(self._fd)
            self._fd = self._open()
        return os.write(self._fd, data)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _rotate(self) -> None:
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have been faster, and what lies there is new.
            if self._path.stat().st_size >= self._max_bytes:
                self._shift()
        except (BlockingIOError, FileNotFoundError):
            return
        finally:
            os.close(lock)

    def _shift(self) -> None:
        for number in range(self._kept, 0, -1):
            older = self._path if number == 1 else Path(f"{self._path}.{number - 1}")
            if older.exists():
                older.replace(f"{self._path}.{number}")
        if not self._kept:
            self._path.unlink()
