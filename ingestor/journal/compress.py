"""Compressing a segment: ``python -m ingestor.journal.compress PATH [CPU,...]``.

It is a process of its own, of the lowest priority: a thread would share the interpreter's lock with
the event loop of the feed, and the CPU that the feed may be pinned to. The result is written under
another name, synced and renamed before the original is removed, so at every moment one is whole.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import zstandard

from ingestor.journal.segments import COMPRESSED, PART, is_whole

LEVEL: Final = 3
PIECE_BYTES: Final = 1024 * 1024
"""Read at a time; with the compressor's window of 2 MiB all that the process holds."""

LOWEST_PRIORITY: Final = 19


def compress(path: Path) -> Path:
    """Replace a file by its compressed form and return that. Raises OSError.

    Where a whole compressed form is there, the file is only removed when it says nothing else.
    """
    done = path.with_name(path.name + COMPRESSED)
    if is_whole(done):
        if not _begins_with(done, path):
            raise FileExistsError(
                f"{path} and {done} are both there and differ: neither is touched"
            )
        path.unlink()
        return done
    part = path.with_name(f"{done.name}{PART}{os.getpid()}")
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    try:
        with path.open("rb") as source, part.open("wb") as target:
            compressor.copy_stream(source, target, read_size=PIECE_BYTES, write_size=PIECE_BYTES)
            target.flush()
            os.fsync(target.fileno())
        part.replace(done)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)
    path.unlink(missing_ok=True)
    return done


def _begins_with(compressed: Path, path: Path) -> bool:
    """Whether a file's bytes are what a compressed one begins with."""
    with (
        suppress(zstandard.ZstdError),
        path.open("rb") as plain,
        compressed.open("rb") as source,
        zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True) as reader,
    ):
        while piece := plain.read(PIECE_BYTES):
            if reader.read(len(piece)) != piece:
                return False
        return True
    return False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Compressor:
    """Compresses files one after the other, each in a process of its own; never waits for one.

    The processes run on the CPUs that this one may use when the object is made: before it is
    pinned to those of a feed.
    """

    def __init__(self) -> None:
        self._cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self._waiting: deque[Path] = deque()
        self._running: subprocess.Popen[bytes] | None = None
        self._path: Path | None = None

    def add(self, path: Path) -> None:
        """Put a file in the queue."""
        self._waiting.append(path)

    def poll(self) -> str | None:
        """Start the next when none is running; return what went wrong with the last, if so.

        Raises OSError when no process can be started.
        """
        if self._running is not None:
            code = self._running.poll()
            if code is None:
                return None
            self._running = None
            if code:
                return f"{self._path} was not compressed: its process ended with code {code}"
        if self._waiting:
            self._path = self._waiting.popleft()
            self._running = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(self._path), self._cpus],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return None

    def stop(self) -> None:
        """End what is running; the next recorder begins it anew."""
        self._waiting.clear()
        if self._running is not None:
            self._running.terminate()
            self._running.wait()
            self._running = None


def main() -> None:
    """Compress the file named by the first argument, on the CPUs that the second lists."""
    path, *cpus = sys.argv[1:]
    os.nice(LOWEST_PRIORITY)
    for listed in cpus:
        os.sched_setaffinity(0, map(int, listed.split(",")))
    try:
        compress(Path(path))
    except OSError as error:
        sys.exit(f"ingestor: {error}")


if __name__ == "__main__":
    main()
