"""One ring: a feed process puts messages in, the publisher process takes them out.

The ring is a faster-fifo queue that moves bytes as they are, and copies each twice, into the ring
and out of it. To put, it is given the address of what it copies. To take, it has one buffer
that it fills again and again; ours is given away with the messages in it where they fill most of
it, and replaced.

Either side may die at any moment, inside `put` and `take` too: the lock is free then, and what was
put whole is there (see `RobustLock`). Nobody waits inside the queue, whose conditions count
waiters that may have died. A taker that follows a dead one cannot know what that one took: it
begins a new generation with an empty ring, in which the putter puts only once it has joined it: it
then knows that it is to put again what that taker still needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import select
import time
from collections.abc import Sequence
from queue import Empty, Full
from typing import Final

import numpy as np
from faster_fifo import Queue

from ingestor.model.errors import ConfigurationError


class Doorbell:
    """Created before the processes fork; any may ring, one event loop or sleeper listens."""

    def __init__(self) -> None:
        """Raises ConfigurationError where the kernel gives none."""
        try:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"the kernel gives no eventfd, by which feeds wake the publisher: {error.strerror}"
            ) from error
        self._rung: asyncio.Event | None = None
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def ring(self) -> None:
        """Wake the listener; ringing again before it looks costs nothing more."""
        os.eventfd_write(self._fd, 1)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver rings to `wait` on this loop."""
        self._rung = asyncio.Event()
        loop.add_reader(self._fd, self._answer)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when it has rung since the last wait, or after `timeout_s`."""
        if self._rung is None:
            raise RuntimeError("wait() needs listen() first")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        # Cleared after the wait, before the rings are looked at: a ring in between is kept.
        self._rung.clear()

    def sleep(self, timeout_s: float) -> None:
        """Block until it has rung since the last sleep, or for `timeout_s`."""
        if self._poll.poll(timeout_s * 1000):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._fd)

    def _answer(self) -> None:
        # One read takes all rings since the last: eventfd is a counter.
        os.eventfd_read(self._fd)
        if self._rung is not None:
            self._rung.set()


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

DEFAULT_RING_BYTES: Final = 4 * 1024 * 1024
"""Shared memory per feed: four blocks of 1 MiB."""

TAKE_BYTES: Final = 256 * 1024
"""Messages taken at a time; the last may go beyond. What is taken should still be in the CPU's
cache when it is worked on."""

LOCK_WAIT_S: Final = 0.002
"""A taker has the lock for the copy of what it takes; one that has it longer does not run."""

Message = bytes | memoryview
"""What a ring carries; contiguous bytes."""


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
    """Replaces the lock of a queue that nobody uses yet; to be taken around each use of it.

    faster-fifo makes a plain lock. A process that is killed while it holds it would stop the other
    side for ever, inside the library and without a timeout. This one is robust, and its owner may
    take it twice: it is taken here first, which tells whether the last owner died, and then once
    more by the library.

    What a dead owner leaves of the queue is mended by the next one. A message counts (`messages`)
    only once it is whole, so what was put before is kept and half a message is forgotten.
    """

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
        """Forget all messages; only while holding the lock."""
        state = self._state
        state.head = state.tail = state.size_bytes = state.messages = 0

    def _mend(self) -> None:
        """Set the end of the queue behind its last whole message."""
        state, capacity = self._state, len(self._bytes)
        size = 0
        for _ in range(state.messages):
            size += LENGTH_BYTES + self._length_at((state.head + size) % capacity)
            # Only a taker that died in `take` leaves this; its successor clears the queue.
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


class _InPlace:
    """A message as faster-fifo reads it: what has a length and ctypes takes for an address."""

    __slots__ = ("_as_parameter_", "_size")

    def __init__(self, message: Message) -> None:
        # ctypes finds the address of bytes by itself, 1 us sooner: the frames of a live feed.
        self._as_parameter_ = (
            message
            if isinstance(message, bytes)
            else ctypes.c_void_p(np.frombuffer(message, np.uint8).ctypes.data)
        )
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
        self._lock = RobustLock(self._queue)
        # Not NumPy's: its numbers cost 0.2 us at each look.
        shared = memoryview(mmap.mmap(-1, 2 * np.int64().nbytes)).cast("q")
        self._generation, self._putter_waits = shared[:1], shared[1:]
        self._joined = 0
        self._half_bytes = size_bytes // 2
        self._buffer_bytes = 0
        self._doorbell = doorbell
        self._room = Doorbell()
        self.max_message_bytes = size_bytes - LENGTH_BYTES

    def put(self, message: Message, timeout_s: float = 0.0) -> bool:
        """Put a message in and ring; False when it is still full after `timeout_s`.

        False also when another taker has begun: see `renewed`. Raises ValueError for a message that
        could never fit.
        """
        # The queue itself would wait for room that can never come.
        if len(message) > self.max_message_bytes:
            raise ValueError(f"a message of {len(message)} bytes cannot fit in this ring")
        deadline_s = time.monotonic() + timeout_s if timeout_s else 0.0
        while not self._try_put(message):
            # A taker that found the lock held by this failed attempt waits for the bell.
            self._doorbell.ring()
            left_s = deadline_s - time.monotonic() if timeout_s else 0.0
            if left_s <= 0 or self.renewed:
                return False
            # Woken, not looking again and again: a look every millisecond cost the process that
            # reads a file 0.3 us a record. Waits before the look that decides: none is missed.
            if self._putter_waits[0]:
                self._room.sleep(left_s)
            else:
                self._putter_waits[0] = 1
        # After the message is there: whoever wakes up finds it.
        self._doorbell.ring()
        return True

    def take(self, max_messages: int) -> Sequence[Message]:
        """Take up to `max_messages`, about `TAKE_BYTES`, without waiting; none when there are none.

        They stay as they are; nobody writes there again. Wait for the bell only once there are
        none: it need not ring for what is left.
        """
        # `get_many` would take the ring's lock only to raise `Empty`. While a putter has the lock
        # there is nothing either: it rings when it is done. Not `empty()`: half a message of a
        # killed putter is no message, and stays until somebody takes the lock.
        if max_messages <= 0 or not self._queue.data_size() or not self._lock.acquire():
            return []
        try:
            messages: list[memoryview] = self._queue.get_many(
                block=False, max_messages_to_get=max_messages
            )
        except Empty:
            return []
        finally:
            self._lock.release()
        self._let_in()
        return self._owned(messages)

    def begin_generation(self) -> None:
        """Empty the ring, for a taker that follows one that died."""
        # A putter that is stopped with the lock is killed for its silence; then it is free.
        while not self._lock.acquire(LOCK_WAIT_S):
            time.sleep(LOCK_WAIT_S)
        self._lock.clear()
        self._generation[0] += 1
        self._lock.release()
        self._let_in()

    @property
    def renewed(self) -> bool:
        """Whether a taker has begun anew since `join`: it has nothing of what was put before."""
        return self._generation[0] != self._joined

    @property
    def generation(self) -> int:
        """How often a taker has begun anew, in whatever process."""
        return self._generation[0]

    def wait_renewed(self, timeout_s: float) -> bool:
        """Wait until a taker has begun anew, for `timeout_s` or until `wake`; return whether."""
        # Waits before it looks, as in `put`: a taker that begins in between rings.
        self._putter_waits[0] = 1
        if not self.renewed:
            self._room.sleep(timeout_s)
        return self.renewed

    def wake(self) -> None:
        """Have a putter that waits look around: the run may be over."""
        self._room.ring()

    def join(self) -> None:
        """Put for the taker of now."""
        self._joined = self._generation[0]

    def _try_put(self, message: Message) -> bool:
        if not self._lock.acquire(LOCK_WAIT_S):
            return False
        try:
            # Asked while nobody can begin anew: nothing meant for one taker reaches another.
            if self.renewed:
                return False
            self._queue.put(message, block=False)
        except Full:
            return False
        finally:
            self._lock.release()
        return True

    def _let_in(self) -> None:
        """Wake a putter that waits, once half of the ring is free: not for every message."""
        if self._putter_waits[0] and self._queue.data_size() <= self._half_bytes:
            self._putter_waits[0] = 0
            self._room.ring()

    def _owned(self, messages: list[memoryview]) -> Sequence[Message]:
        used_bytes = sum(map(len, messages)) + LENGTH_BYTES * len(messages)
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
