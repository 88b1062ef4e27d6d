"""Commands from any process to the publisher's event loop, and answers back, without a lock."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ingestor.merge.steering import Change, Steering
from ingestor.model.blocks import whole_block
from ingestor.model.feed_status import What
from ingestor.model.replay_control import Do, ReplayCommand, ReplayState
from ingestor.model.units import NS_PER_S
from ingestor.runtime import controller as module
from ingestor.runtime.controller import MAX_ANSWERS, Controller, Pace, Steered, status_of
from ingestor.runtime.counters import Counter, CounterTable
from tests.rows import block
from tests.runtime.publishing import publishing

PAUSE = ReplayCommand(do=Do.PAUSE)
STATUS = ReplayCommand(do=Do.STATUS)


@pytest.fixture
def controller() -> Iterator[Controller]:
    made = Controller()
    yield made
    made.close()


def test_a_command_is_done_and_answered_with_the_state_after_it(controller: Controller) -> None:
    before = controller.state
    with publishing(controller, Steering(2)):
        answer = controller.apply(PAUSE)
        assert (answer.ok, answer.text) == (True, "paused before the first event")
        assert answer.state == ReplayState(paused=True, speed=2, generation=1)
        assert controller.state == answer.state
        command, ended = ReplayCommand(do=Do.SPEED, speed=3.0), asyncio.Event()
        again = asyncio.run(controller.ask(command, ended))
        assert again.state == ReplayState(paused=True, speed=3, generation=2)
    assert before is None


def test_a_time_is_told_from_the_position_of_now_and_not_of_the_last_change(
    controller: Controller,
) -> None:
    steering = Steering()
    with publishing(controller, steering):
        steering.load(np.array([10, 20]), 0)
        steering.take(0)
        assert controller.state == ReplayState()
        typed = asyncio.run(controller.ask_typed(["until", "+1s"], asyncio.Event()))
        assert typed.state is not None
        assert typed.state.until_ns == NS_PER_S + 20


def test_what_is_waited_for_is_shown_while_it_is(controller: Controller) -> None:
    steering, table = Steering(1), CounterTable(1)
    pace, row = Pace(Steered(steering, controller), table, table.row(0), print), table.row(0)
    runs = whole_block(block([(NS_PER_S, 0, 0), (NS_PER_S + 30_000_000, 0, 1)]))

    async def wait() -> int:
        steering.load(runs.key_ts_ns, time.monotonic_ns())
        steering.take(time.monotonic_ns())
        waiting = asyncio.create_task(pace.until_due(runs))
        await asyncio.sleep(0)
        waits_for_ns = row[Counter.WAITS_FOR_NS]
        assert await waiting
        return waits_for_ns

    assert asyncio.run(wait()) == NS_PER_S + 30_000_000
    assert row[Counter.WAITS_FOR_NS] == 0


def test_who_asks_on_an_event_loop_does_not_outlast_the_run(controller: Controller) -> None:
    async def ask() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, ended.set)
        answer = await controller.ask(PAUSE, ended)
        assert (answer.ok, answer.text) == (False, "the replay has come to its end")

    began_s = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - began_s < module.ANSWER_TIMEOUT_S / 2


def test_each_of_many_doors_gets_the_answer_to_its_own_command(controller: Controller) -> None:
    steering, wrong = Steering(), multiprocessing.Value("i", 0)
    ready = multiprocessing.Event()

    def door(number: int) -> None:
        ready.wait()
        # Of four doors the others send 15, fewer than the 16 answers that are kept: however late
        # a door is on a busy machine, its own is still there.
        for turn in range(5):
            told = float(1 + number * 100 + turn)
            answer = controller.apply(ReplayCommand(do=Do.SPEED, speed=told))
            if f"x{told:g} from here on" not in answer.text:
                wrong.value += 1

    context = multiprocessing.get_context("fork")
    doors = [context.Process(target=door, args=(number,)) for number in range(4)]
    for one in doors:
        one.start()
    with publishing(controller, steering):
        ready.set()
        for one in doors:
            one.join()
    assert (wrong.value, steering.generation) == (0, 20)


def test_a_door_that_is_killed_leaves_the_others_their_way(controller: Controller) -> None:
    def door() -> None:
        while True:
            controller.send(STATUS)

    process = multiprocessing.get_context("fork").Process(target=door)
    process.start()
    steering = Steering()
    with publishing(controller, steering):
        while not steering.generation:
            controller.apply(ReplayCommand(do=Do.TOGGLE))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert controller.apply(STATUS).ok


def test_where_nobody_obeys_that_is_said_and_the_command_is_not_done_later(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.05)
    answer = controller.apply(PAUSE)
    assert (answer.ok, answer.state) == (False, None)
    assert answer.text == "the publisher has not answered for 0.05 s: nothing is changed"
    steering = Steering()
    with publishing(controller, steering):
        monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 5.0)
        assert controller.apply(STATUS).ok
    assert steering.generation == 0


def test_a_pipe_that_is_full_keeps_nobody_waiting(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.05)
    began = time.monotonic()
    for _ in range(3_000):
        controller.send(STATUS)
    assert not controller.apply(PAUSE).ok
    assert time.monotonic() - began < 5
    steering = Steering()
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 5.0)
    with publishing(controller, steering):
        assert controller.apply(STATUS).ok
    assert steering.generation == 0


def test_all_answers_that_are_shown_fit_their_place(controller: Controller) -> None:
    steering = Steering()
    longest = ReplayCommand(do=Do.STEP, span_ns=2**62 + 1)
    for _ in range(MAX_ANSWERS + 1):
        controller.send(longest)
    with publishing(controller, steering):
        state = controller.apply(ReplayCommand(do=Do.UNTIL, at_ns=2**63 - 1)).state
    assert state is not None
    assert (state.generation, controller.state) == (MAX_ANSWERS + 2, state)


def test_a_stop_is_the_signal_that_stops_a_run() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    controller = Controller()
    try:
        answer = controller.apply(ReplayCommand(do=Do.STOP))
    finally:
        signal.signal(signal.SIGTERM, before)
        controller.close()
    assert (answer.ok, answer.text, heard) == (True, "stopping in order", [signal.SIGTERM])


def test_a_publisher_that_follows_another_begins_as_that_one_stood(controller: Controller) -> None:
    with publishing(controller, Steering(2)):
        controller.apply(PAUSE)
    follower = Steering(2)
    controller.begin(follower)
    assert follower.state == controller.state == ReplayState(paused=True, speed=2, generation=1)


def test_a_change_is_told_as_a_status_with_its_place_and_its_generation() -> None:
    status = status_of(Change(3, 10, "sought", 20))
    assert (status.feed, status.what, status.text) == ("replay", What.CONTROL, "sought")
    assert (status.from_event_ns, status.to_event_ns, status.generation) == (10, 20, 3)
