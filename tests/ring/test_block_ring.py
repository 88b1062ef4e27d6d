from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingestor.ring.block_ring import LENGTH_BYTES, TAKE_BYTES, BlockRing, Doorbell, Message

FORK = multiprocessing.get_context("fork")


def fill(ring: BlockRing, count: int) -> None:
    for index in range(count):
        while not ring.put(index.to_bytes(4, "little") * 1000, timeout_s=5):
            pass
    ring.put(b"end", timeout_s=5)


async def take_until_end(ring: BlockRing, doorbell: Doorbell) -> list[Message]:
    doorbell.listen(asyncio.get_running_loop())
    got: list[Message] = []
    while not got or got[-1] != b"end":
        await doorbell.wait(10)
        while taken := ring.take(1000):
            got += taken
    return got[:-1]


def test_everything_put_by_another_process_arrives_in_order_through_a_small_ring() -> None:
    doorbell = Doorbell()
    ring = BlockRing(doorbell, size_bytes=20_000)
    child = FORK.Process(target=fill, args=(ring, 300))
    child.start()
    got = asyncio.run(take_until_end(ring, doorbell))
    child.join(10)
    assert child.exitcode == 0
    assert [int.from_bytes(message[:4], "little") for message in got] == list(range(300))
    doorbell.close()


def test_a_full_ring_says_so_and_takes_more_once_emptied() -> None:
    ring = BlockRing(Doorbell(), size_bytes=1000)
    assert ring.put(b"x" * 900)
    assert not ring.put(b"y" * 200)
    assert not ring.put(b"y" * 200, timeout_s=0.01)
    assert ring.take(10) == [b"x" * 900]
    assert ring.put(b"y" * 200)


def test_a_putter_sleeps_until_half_of_the_ring_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep, sleep = threading.Event(), Doorbell.sleep

    def told(self: Doorbell, timeout_s: float) -> None:
        asleep.set()
        sleep(self, timeout_s)

    monkeypatch.setattr(Doorbell, "sleep", told)
    ring = BlockRing(Doorbell(), size_bytes=10_000)
    while ring.put(b"x" * 900):
        pass
    with ThreadPoolExecutor(1) as others:
        putting = others.submit(ring.put, b"y" * 900, 60.0)
        assert asleep.wait(10)
        used_bytes = ring.used_bytes
        while used_bytes > 5_000:
            assert not putting.done()
            used_bytes -= len(ring.take(1)[0]) + LENGTH_BYTES
        assert putting.result(10)


@pytest.mark.parametrize(
    ("wake", "is_renewed"), [(BlockRing.begin_generation, True), (BlockRing.wake, False)]
)
def test_who_waits_for_another_taker_sleeps_until_one_begins_or_it_is_woken(
    monkeypatch: pytest.MonkeyPatch, wake: Callable[[BlockRing], None], *, is_renewed: bool
) -> None:
    asleep, sleep = threading.Event(), Doorbell.sleep

    def told(self: Doorbell, timeout_s: float) -> None:
        asleep.set()
        sleep(self, timeout_s)

    monkeypatch.setattr(Doorbell, "sleep", told)
    ring = BlockRing(Doorbell(), size_bytes=1_000)
    ring.join()
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(ring.wait_renewed, 60.0)
        assert asleep.wait(10)
        assert not waiting.done()
        wake(ring)
        assert waiting.result(10) is is_renewed
    assert ring.wait_renewed(0.001) is is_renewed


def test_an_empty_ring_gives_nothing_and_does_not_wait() -> None:
    assert BlockRing(Doorbell()).take(10) == []


def test_no_more_is_taken_than_asked_for() -> None:
    ring = BlockRing(Doorbell())
    for _ in range(3):
        ring.put(b"x")
    assert ring.take(0) == []
    assert len(ring.take(2)) == 2
    assert len(ring.take(2)) == 1


def test_a_message_that_can_never_fit_is_an_error() -> None:
    ring = BlockRing(Doorbell(), size_bytes=1000)
    with pytest.raises(ValueError, match="cannot fit"):
        ring.put(b"x" * 1000)


def test_the_largest_message_fits_an_empty_ring() -> None:
    ring = BlockRing(Doorbell(), size_bytes=1000)
    assert ring.put(b"x" * ring.max_message_bytes)


def test_what_was_taken_survives_the_next_take() -> None:
    ring = BlockRing(Doorbell())
    sent = [bytes([65 + at]) * size for at, size in enumerate((100, 10_000, 7, 10_000, 300))]
    taken: list[Message] = []
    for message in sent:
        ring.put(message)
        taken += ring.take(1)
    assert taken == sent


def test_a_ring_is_emptied_in_parts_that_fit_a_cache() -> None:
    ring = BlockRing(Doorbell())
    size = TAKE_BYTES // 4
    for number in range(12):
        assert ring.put(bytes([number]) * size)
    taken: list[int] = []
    while part := ring.take(100):
        assert sum(map(len, part)) < TAKE_BYTES + size
        taken += (message[0] for message in part)
    assert taken == list(range(12))


def test_a_small_message_does_not_hold_the_buffer_of_a_large_one() -> None:
    ring = BlockRing(Doorbell())
    for message in (b"x" * 500_000, b"y" * 100):
        ring.put(message)
        (taken,) = ring.take(1)
        assert taken == message
    assert isinstance(taken, bytes)


def test_records_are_put_from_where_they_lie() -> None:
    ring = BlockRing(Doorbell())
    lying = bytearray(b"..records..")
    ring.put(memoryview(lying)[2:-2])
    lying[:] = b"overwritten"
    assert ring.take(1) == [b"records"]


def test_a_doorbell_rung_before_anyone_listened_is_heard() -> None:
    async def listen() -> None:
        doorbell.listen(asyncio.get_running_loop())
        await asyncio.wait_for(doorbell.wait(), 5)

    doorbell = Doorbell()
    doorbell.ring()
    asyncio.run(listen())


def test_a_doorbell_that_stays_silent_lets_the_waiter_go_after_its_timeout() -> None:
    async def listen() -> None:
        doorbell.listen(asyncio.get_running_loop())
        await doorbell.wait(0.01)

    doorbell = Doorbell()
    asyncio.run(listen())


def test_a_doorbell_rung_by_another_process_wakes_the_loop() -> None:
    async def listen() -> None:
        doorbell.listen(asyncio.get_running_loop())
        if os.fork() == 0:
            doorbell.ring()
            os._exit(0)
        await asyncio.wait_for(doorbell.wait(), 5)

    doorbell = Doorbell()
    asyncio.run(listen())
    os.wait()


@pytest.mark.parametrize(
    ("limit", "made", "told"),
    [
        ("RLIMIT_FSIZE", "BlockRing(Doorbell())", "no shared memory for a ring of 4194304 bytes"),
        ("RLIMIT_NOFILE", "Doorbell()", "the kernel gives no eventfd"),
    ],
)
def test_what_the_machine_does_not_give_is_a_sentence(limit: str, made: str, told: str) -> None:
    code = f"""
import resource
from ingestor.model.errors import ConfigurationError
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.block_ring import Doorbell
from ingestor.ring.block_ring import LENGTH_BYTES
resource.setrlimit(resource.{limit}, (3, 3))
try:
    {made}
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told in done.stdout
