"""A file's bytes, zstd or plain, as a stream that does not raise: why it ended is a value.

What a broken file still holds is delivered first. So a stream hands out all that can be
read, and only then says in `failure` what is wrong, in words that follow the file's path.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import SEEK_END, BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import IO, Final, Protocol, cast

import zstandard

from ingestor.model.errors import BadDataError, NoDataError

READ_BYTES: Final = 1024 * 1024
"""How much of a compressed file is read at a time; about 15 MB of depth records."""

PIECES_AT_ONCE: Final = 4096
"""Pieces of a zstd file without content that are read before the caller gives a sign of life."""

FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
MAX_BLOCK_BYTES: Final = 128 * 1024
"""What one block can decompress to (RFC 8878, Block_Maximum_Size)."""

MAX_WINDOW_BYTES: Final = 128 * 1024 * 1024
"""How far back a frame may refer, which is held in memory; zstd's own default (``--long=27``)."""

MAX_PIECE_BYTES: Final = 3 + (1 << 21)
"""The longest piece: a block header and the largest size that its 21 bits can say."""

_SKIPPABLE_MAGIC: Final = b"\x2a\x4d\x18"
_HEADER_BYTES: Final = 5
_SKIPPABLE_HEADER_BYTES: Final = 8
_BLOCK_HEADER_BYTES: Final = 3
_CHECKSUM_BYTES: Final = 4
_RLE_BLOCK: Final = 1
_DICTIONARY_ID_BYTES: Final = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES: Final = (0, 2, 4, 8)

_MAGIC_BYTES: Final = 4
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Searchable(Protocol):
    """Bytes of which any can be looked at.

    Attributes:
        size: How many there are.
    """

    size: int

    def peek(self, offset: int, size: int) -> bytes:
        """Return the bytes there, fewer at the end or where they cannot be read; moves nothing."""

    def jump(self, offset: int) -> None:
        """Go on reading there."""


class ByteStream(Protocol):
    """Decompressed bytes, read front to back.

    Attributes:
        slack: Smallest room that `read_some` accepts; 0 if any will do.
        position: Bytes of the file on disk consumed so far, for a progress bar.
        failure: None, or why the stream ended before its time.
        searchable: The stream as one that need not be read front to back; None where it must be.
    """

    slack: int
    failure: str | None
    searchable: Searchable | None

    @property
    def position(self) -> int:
        """See the class."""

    def read_some(self, room: memoryview) -> int | None:
        """Put bytes at the front of `room`; return how many, 0 at the end or at a failure.

        None means that much has been read and there is nothing to show for it yet: ask again.
        """


class ReadBuffer:
    """At least `capacity` bytes of a stream, held in place.

    A view handed out is valid until the next `fill`.

    Attributes:
        waiting: Whether the newest `fill` returned early during a long decompression; the next
            call continues.
        offset: Where in the decompressed file the first byte not yet consumed lies.
    """

    def __init__(self, stream: ByteStream, capacity: int) -> None:
        self._stream = stream
        self._capacity = capacity
        # The slack lies behind the capacity: a zstd block is decompressed whole or not at all.
        self._bytes = memoryview(bytearray(capacity + stream.slack))
        self._start = 0
        self._end = 0
        self.offset = 0
        self.waiting = False

    def __len__(self) -> int:
        """Bytes held and not yet consumed."""
        return self._end - self._start

    def fill(self) -> bool:
        """Read until `capacity` bytes are held; False when the stream ends, fails or waits before.

        A stream that failed once is not read again, so that data never continues after a hole.
        """
        held = len(self)
        # At most one record is left over where blocks are read, so this moves some hundred bytes.
        if self._start:
            self._bytes[:held] = self._bytes[self._start : self._end]
            self._start, self._end = 0, held
        self.waiting = False
        # A whole buffer a call: whatever comes after this costs its Python once a block.
        while self._end < self._capacity and self._stream.failure is None:
            count = self._stream.read_some(self._bytes[self._end :])
            self.waiting = count is None
            if not count:
                return False
            self._end += count
        return self._end >= self._capacity

    def view(self, limit: int) -> memoryview:
        """Return the bytes held, at most `limit` of them."""
        return self._bytes[self._start : min(self._end, self._start + limit)]

    def consume(self, count: int) -> None:
        """Let go of bytes at the front."""
        self._start += count
        self.offset += count

    def drop(self, offset: int) -> None:
        """Let go of all bytes held: the stream goes on at another offset."""
        self._start = self._end = 0
        self.offset = offset

    def read_to(self, content: bytearray, size: int) -> Generator[None, None, None]:
        """Consume bytes to the end of `content` until it has `size`; yield to wait.

        It stays shorter when the stream ends before.
        """
        while len(content) < size:
            if not len(self):
                self.fill()
            piece = self.view(size - len(content))
            content += piece
            self.consume(len(piece))
            if self.waiting:
                yield
            elif not piece:
                break


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
    # The four bytes are read again: zstd or plain, its reader begins at the front.
    file.seek(0)
    # By content: files of both kinds are found under either name.
    return _Compressed(file) if is_zstd(head) else _Plain(file)


