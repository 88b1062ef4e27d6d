"""One ring: a feed process puts messages in, the publisher process takes them out.

The ring is a faster-fifo queue that moves bytes as they are. Its lock is not robust: a process
killed inside `put` or `take` leaves it held, and the other side then waits inside the lock without
a timeout. Nobody here can notice that; the supervisor does, by heartbeats.
"""

from __future__ import annotations

from queue import Empty, Full
from typing import Final

from faster_fifo import Queue

from ingestor.ring.doorbell import Doorbell

DEFAULT_RING_BYTES: Final = 4 * 1024 * 1024
"""Shared memory per feed: eight blocks of 512 KiB."""

_MESSAGE_OVERHEAD_BYTES: Final = 8
"""faster-fifo stores the length before each message."""


def _as_is(message: bytes) -> bytes:
    return message


class BlockRing:
    """Bounded by `size_bytes`; made before the processes fork, then used by one on each side."""

    def __init__(self, doorbell: Doorbell, size_bytes: int = DEFAULT_RING_BYTES) -> None:
        self._queue = Queue(max_size_bytes=size_bytes, dumps=_as_is, loads=bytes)
        self._doorbell = doorbell
        self.max_message_bytes = size_bytes - _MESSAGE_OVERHEAD_BYTES

    def put(self, message: bytes, timeout_s: float = 0.0) -> bool:
        """Put a message in and ring; False when it is still full after `timeout_s`.

        Raises ValueError for a message that could never fit.
        """
        if len(message) > self.max_message_bytes:
            raise ValueError(f"a message of {len(message)} bytes cannot fit in this ring")
        try:
            self._queue.put(message, block=timeout_s > 0, timeout=timeout_s)
        except Full:
            return False
        self._doorbell.ring()
        return True

    def take(self, max_messages: int) -> list[bytes]:
        """Take up to `max_messages` without waiting; an empty list when there are none."""
        if max_messages <= 0 or self._queue.empty():
            return []
        try:
            messages: list[bytes] = self._queue.get_many(
                block=False, max_messages_to_get=max_messages
            )
        except Empty:
            return []
        return messages

    @property
    def used_bytes(self) -> int:
        """Bytes waiting in the ring."""
        return int(self._queue.data_size())
