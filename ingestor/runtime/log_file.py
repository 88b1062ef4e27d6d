"""A log file that several processes append to, rotated: ``FILE``, ``FILE.1``, ``FILE.2``.

Whoever writes looks first whether the path still leads to the file that it has open, so it does not
matter which process rotated it, or whether somebody else did (logrotate). Only one rotates at a
time: it holds a lock on ``FILE.lock``; who does not get it writes on, a little beyond the bound.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ingestor.model.errors import ConfigurationError


class LogFile:
    """Appends to `path`, of which `kept` older ones stay; `write` is what `Pen` writes with."""

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