def _opened(path: Path) -> int:
    """Open a regular file; a pipe without a writer would keep us waiting for ever."""
    # O_NONBLOCK: a pipe that nobody writes to would hold us in `open`.
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
        self.size = file.seek(0, SEEK_END)
        file.seek(0)
        self.searchable: Searchable | None = self

    def peek(self, offset: int, size: int) -> bytes:
        try:
            self._file.seek(offset)
            return self._file.read(size)
        except OSError:
            # What is really wrong there the reading will tell.
            return b""
        finally:
            self._file.seek(self.position)

    def jump(self, offset: int) -> None:
        self.position = self._file.seek(offset)

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
        self._source = _Pieces(FrameWalker(BufferedReader(file, READ_BYTES)))
        # It decompresses straight into the caller's buffer. The bytes that `decompressobj` makes of
        # every block, and the copy of them, cost a tenth more: 282 ns a depth record, not 252.
        self._reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
            cast("IO[bytes]", self._source), read_across_frames=True
        )
        self.failure: str | None = None
        self.searchable: Searchable | None = None

    @property
    def position(self) -> int:
        return self._source.walker.position

    def read_some(self, room: memoryview) -> int | None:
        walker = self._source.walker
        self._source.left = PIECES_AT_ONCE
        try:
            count = self._reader.readinto1(room)
        except _NothingYet:
            return None
        # What the blocks before gave has been returned; of this one nothing is.
        except zstandard.ZstdError as error:
            start = walker.piece_start
            self.failure = f"holds corrupt zstd data at byte {start} of the file ({error})"
        except OSError as error:
            self.failure = _unreadable(self.position, error)
        else:
            self.failure = None if count else walker.failure
            return count
        return 0


class _Pieces:
    """The file that the decompressor reads: one piece a call, `left` pieces until it must wait."""

    def __init__(self, walker: FrameWalker) -> None:
        self.walker = walker
        self.left = 0

    def read(self, _size: int) -> bytes:
        while self.left:
            self.left -= 1
            piece = self.walker.read()
            if piece != b"":
                return piece or b""
        # Empty bytes would end the file for good; only an exception comes back through the library,
        # which goes on where it was.
        raise _NothingYet


class _NothingYet(Exception):  # noqa: N818 (a signal through foreign code, not an error)
    """`PIECES_AT_ONCE` pieces have been read, and none had content."""


