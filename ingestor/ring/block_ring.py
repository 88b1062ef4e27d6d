"""One ring: a feed process puts messages in, the publisher process takes them out.

The ring is a faster-fifo queue that moves bytes as they are, and copies each twice, into the ring
and out of it. To put, it is given the address of what is to be copied. To take, it has one buffer
that it fills again and again; ours is given away with the messages in it where they fill most of
it, and replaced.

Its lock is not robust: a process killed inside `put` or `take` leaves it held, and the other side
then waits inside the lock without a timeout. Nobody here can notice that; the supervisor does, by
heartbeats.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from queue import Empty, Full
from typing import Final

import numpy as np
from faster_fifo import Queue

from ingestor.model.errors import ConfigurationError
from ingestor.ring.doorbell import Doorbell

DEFAULT_RING_BYTES: Final = 4 * 1024 * 1024
"""Shared memory per feed: four blocks of 1 MiB."""

TAKE_BYTES: Final = 256 * 1024
"""Messages taken at a time; the last may go beyond. What is taken is to be still in the CPU's cache
when it is worked on."""

_MESSAGE_OVERHEAD_BYTES: Final = 8
"""faster-fifo stores the length before each message."""

Message = bytes | memoryview
"""What a ring carries; contiguous bytes."""


class _InPlace:
    """A message as faster-fifo reads it: what has a length and ctypes takes for an address."""

    __slots__ = ("_as_parameter_", "_size")

    def __init__(self, message: Message) -> None:
        self._as_parameter_ = ctypes.c_void_p(np.frombuffer(message, np.uint8).ctypes.data)
        self._size = len(message)

    def __len__(self) -> int:
        return self._size


class BlockRing:
    """Bounded by `size_bytes`; made before the processes fork, then used by one on each side."""

    def __init__(self, doorbell: Doorbell, size_bytes: int = DEFAULT_RING_BYTES) -> None:
        """Raises ConfigurationError where there is no shared memory of this size."""
        try:
            self._queue = Queue(
                max_size_bytes=size_bytes,
                dumps=_InPlace,
                loads=lambda message: message.cast("B").toreadonly(),
            )
        except OSError as error:
            raise ConfigurationError(
                f"there is no shared memory for a ring of {size_bytes} bytes (/dev/shm): "
                f"{error.strerror or error}"
            ) from error
        # The whole ring at once would be 4 MiB that has left the cache when it is encoded.
        self._queue.max_bytes_to_read = TAKE_BYTES
        self._buffer_bytes = 0
        self._doorbell = doorbell
        self.max_message_bytes = size_bytes - _MESSAGE_OVERHEAD_BYTES

    def put(self, message: Message, timeout_s: float = 0.0) -> bool:
        """Put a message in and ring; False when it is still full after `timeout_s`.

        Raises ValueError for a message that could never fit.
        """
        # The queue itself would wait for room that can never come.
        if len(message) > self.max_message_bytes:
            raise ValueError(f"a message of {len(message)} bytes cannot fit in this ring")
        try:
            self._queue.put(message, block=timeout_s > 0, timeout=timeout_s)
        except Full:
            return False
        # After the message is there: whoever wakes up finds it.
        self._doorbell.ring()
        return True

    def take(self, max_messages: int) -> Sequence[Message]:
        """Take up to `max_messages`, about `TAKE_BYTES`, without waiting; none when there are none.

        They stay as they are; nobody writes there again.
        """
        # `get_many` would take the ring's lock only to raise `Empty`.
        if max_messages <= 0 or self._queue.empty():
            return []
        try:
            messages: list[memoryview] = self._queue.get_many(
                block=False, max_messages_to_get=max_messages
            )
        except Empty:
            return []
        return self._owned(messages)

    def _owned(self, messages: list[memoryview]) -> Sequence[Message]:
        used_bytes = sum(map(len, messages)) + _MESSAGE_OVERHEAD_BYTES * len(messages)
        # Small frames of a live feed: copies of them cost less than a buffer of 256 KiB each time.
        if used_bytes < len(self._queue.message_buffer.val) // 2:
            return [bytes(message) for message in messages]
        # As large as ever needed, and not cleared as the queue would.
        self._buffer_bytes = max(self._buffer_bytes, used_bytes)
        buffer = np.empty(self._buffer_bytes, np.uint8).data
        self._queue.message_buffer.val = (ctypes.c_ubyte * len(buffer)).from_buffer(buffer)
        return messages

    @property
    def used_bytes(self) -> int:
        """Bytes waiting in the ring."""
        return int(self._queue.data_size())
