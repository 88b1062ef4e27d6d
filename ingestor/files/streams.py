"""A file's decompressed bytes, as a stream that does not raise: why it ended is a value.

What a broken file still holds is to be delivered first. So a stream hands out all that can be
read, and only then says in `failure` what is wrong, in words that follow the file's path.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, Final, Protocol

import zstandard

from ingestor.files.zstd import MAX_BLOCK_BYTES, MAX_WINDOW_BYTES, FrameWalker, is_zstd
from ingestor.model.errors import BadDataError, NoDataError

READ_BYTES: Final = 1024 * 1024
"""How much of a compressed file is read at a time; about 15 MB of depth records."""

PIECES_AT_ONCE: Final = 4096
"""After so many pieces of a zstd file without content the caller may give a sign of life."""

_MAGIC_BYTES: Final = 4
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ByteStream(Protocol):
    """Decompressed bytes, read front to back.

    Attributes:
        slack: Room that `read_some` needs, whatever is wanted; 0 where any will do.
        position: Bytes of the file on disk consumed so far, for a progress bar.
        failure: None, or why the stream ended before its time.
    """

    slack: int
    failure: str | None

    @property
    def position(self) -> int:
        """See the class."""
        ...

    def read_some(self, room: memoryview) -> int | None:
        """Put bytes at the front of `room`; return how many, 0 at the end or at a failure.

        None means that much has been read and there is nothing to show for it yet: ask again.
        """
        ...


@contextmanager
def open_stream(path: Path) -> Iterator[ByteStream]:
    """Open a file as a stream, zstd or plain by its first bytes, and close it in the end.

    Raises `NoDataError` when it cannot be opened, `BadDataError` when nothing of it can be read.
    """
    try:
        file = FileIO(_opened(path))
    except OSError as error:
        raise NoDataError(f"{path} cannot be opened: {error.strerror}") from error
    with file:
        try:
            stream = stream_of(file)
        except OSError as error:
            raise BadDataError(f"{path} {_unreadable(0, error)}") from error
        yield stream


def stream_of(file: FileIO | BytesIO) -> ByteStream:
    """Read what is open at its front, or held in memory. Raises `OSError` when it cannot be."""
    head = file.read(_MAGIC_BYTES)
    file.seek(0)
    return _Compressed(file) if is_zstd(head) else _Plain(file)


def _opened(path: Path) -> int:
    """Open a regular file; a pipe without a writer would keep us waiting for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    kind = next((text for is_kind, text in _KINDS if is_kind(mode)), "no file")
    raise NoDataError(f"{path} is {kind}; only files can be read")


class _Plain:
    """An uncompressed file, read straight into the caller's buffer."""

    slack = 0

    def __init__(self, file: FileIO | BytesIO) -> None:
        self._file = file
        self.position = 0
        self.failure: str | None = None

    def read_some(self, room: memoryview) -> int | None:
        try:
            count = self._file.readinto(room)
        except OSError as error:
            self.failure = _unreadable(self.position, error)
            return 0
        self.position += count
        return count


class _Compressed:
    """A zstd file of any number of frames, decompressed one zstd block a call."""

    slack = MAX_BLOCK_BYTES

    def __init__(self, file: FileIO | BytesIO) -> None:
        self._walker = FrameWalker(BufferedReader(file, READ_BYTES))
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._frame: Any = None
        self.failure: str | None = None

    @property
    def position(self) -> int:
        return self._walker.position

    def read_some(self, room: memoryview) -> int | None:
        try:
            for _ in range(PIECES_AT_ONCE):
                piece = self._walker.read()
                if piece is None:
                    self.failure = self._walker.failure
                    return 0
                if content := self._decompressed(piece):
                    room[: len(content)] = content
                    return len(content)
        except zstandard.ZstdError as error:
            start = self._walker.piece_start
            self.failure = f"holds corrupt zstd data at byte {start} of the file ({error})"
        except OSError as error:
            self.failure = _unreadable(self.position, error)
        return 0 if self.failure else None

    def _decompressed(self, piece: bytes) -> bytes:
        if not piece:
            return piece
        if self._walker.opens_frame:
            self._frame = self._decompressor.decompressobj()
        content: bytes = self._frame.decompress(piece)
        return content


def _unreadable(position: int, error: OSError) -> str:
    return f"cannot be read at byte {position} of the file: {error.strerror}"
