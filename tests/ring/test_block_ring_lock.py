from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import pytest
from faster_fifo import Queue

from ingestor.model.errors import ConfigurationError
from ingestor.ring.block_ring import BlockRing, Doorbell, RobustLock

FORK = multiprocessing.get_context("fork")
SIZES = (1, 100, 30_000)


def message(number: int) -> bytes:
    """The number, then bytes of it up to one of three lengths."""
    return number.to_bytes(8, "little") + bytes([number % 256]) * SIZES[number % len(SIZES)]


def put_for_ever(ring: BlockRing, first: int) -> None:
    while True:
        first += ring.put(message(first))


def take_for_ever(ring: BlockRing) -> None:
    while True:
        ring.take(100)


@contextmanager
def running(work: Callable[..., None], *args: object) -> Iterator[BaseProcess]:
    child = FORK.Process(target=work, args=args)
    child.start()
    yield child
    child.kill()
    child.join(10)


def kill_soon(child: BaseProcess) -> None:
    time.sleep(random.uniform(0.0, 0.01))
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(10)


def assert_next(ring: BlockRing, expected: int) -> int:
    """Take all there is; it must be the messages from `expected` on; return what comes next."""
    while taken := ring.take(100):
        for one in taken:
            assert bytes(one) == message(expected)
            expected += 1
    return expected


def test_whoever_is_killed_while_it_puts_leaves_whole_messages_and_a_ring_that_goes_on() -> None:
    ring = BlockRing(Doorbell(), size_bytes=100_000)
    expected = 0
    for _ in range(40):
        with running(put_for_ever, ring, expected) as child:
            while not ring.used_bytes:
                pass
            kill_soon(child)
            expected = assert_next(ring, expected)
            assert not ring.used_bytes
    assert expected > 40


def test_a_putter_goes_on_behind_what_a_killed_one_has_left_untaken() -> None:
    ring = BlockRing(Doorbell(), size_bytes=10_000_000)
    expected = 0
    for _ in range(40):
        with running(put_for_ever, ring, expected) as child:
            kill_soon(child)
        # Nobody takes before it puts: it finds the lock of the dead.
        ring.put(b"behind")
        taken = ring.take(1_000_000)
        while more := ring.take(1_000_000):
            taken = [*taken, *more]
        assert bytes(taken[-1]) == b"behind"
        for one in taken[:-1]:
            assert bytes(one) == message(expected)
            expected += 1


def test_a_killed_taker_leaves_a_ring_that_its_follower_begins_anew() -> None:
    ring = BlockRing(Doorbell(), size_bytes=100_000)
    for _ in range(40):
        with running(take_for_ever, ring) as child:
            ended_s = time.monotonic() + 0.005
            while time.monotonic() < ended_s:
                ring.put(message(0))
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join(10)
        ring.put(message(1))
        ring.begin_generation()
        assert (ring.renewed, ring.used_bytes, ring.take(10)) == (True, 0, [])
        assert not ring.put(message(1)), "it is meant for the one that died"
        ring.join()
        assert ring.put(message(2))
        assert ring.take(10) == [message(2)]


def hold(queue: Queue, lock: RobustLock, held: object) -> None:
    lock.acquire()
    held.set()  # type: ignore[attr-defined]
    signal.pause()


def test_a_lock_is_held_while_its_owner_lives_and_free_once_it_is_killed() -> None:
    queue = Queue(max_size_bytes=1000)
    lock, held = RobustLock(queue), FORK.Event()
    with running(hold, queue, lock, held) as child:
        assert held.wait(10)
        began_s = time.monotonic()
        assert not lock.acquire()
        assert not lock.acquire(0.01)
        assert 0.01 <= time.monotonic() - began_s < 5
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join(10)
        assert lock.acquire()
    lock.release()


def test_a_queue_that_is_laid_out_otherwise_is_refused() -> None:
    queue = Queue(max_size_bytes=1000)
    queue.maxsize += 1
    with pytest.raises(ConfigurationError, match=r"install version 1\.5"):
        RobustLock(queue)
