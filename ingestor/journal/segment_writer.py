"""Segment files on the disk: begun, appended to, synced when they are full, then compressed.

The file is looked at before every write, and for its name ten times a second, since others remove,
rename and cut files: writing on into a descriptor whose file is gone loses what is written in
silence. What was meant for it goes into a new file that opens with the same header, so that the
checksums of its entries agree.

``python -m ingestor.journal.segment_writer PATH [CPU,...]`` compresses a segment that is done. That
is a process of its own, of the lowest priority: a thread would share the interpreter's lock with
the event loop of the feed, and the CPU that the feed may be pinned to. The result is written under
another name, synced and renamed before the original is removed, so at every moment one is whole.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import logging
import os
import stat
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import zstandard

from ingestor.journal.format import Market
from ingestor.journal.segments import COMPRESSED, LOCK, PART, is_whole, list_segments, segment_name
from ingestor.model.errors import ConfigurationError, PlaceInUseError

LEVEL: Final = 3
PIECE_BYTES: Final = 1024 * 1024
"""Read at a time; with the compressor's window of 2 MiB all that the process holds."""

LOWEST_PRIORITY: Final = 19

logger = logging.getLogger(__name__)


class FolderLock:
    """Keeps two runs from recording one feed into one folder; it ends with its process."""

    def __init__(self, directory: Path, market: Market) -> None:
        """Make the folder and take the lock.

        Raises `ConfigurationError` naming the folder, `PlaceInUseError` where another has it.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = (directory / f"{market.feed_name}{LOCK}").open("ab")
        except OSError as error:
            raise ConfigurationError(
                f"the journal folder {directory} cannot be written to: {error.strerror}"
            ) from error
        try:
            # flock, since it ends with the process however that dies; a file that exists does not.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise PlaceInUseError(
                f"the journal folder {directory} is in use: another run records "
                f"{market.feed_name} there ({error.strerror})"
            ) from error

    def release(self) -> None:
        """Let others record here."""
        self._file.close()


class Syncer:
    """Has files synced by a thread of its own, one at a time.

    A sync takes milliseconds, and the frames of those are to be written meanwhile: were the whole
    program killed then, the stream would hold what the journal does not.
    """

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self._name, self._tell = name, tell
        self._queue: SimpleQueue[int] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_busy = self._is_told = False

    def sync(self, file: FileIO) -> None:
        """Begin to sync a file, which may be closed meanwhile, unless one is being synced."""
        if self._is_busy:
            return
        if self._thread is None:
            # Daemon: as the writer's, it may hang in a system call for ever.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        with suppress(OSError):  # no descriptor is free: the next time
            descriptor = os.dup(file.fileno())
            self._is_busy = True
            self._queue.put(descriptor)

    def _run(self) -> None:
        while True:
            descriptor = self._queue.get()
            try:
                os.fdatasync(descriptor)
                self._is_told = False
            except OSError as error:
                if not self._is_told:
                    self._tell(f"it is written, but might not survive a power cut: {error}")
                self._is_told = True
            os.close(descriptor)
            self._is_busy = False


class SegmentWriter:
    """The segments of one feed in one folder. Everything here may wait for the disk.

    A file that is there is never written to again, whoever left it, so numbers only go up.
    """

    def __init__(self, directory: Path, market: Market) -> None:
        self._directory = directory
        self._market = market
        self.file: FileIO | None = None
        """The file that is written, if one is open; a pipe or a device is none to sync."""
        self._path = directory
        self._header = b""
        self._date = dt.date.min
        self._number = 0
        self._data: bytes | bytearray = b""
        self._at = 0
        self._written_bytes = 0
        self._compressor = Compressor()

    def tidy(self) -> None:
        """Take up what runs before this one left: segments not yet compressed. Raises OSError."""
        # A `.part` is of a compressor that died with its run: by the lock nobody else is here.
        for half in self._directory.glob(f"{self._market.feed_name}-*{PART}*"):
            half.unlink(missing_ok=True)
        for segment in list_segments(self._directory, self._market):
            if segment.path.exists():
                self._compressor.add(segment.path)

    def begin(self, date: dt.date, header: bytes) -> None:
        """Go on in a new segment that opens with these bytes. Raises OSError."""
        self.finish()
        if date != self._date:
            self._date, self._number = date, 0
        self._header = header
        self._open()

    def append(self, data: bytes | bytearray) -> None:
        """Write bytes to the end of the segment that was begun. Raises OSError: then `retry`."""
        if self.file is None and not self._header:
            raise FileNotFoundError(None, "no segment was begun", str(self._path))
        self._data, self._at = data, 0
        self.retry()

    def retry(self) -> None:
        """Write what is left of the bytes that were appended last. Raises OSError."""
        if self.file is None:
            # The file is lost: a new one gets the whole chunk, or it would begin inside an entry.
            self._open()
            self._at = 0
        assert self.file is not None
        with memoryview(self._data) as data:
            while self._at < len(data):
                count = self.file.write(data[self._at :])
                self._at += count
                self._written_bytes += count

    def finish(self) -> None:
        """End the segment, if there is one, and have it compressed. Raises OSError."""
        self._header = b""
        if self.file is None:
            return
        try:
            os.fsync(self.file.fileno())
        finally:
            self.close()
        self._compressor.add(self._path)

    @property
    def is_sound(self) -> bool:
        """Whether the open file has a name, be it another one, and the size that it was given."""
        if self.file is None:
            return True
        held = os.fstat(self.file.fileno())
        return not stat.S_ISREG(held.st_mode) or (
            held.st_nlink > 0 and held.st_size == self._written_bytes
        )

    def missing(self) -> str | None:
        """Look after the file; when it is not as it was left, let go of it and say what it is."""
        what = None if self.file is None else self._what_became_of(self.file)
        if what is None:
            return None
        self.close()
        if self._path.exists():
            self._compressor.add(self._path)
        return f"{self._path} {what}: the recording goes on in a new file"

    def look_after(self) -> None:
        """Let the compressing go on, and say what went wrong with it."""
        try:
            trouble = self._compressor.poll()
        except OSError as error:
            trouble = f"no segment can be compressed: {error.strerror}"
        if trouble is not None:
            logger.warning("the journal in %s: %s", self._directory, trouble)

    def close(self) -> None:
        """Close the file that is open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def stop(self) -> None:
        """Close what is open and end what is being compressed; the next run begins it anew."""
        self.close()
        self._compressor.stop()

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        segments = list_segments(self._directory, self._market)
        numbers = [segment.number for segment in segments if segment.date == self._date]
        self._number = max(self._number, *numbers, 0) + 1
        self._path = self._directory / segment_name(self._market, self._date, self._number)
        # Exclusive: never into a file that is there. Unbuffered: what was written is the kernel's.
        file = FileIO(self._path, "xb")
        try:
            _write_all(file, self._header)
            # Without this a power cut may leave data in a file that has no name.
            sync_folder(self._directory)
        except OSError:
            file.close()
            self._path.unlink(missing_ok=True)
            raise
        self.file, self._written_bytes = file, len(self._header)

    def _what_became_of(self, file: FileIO) -> str | None:
        held = os.fstat(file.fileno())
        # A pipe or a device has neither a size nor a name to lose.
        if not stat.S_ISREG(held.st_mode):
            return None
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return "was renamed" if held.st_nlink else "was removed"
        except OSError as error:
            return f"cannot be seen any more ({error.strerror})"
        if (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
            return "was replaced by another file"
        if held.st_size != self._written_bytes:
            return f"has {held.st_size} bytes, where {self._written_bytes} were written"
        return None


def _write_all(file: FileIO, data: bytes) -> None:
    # A full disk may take a part and raise nothing.
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
    # Last of all: until the new name is synced this is the only copy that survives a power cut.
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
                # -P: the working directory must not offer modules of its own.
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
    # Only what nobody else wants: the feeds of this machine come first.
    os.nice(LOWEST_PRIORITY)
    for listed in cpus:
        os.sched_setaffinity(0, map(int, listed.split(",")))
    try:
        compress(Path(path))
    except OSError as error:
        sys.exit(f"ingestor: {error}")


if __name__ == "__main__":
    main()
