"""Segment files on the disk: a new one for every beginning, appended to, synced when it is full."""

from __future__ import annotations

import datetime as dt
import fcntl
import logging
import os
from io import FileIO
from pathlib import Path

from ingestor.errors import ConfigurationError
from ingestor.feeds.polygon.journal.compress import Compressor, sync_folder
from ingestor.feeds.polygon.journal.format import Market
from ingestor.feeds.polygon.journal.segments import PART, list_segments, segment_name

logger = logging.getLogger(__name__)


class FolderLock:
    """Keeps two runs from recording one feed into one folder; it ends with its process."""

    def __init__(self, directory: Path, market: Market) -> None:
        """Make the folder and take the lock. Raises `ConfigurationError` naming the folder."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = (directory / f"{market.feed_name}.lock").open("ab")
        except OSError as error:
            raise ConfigurationError(
                f"the journal folder {directory} cannot be written to: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigurationError(
                f"the journal folder {directory} is in use: another run records "
                f"{market.feed_name} there ({error.strerror})"
            ) from error

    def release(self) -> None:
        """Let others record here."""
        self._file.close()


class Disk:
    """The segments of one feed in one folder. Everything here may wait for the disk.

    A file that is there is never written to again, whoever left it, so numbers only go up.
    """

    def __init__(self, directory: Path, market: Market) -> None:
        self._directory = directory
        self._market = market
        self._file: FileIO | None = None
        self._path = directory
        self._compressor = Compressor()

    def tidy(self) -> None:
        """Take up what runs before this one left: segments not yet compressed. Raises OSError."""
        for half in self._directory.glob(f"{self._market.feed_name}-*{PART}*"):
            half.unlink(missing_ok=True)
        for segment in list_segments(self._directory, self._market):
            if segment.path.exists():
                self._compressor.add(segment.path)

    def begin(self, date: dt.date, header: bytes) -> None:
        """Go on in a new segment that opens with these bytes. Raises OSError."""
        self.finish()
        segments = list_segments(self._directory, self._market)
        numbers = [segment.number for segment in segments if segment.date == date]
        name = segment_name(self._market, date, max(numbers, default=0) + 1)
        self._path = self._directory / name
        self._file = FileIO(self._path, "xb")
        sync_folder(self._directory)
        self.append(header)

    def append(self, data: bytes | bytearray) -> None:
        """Write bytes to the end of the segment that was begun. Raises OSError."""
        if self._file is None:
            raise FileNotFoundError(None, "no segment was begun", str(self._path))
        with memoryview(data) as left:
            at = 0
            while at < len(left):
                at += self._file.write(left[at:])

    def finish(self) -> None:
        """End the segment, if there is one, and have it compressed. Raises OSError."""
        if self._file is None:
            return
        os.fsync(self._file.fileno())
        self.close()
        self._compressor.add(self._path)

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
        if self._file is not None:
            self._file.close()
            self._file = None

    def stop(self) -> None:
        """Close what is open and end what is being compressed; the next run begins it anew."""
        self.close()
        self._compressor.stop()
