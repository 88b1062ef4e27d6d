"""The one buffer a file goes through.

Bytes are read behind those not yet consumed; what is left of them moves to the front before the
next read, so a file of any size passes through the same few hundred KiB.
"""

from __future__ import annotations

from collections.abc import Generator

from ingestor.files.streams import ByteStream


class ReadBuffer:
    """At least `capacity` bytes of a stream, held in place.

    A view handed out is valid until the next `fill`.

    Attributes:
        waiting: Whether the newest `fill` was cut off because the stream has had much to do: it
            goes on with the next.
        offset: Where in the decompressed file the first byte not yet consumed lies.
    """

    def __init__(self, stream: ByteStream, capacity: int) -> None:
        self._stream = stream
        self._capacity = capacity
        self._bytes = memoryview(bytearray(capacity + stream.slack))
        self._start = 0
        self._end = 0
        self.offset = 0
        self.waiting = False

    def __len__(self) -> int:
        """Bytes held and not yet consumed."""
        return self._end - self._start

    @property
    def size(self) -> int:
        """Bytes this buffer takes in memory; never changes."""
        return len(self._bytes)

    def fill(self) -> bool:
        """Read until `capacity` bytes are held; False when the stream ends, fails or waits before.

        A stream that failed once is not read again, lest it goes on behind a hole.
        """
        self._to_front()
        self.waiting = False
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

    @property
    def failure(self) -> str | None:
        """None, or why the stream ended before its time."""
        return self._stream.failure

    def take(self, count: int) -> Generator[None, None, bytearray]:
        """Consume and return `count` bytes, fewer when the stream ends before; yield to wait."""
        taken = bytearray()
        while len(taken) < count:
            if not len(self):
                self.fill()
            piece = self.view(count - len(taken))
            taken += piece
            self.consume(len(piece))
            if self.waiting:
                yield
            elif not piece:
                break
        return taken

    def _to_front(self) -> None:
        held = len(self)
        if self._start:
            self._bytes[:held] = self._bytes[self._start : self._end]
            self._start, self._end = 0, held