class FrameWalker:
    """Hands out a zstd file piece by piece, without decompressing anything (RFC 8878).

    A zstd file is a sequence of frames; a frame is a header, blocks that each say their compressed
    size in three bytes, and an optional checksum. The decompressor is fed one such piece at a time,
    for three reasons: its library does not tell a file that ends inside a frame from one that ends
    after it; after corrupt data it does not say how much of the same call was good; and a block
    decompresses to at most `MAX_BLOCK_BYTES`, so the room that one piece needs is known beforehand.

    Attributes:
        position: Bytes of the file handed out or skipped so far.
        piece_start: Where in the file the newest piece begins.
        failure: None, or what is wrong with the frames, so that the file cannot go on.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._pieces = self._walk()
        self.position = 0
        self.piece_start = 0
        self.failure: str | None = None

    def read(self) -> bytes | None:
        """Return the next piece; empty where a frame was skipped; None at the end or at a failure.

        Of a piece that is cut short, what is there is returned.
        """
        return next(self._pieces, None)

    def _walk(self) -> Iterator[bytes]:
        while self.failure is None and (head := self._next_header()):
            if head.startswith(FRAME_MAGIC[: len(head)]):
                yield from self._frame(head)
            elif _is_skippable(head):
                yield self._skip(head)
            else:
                self.failure = f"holds no zstd frame at byte {self.piece_start} of the file"

    def _next_header(self) -> bytes:
        self.piece_start = self.position
        head = self._file.read(_HEADER_BYTES)
        self.position += len(head)
        return head

    def _frame(self, head: bytes) -> Iterator[bytes]:
        descriptor = head[-1]
        single_segment = descriptor >> 5 & 1
        # A frame of a single segment has no window byte, and always says how long its content is.
        content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
        more = (1 - single_segment) + _DICTIONARY_ID_BYTES[descriptor & 3] + content_size
        header = head + self._take(more)
        # The library would refuse as well, but not say how much is wanted.
        if self.failure is None and (window := _window_bytes(header)) > MAX_WINDOW_BYTES:
            self.failure = (
                f"holds a zstd frame at byte {self.piece_start} of the file that needs a window of "
                f"{_mib(window)}; allowed are {_mib(MAX_WINDOW_BYTES)}"
            )
            return
        yield header
        last = False
        while not last and self.failure is None:
            self.piece_start = self.position
            header = self._take(_BLOCK_HEADER_BYTES)
            value = int.from_bytes(header, "little")
            last, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
            # A run-length block stands as one byte, whatever size it says: that is of its content.
            yield header + self._take(1 if kind == _RLE_BLOCK else size)
        # The checksum: a piece of its own, so that a cut before it is told from a whole frame.
        if descriptor >> 2 & 1 and self.failure is None:
            self.piece_start = self.position
            yield self._take(_CHECKSUM_BYTES)

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        self.position += len(data)
        if len(data) < count:
            self.failure = f"ends inside a zstd frame at byte {self.position} of the file"
        return data

    def _skip(self, head: bytes) -> bytes:
        head += self._take(_SKIPPABLE_HEADER_BYTES - len(head))
        wanted = self.position + int.from_bytes(head[4:], "little")
        # Seeking to an absolute place keeps what is buffered; asking for the end does not.
        # A skippable frame may claim 4 GiB: one byte is read of it, its last.
        self._file.seek(max(wanted - 1, self.position))
        if wanted > self.position and not self._file.read(1):
            self.position = self._file.seek(0, SEEK_END)
            self._take(1)
        else:
            self.position = wanted
        return b""


def is_zstd(head: bytes) -> bool:
    """Tell whether a file that opens with these (at least 4) bytes is a zstd file."""
    return head.startswith(FRAME_MAGIC) or _is_skippable(head)


def _unreadable(position: int, error: OSError) -> str:
    return f"cannot be read at byte {position} of the file: {error.strerror}"


def _is_skippable(head: bytes) -> bool:
    return head[1:4] == _SKIPPABLE_MAGIC and head[0] >> 4 == 5


def _window_bytes(header: bytes) -> int:
    """Return how much of the content the decompressor must hold (RFC 8878, 3.1.1.1)."""
    descriptor = header[_HEADER_BYTES - 1]
    if not descriptor >> 5 & 1:
        exponent, mantissa = divmod(header[_HEADER_BYTES], 8)
        return (8 + mantissa) << (7 + exponent)
    size_bytes = _CONTENT_SIZE_BYTES[descriptor >> 6] or 1
    return int.from_bytes(header[len(header) - size_bytes :], "little")


def _mib(size: int) -> str:
    return f"{size / 2**20:g} MiB"
