"""The lock of a faster-fifo queue, made robust: who dies inside `put` or `get` leaves it free.

faster-fifo makes a plain lock. A process that is killed while it holds it would stop the other side
for ever, inside the library and without a timeout. So the lock is made anew, in its place, as a
robust one that its owner may take twice: it is taken here first, where it is looked at whether the
last owner died, and then once more by the library.

What a dead owner leaves of the queue is mended by the next one. A message counts (`messages`) only
once it is whole, so what was put before is kept and half a message is forgotten.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from typing import Final

from faster_fifo import Queue

from ingestor.model.errors import ConfigurationError

LENGTH_BYTES: Final = ctypes.sizeof(ctypes.c_size_t)
"""faster-fifo stores the length before each message."""

_PROCESS_SHARED: Final = 1
_RECURSIVE: Final = 1
_ROBUST: Final = 1
"""PTHREAD_PROCESS_SHARED, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ROBUST of Linux."""
_PLAIN_SHARED: Final = [0, 0, 0, 0, 0x80]
"""The first words of the lock that faster-fifo makes: free, no owner, shared by processes."""
_ATTRIBUTES_BYTES: Final = 64
"""More than `pthread_mutexattr_t` has anywhere."""

# Not `CDLL`: giving up the interpreter's lock costs more than these calls, none of which waits.
_libc: Final = ctypes.PyDLL(None)


class _QueueState(ctypes.Structure):
    """`struct Queue` of faster_fifo.cpp 1.5, as far as its lock."""

    _fields_ = (
        ("max_size_bytes", ctypes.c_size_t),
        ("max_messages", ctypes.c_size_t),
        ("head", ctypes.c_size_t),
        ("tail", ctypes.c_size_t),
        ("size_bytes", ctypes.c_size_t),
        ("messages", ctypes.c_size_t),
        ("attributes", ctypes.c_size_t),
        ("lock", ctypes.c_int * 5),
    )
    head: int
    tail: int
    size_bytes: int
    messages: int


class RobustLock:
    """Replaces the lock of a queue that nobody uses yet; to be taken around each use of it."""

    def __init__(self, queue: Queue) -> None:
        """Raises ConfigurationError where the queue is not laid out as it is known here."""
        self._state = state = _QueueState.from_buffer(queue.queue_obj_buffer)
        self._bytes = queue.shared_memory
        found = [state.max_size_bytes, state.max_messages, state.head, state.tail, *state.lock]
        if found != [len(self._bytes), queue.maxsize, 0, 0, *_PLAIN_SHARED]:
            raise ConfigurationError("faster-fifo keeps its lock elsewhere: install version 1.5")
        self._lock = ctypes.c_void_p(ctypes.addressof(state) + _QueueState.lock.offset)
        attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
        _checked(_libc.pthread_mutexattr_init(attributes))
        _checked(_libc.pthread_mutexattr_setpshared(attributes, _PROCESS_SHARED))
        _checked(_libc.pthread_mutexattr_settype(attributes, _RECURSIVE))
        _checked(_libc.pthread_mutexattr_setrobust(attributes, _ROBUST))
        _checked(_libc.pthread_mutex_init(self._lock, attributes))

    def acquire(self, timeout_s: float = 0.0) -> bool:
        """Take the lock, and mend what one that died with it has left; False while it is held."""
        error = _libc.pthread_mutex_trylock(self._lock)
        if error == errno.EBUSY and timeout_s:
            # Held for a copy, some 100 us: for ever only by one that is stopped in it.
            deadline_s = time.monotonic() + timeout_s
            while error == errno.EBUSY and time.monotonic() < deadline_s:
                os.sched_yield()
                error = _libc.pthread_mutex_trylock(self._lock)
        if error == errno.EOWNERDEAD:
            _libc.pthread_mutex_consistent(self._lock)
            self._mend()
        return bool(error != errno.EBUSY)

    def release(self) -> None:
        """Give the lock back."""
        _libc.pthread_mutex_unlock(self._lock)

    def clear(self) -> None:
        """Forget all messages; for who holds the lock."""
        state = self._state
        state.head = state.tail = state.size_bytes = state.messages = 0

    def _mend(self) -> None:
        """Set the end of the queue behind its last whole message."""
        state, capacity = self._state, len(self._bytes)
        size = 0
        for _ in range(state.messages):
            size += LENGTH_BYTES + self._length_at((state.head + size) % capacity)
            # Only one that died while it took leaves such; whoever follows it clears the queue.
            if size > capacity:
                self.clear()
                return
        state.size_bytes, state.tail = size, (state.head + size) % capacity

    def _length_at(self, at: int) -> int:
        # A length may lie across the end of the memory, as any message may.
        end = at + LENGTH_BYTES
        data = bytes(self._bytes[at:end]) + bytes(self._bytes[: max(end - len(self._bytes), 0)])
        return int.from_bytes(data, "little")


def _checked(error: int) -> None:
    if error:
        raise ConfigurationError(f"there are no robust locks here: {errno.errorcode[error]}")
