"""Where the pieces of a zstd file begin and end (RFC 8878), without decompressing anything.

A zstd file is a sequence of frames; a frame is a header, blocks that each say their compressed
size in three bytes, and an optional checksum. The decompressor is fed one such piece at a time,
for three reasons: its library does not tell a file that ends inside a frame from one that ends
after it; after corrupt data it does not say how much of the same call was good; and a block
decompresses to at most `MAX_BLOCK_BYTES`, so the room that one piece needs is known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import SEEK_END, BufferedReader
from typing import Final

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


def is_zstd(head: bytes) -> bool:
    """Tell whether a file that opens with these (at least 4) bytes is a zstd file."""
    return head.startswith(FRAME_MAGIC) or _is_skippable(head)


class FrameWalker:
    """Hands out a zstd file piece by piece, for a decompressor to read.

    Attributes:
        opens_frame: Whether the newest piece is the header of a frame.
        position: Bytes of the file handed out or skipped so far.
        piece_start: Where in the file the newest piece begins.
        failure: None, or what is wrong with the frames, so that the file cannot go on.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._pieces = self._walk()
        self.position = 0
        self.piece_start = 0
        self.opens_frame = False
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
        header = head + self._take(_more_header_bytes(descriptor))
        if self.failure is None and (window := _window_bytes(header)) > MAX_WINDOW_BYTES:
            self.failure = (
                f"holds a zstd frame at byte {self.piece_start} of the file that needs a window of "
                f"{_mib(window)}; allowed are {_mib(MAX_WINDOW_BYTES)}"
            )
            return
        self.opens_frame = True
        yield header
        self.opens_frame = last = False
        while not last and self.failure is None:
            self.piece_start = self.position
            header = self._take(_BLOCK_HEADER_BYTES)
            last, size = _block_header(header)
            yield header + self._take(size)
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
        self._file.seek(max(wanted - 1, self.position))
        if wanted > self.position and not self._file.read(1):
            self.position = self._file.seek(0, SEEK_END)
            self._take(1)
        else:
            self.position = wanted
        return b""


def _is_skippable(head: bytes) -> bool:
    return head[1:4] == _SKIPPABLE_MAGIC and head[0] >> 4 == 5


def _more_header_bytes(descriptor: int) -> int:
    single_segment = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
    return (1 - single_segment) + _DICTIONARY_ID_BYTES[descriptor & 3] + content_size


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


def _block_header(header: bytes) -> tuple[bool, int]:
    value = int.from_bytes(header, "little")
    return bool(value & 1), 1 if value >> 1 & 3 == _RLE_BLOCK else value >> 3
