"""A replay that is steered: every row once and in order, when commands and schedule say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingestor.merge.steering import NEVER, Steering
from ingestor.model.replay_control import Do, ReplayCommand, ReplaySpan, ReplayState
from ingestor.model.units import NS_PER_S

NOW_NS = 1_000_000 * NS_PER_S
DAY_NS = 1_765_843_200 * NS_PER_S

PAUSE, RESUME, TOGGLE = (ReplayCommand(do=do) for do in (Do.PAUSE, Do.RESUME, Do.TOGGLE))


def speed(told: float) -> ReplayCommand:
    return ReplayCommand(do=Do.SPEED, speed=told)


def step(events: int) -> ReplayCommand:
    return ReplayCommand(do=Do.STEP, events=events)


def span(seconds: float) -> ReplayCommand:
    return ReplayCommand(do=Do.STEP, span_ns=int(seconds * NS_PER_S))


def until(seconds: float | None) -> ReplayCommand:
    at_ns = None if seconds is None else DAY_NS + int(seconds * NS_PER_S)
    return ReplayCommand(do=Do.UNTIL, at_ns=at_ns)


@dataclass
class Driver:
    """Steers blocks of keys in a time of its own, as the publisher does in ours."""

    steering: Steering
    blocks: list[list[int]]
    now_ns: int = NOW_NS
    sent: list[tuple[int, int]] = field(default_factory=list)
    """Key and moment of each row, counted from `DAY_NS` and `NOW_NS`."""
    _at: int = -1

    def play(self, to_ns: int) -> None:
        """Go on to a moment, in which all that is due goes."""
        while self._loaded():
            due_ns = self.steering.next_due_ns(self.now_ns)
            if self.steering.seeking_ns is not None:
                continue
            if due_ns > max(to_ns, self.now_ns):
                break
            self.now_ns = max(self.now_ns, due_ns)
            keys = self.blocks[self._at]
            rows = self.steering.take(self.now_ns)
            assert rows.stop > rows.start
            self.sent += [(key - DAY_NS, self.now_ns - NOW_NS) for key in keys[rows]]
        self.now_ns = max(self.now_ns, to_ns)

    def _loaded(self) -> bool:
        """Whether there is a row; the next block is there once this one is used up."""
        while self._at < 0 or self.steering.done == len(self.blocks[self._at]):
            if self._at + 1 == len(self.blocks):
                return False
            self._at += 1
            self.steering.load(np.array(self.blocks[self._at], np.int64), self.now_ns)
        return True

    def play_s(self, seconds: float) -> list[tuple[float, float]]:
        """Go on for so long; return key and moment, in seconds, of what was sent then."""
        before = len(self.sent)
        self.play(self.now_ns + int(seconds * NS_PER_S))
        return [(key / NS_PER_S, at / NS_PER_S) for key, at in self.sent[before:]]

    def do(self, command: ReplayCommand) -> str:
        answer = self.steering.apply(command, self.now_ns)
        assert answer.ok
        return answer.text


def driver(steering: Steering, *blocks: list[float]) -> Driver:
    return Driver(steering, [[DAY_NS + int(key * NS_PER_S) for key in keys] for keys in blocks])


def keys(sent: list[tuple[float, float]]) -> list[float]:
    return [key for key, _ in sent]


def test_as_fast_as_possible_everything_goes_at_once() -> None:
    replay = driver(Steering(), [0, 5, 9], [12])
    assert replay.play_s(0) == [(0, 0), (5, 0), (9, 0), (12, 0)]


def test_a_pause_holds_the_next_row_and_resuming_keeps_its_distance() -> None:
    replay = driver(Steering(1), [0, 2, 4, 6])
    assert replay.play_s(3) == [(0, 0), (2, 2)]
    assert replay.do(PAUSE) == "paused at 2025-12-16T00:00:02.000000000Z"
    assert replay.play_s(100) == []
    assert replay.steering.next_due_ns(replay.now_ns) == NEVER
    replay.do(RESUME)
    assert replay.play_s(3) == [(4, 104), (6, 106)]


def test_a_pause_between_blocks_keeps_the_distance_too() -> None:
    replay = driver(Steering(1), [0, 2])
    replay.play_s(3)
    replay.do(PAUSE)
    replay.play_s(10)
    replay.blocks.append([DAY_NS + 5 * NS_PER_S])
    replay.do(RESUME)
    assert replay.play_s(10) == [(5, 15)]


@pytest.mark.parametrize("told", [0, 1])
def test_a_replay_that_begins_paused_waits_and_then_begins_at_once(told: float) -> None:
    replay = driver(Steering(told, paused=True), [0, 1])
    assert replay.play_s(60) == []
    replay.do(RESUME)
    assert replay.play_s(1)[0] == (0, 60)


def test_a_pause_before_anything_is_read_delays_nothing_when_it_is_over() -> None:
    replay = driver(Steering(1))
    replay.do(PAUSE)
    replay.play_s(10)
    replay.blocks.append([DAY_NS])
    replay.play_s(10)
    replay.do(RESUME)
    assert replay.play_s(1) == [(0, 20)]


def test_another_speed_holds_from_where_the_schedule_stands() -> None:
    replay = driver(Steering(1), [0, 10, 20])
    replay.play_s(5)
    assert replay.do(speed(5)) == "x5 from here on, at 2025-12-16T00:00:00.000000000Z"
    assert replay.play_s(10) == [(10, 6), (20, 8)]


def test_a_speed_that_is_told_while_it_is_paused_holds_when_it_goes_on() -> None:
    replay = driver(Steering(1), [0, 10, 20])
    replay.play_s(5)
    for command in (PAUSE, speed(0), speed(4), speed(2)):
        replay.do(command)
        assert replay.play_s(1) == []
    replay.do(RESUME)
    # As fast as possible has no schedule that another speed could go on with.
    assert replay.play_s(10) == [(10, 9), (20, 14)]


def test_from_as_fast_as_possible_to_a_speed_the_next_row_goes_at_once() -> None:
    replay = driver(Steering(0, paused=True), [0, 1, 5, 7])
    replay.do(step(2))
    replay.play_s(3)
    replay.do(speed(2))
    replay.do(RESUME)
    assert replay.play_s(10) == [(5, 3), (7, 4)]
    replay.do(speed(0))


def test_what_is_late_is_forgiven_by_a_change() -> None:
    steering = Steering(1)
    steering.load(np.array([DAY_NS, DAY_NS + NS_PER_S, DAY_NS + 2 * NS_PER_S], np.int64), NOW_NS)
    assert steering.take(NOW_NS) == slice(0, 1)
    # The server was away for 50 s: both rows are overdue.
    late_ns = NOW_NS + 50 * NS_PER_S
    steering.apply(speed(2), late_ns)
    assert steering.next_due_ns(late_ns) == late_ns
    assert steering.take(late_ns) == slice(1, 2)
    assert steering.next_due_ns(late_ns) == late_ns + NS_PER_S // 2


def test_holes_stay_shortened_whatever_is_changed() -> None:
    replay = driver(Steering(1, max_gap_ns=5 * NS_PER_S), [0, 100], [200, 201])
    replay.play_s(2)
    replay.do(speed(2))
    assert replay.play_s(20) == [(100, 3.5), (200, 6), (201, 6.5)]


def test_a_step_pauses_and_sends_so_many_rows_at_once_over_blocks() -> None:
    replay = driver(Steering(1), [0, 10, 20], [30, 40])
    replay.play_s(5)
    assert replay.do(step(3)) == "a step of 3 events, at 2025-12-16T00:00:00.000000000Z"
    assert replay.steering.state.stepping
    assert replay.play_s(60) == [(10, 5), (20, 5), (30, 5)]
    state = replay.steering.state
    assert (state.paused, state.stepping, state.position_ns) == (True, False, DAY_NS + 30 * 10**9)


def test_after_a_step_the_schedule_goes_on_from_its_last_row() -> None:
    replay = driver(Steering(1), [0, 10, 20])
    replay.play_s(5)
    replay.do(step(1))
    replay.play_s(60)
    replay.do(RESUME)
    assert replay.play_s(10) == [(20, 75)]


def test_a_step_of_time_takes_what_lies_within_and_steps_follow_on_one_another() -> None:
    replay = driver(Steering(0, paused=True), [0, 1, 2, 9], [10, 11])
    replay.do(span(2))
    assert keys(replay.play_s(1)) == [0, 1]
    taken = []
    for _ in range(5):
        replay.do(span(2))
        taken.append(keys(replay.play_s(1)))
    assert taken == [[2], [], [], [9], [10, 11]]
    assert not replay.steering.state.stepping or replay.steering.state.paused


def test_a_step_of_time_before_anything_is_read_begins_at_the_first_row() -> None:
    replay = driver(Steering(1, paused=True))
    replay.do(span(1.5))
    assert replay.play_s(1) == []
    replay.blocks.append([DAY_NS + second * NS_PER_S for second in (7, 8, 9)])
    assert keys(replay.play_s(1)) == [7, 8]


@pytest.mark.parametrize(("one", "taken"), [(step(1), [0, 1]), (span(1), [0, 1])])
def test_steps_that_come_together_are_all_taken(one: ReplayCommand, taken: list[float]) -> None:
    replay = driver(Steering(0, paused=True))
    replay.do(one)
    replay.do(one)
    replay.blocks.append([DAY_NS + second * NS_PER_S for second in (0, 1, 2)])
    assert keys(replay.play_s(1)) == taken


def test_a_pause_ends_a_step() -> None:
    replay = driver(Steering(0, paused=True), [0, 1])
    replay.do(step(5))
    replay.play_s(0)
    replay.blocks.append([DAY_NS + 10 * NS_PER_S])
    assert replay.do(PAUSE) == "paused at 2025-12-16T00:00:01.000000000Z"
    assert replay.play_s(1) == []


@pytest.mark.parametrize("told", [0, 1])
def test_until_pauses_before_the_first_row_at_or_after_it(told: float) -> None:
    replay = driver(Steering(told), [0, 1, 2, 3], [4])
    replay.do(until(2))
    assert keys(replay.play_s(10)) == [0, 1]
    assert replay.steering.state == ReplayState(
        paused=True, speed=told, position_ns=DAY_NS + NS_PER_S, generation=2
    )
    (_, reached) = replay.steering.changes()
    assert reached.text == (
        "paused at 2025-12-16T00:00:01.000000000Z: played until 2025-12-16T00:00:02.000000000Z"
    )
    replay.do(RESUME)
    assert keys(replay.play_s(10)) == [2, 3, 4]


def test_a_step_goes_no_further_than_the_end_that_was_told() -> None:
    replay = driver(Steering(0, paused=True), [0, 1, 2, 3])
    replay.do(until(2))
    replay.do(step(4))
    assert keys(replay.play_s(1)) == [0, 1]
    replay.do(step(1))
    assert keys(replay.play_s(1)) == [2]


def test_an_end_can_be_taken_back() -> None:
    replay = driver(Steering(), [0, 1, 2])
    replay.do(until(1))
    assert replay.do(until(None)) == "plays to the end, before the first event"
    assert keys(replay.play_s(0)) == [0, 1, 2]


def test_what_is_so_already_is_no_change() -> None:
    replay = driver(Steering(2), [0])
    replay.play_s(0)
    assert replay.do(RESUME) == "it runs already, at 2025-12-16T00:00:00.000000000Z"
    assert replay.do(speed(2)) == "the speed is x2 already"
    assert replay.do(until(None)) == "that is so already"
    replay.do(TOGGLE)
    assert replay.do(PAUSE) == "it is paused already, at 2025-12-16T00:00:00.000000000Z"
    assert (replay.steering.generation, len(replay.steering.changes())) == (1, 1)
    assert replay.steering.changes() == []


def test_each_change_tells_its_generation_and_where_it_was_made() -> None:
    replay = driver(Steering(1), [0, 1])
    replay.do(PAUSE)
    replay.do(RESUME)
    replay.play_s(1)
    replay.do(TOGGLE)
    told = [(one.generation, one.position_ns) for one in replay.steering.changes()]
    assert told == [(1, None), (2, None), (3, DAY_NS + NS_PER_S)]


def test_one_that_follows_another_goes_on_as_that_one_stood() -> None:
    before = driver(Steering(4), [0, 1])
    for command in (speed(3), until(9), PAUSE):
        before.do(command)
    after = Steering(4)
    after.restore(before.steering.state)
    assert after.state == before.steering.state
    follower = driver(after, [2, 5])
    assert follower.play_s(1) == []
    follower.do(RESUME)
    assert follower.play_s(2) == [(2, 1), (5, 2)]


COMMANDS = st.one_of(
    st.sampled_from([PAUSE, RESUME, TOGGLE]),
    st.sampled_from([0, 0.25, 1, 3.7, 1_000]).map(speed),
    st.integers(1, 5).map(step),
)


class Clock:
    """What steering is, said plainly: a clock of event time that commands stop and set going."""

    def __init__(self, told: float, rows: list[int]) -> None:
        self.speed, self.paused, self.rows = Fraction(told), False, rows
        self.event_ns = Fraction(rows[0])
        self.now_ns = Fraction(NOW_NS)
        self.sent: list[tuple[int, Fraction, Fraction]] = []
        """Key and moment of each row, and how far whole nanoseconds may be off by then."""
        self.off_ns = Fraction(1)

    def play(self, to_ns: int, count: int) -> None:
        """Go on to a moment, by which `count` rows are to have gone.

        A row due 0.27 ns after a command goes before it in whole nanoseconds, and a step then
        reaches the row behind, be that hours away. So which was first is not computed: either is
        right where the two are no further apart than rounding goes, and nothing else is.
        """
        while self.rows and not self.paused:
            wait_ns = Fraction(0)
            if self.speed:
                wait_ns = max(self.rows[0] - self.event_ns, Fraction(0)) / self.speed
            due_ns, has_gone = self.now_ns + wait_ns, len(self.sent) < count
            assert has_gone == (due_ns <= to_ns) or abs(due_ns - to_ns) <= self.off_ns
            if not has_gone:
                # Back from the row where that went before it was due; never past one that is left.
                there_ns = self.event_ns + (to_ns - self.now_ns) * self.speed
                self.event_ns = min(there_ns, Fraction(self.rows[0]))
                break
            self.now_ns = due_ns
            self._send()
        self.now_ns = Fraction(to_ns)

    def do(self, command: ReplayCommand) -> None:
        if command.do is Do.SPEED:
            if not self.speed and self.rows:
                self.event_ns = Fraction(self.rows[0])
            before, self.speed = self.speed, Fraction(command.speed or 0)
            if before and self.speed:
                # A nanosecond of a fast schedule is many of a slow one.
                self.off_ns = self.off_ns * max(before / self.speed, Fraction(1)) + 1
        elif command.do is Do.STEP:
            self.paused = True
            for _ in range(min(command.events or 0, len(self.rows))):
                self._send()
        elif command.do is Do.TOGGLE:
            self.paused = not self.paused
        else:
            self.paused = command.do is Do.PAUSE

    def _send(self) -> None:
        self.event_ns = max(self.event_ns, Fraction(self.rows[0]))
        self.off_ns += 1
        self.sent.append((self.rows.pop(0) - DAY_NS, self.now_ns - NOW_NS, self.off_ns))


@given(
    st.lists(st.lists(st.integers(0, 10**10), min_size=1, max_size=5), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.5, 1.0, 100.0]),
    st.lists(st.tuples(st.integers(0, 10**10), COMMANDS), max_size=12),
)
@example(gaps=[[0, 1, 16]], told=0.5, commands=[(0, speed(3.7)), (0, step(1))])
@example(gaps=[[0, 1, 10**10]], told=0.5, commands=[(0, speed(3.7)), (0, step(1))])
def test_whatever_is_commanded_each_row_goes_once_in_order_and_when_it_is_due(
    gaps: list[list[int]], told: float, commands: list[tuple[int, ReplayCommand]]
) -> None:
    at = DAY_NS
    blocks = [[at := at + gap for gap in steps] for steps in gaps]
    replay = Driver(Steering(told), blocks)
    clock = Clock(told, [key for block in blocks for key in block])
    for after_ns, command in [*commands, (0, RESUME), (0, speed(0.5)), (10**12, PAUSE)]:
        to_ns = replay.now_ns + after_ns
        replay.play(to_ns)
        clock.play(to_ns, len(replay.sent))
        replay.do(command)
        clock.do(command)
    assert not clock.rows
    for (key, ours), (expected, exact, off_ns) in zip(replay.sent, clock.sent, strict=True):
        assert key == expected
        assert abs(ours - exact) <= off_ns


def seek(seconds: float) -> ReplayCommand:
    return ReplayCommand(do=Do.SEEK, at_ns=DAY_NS + int(seconds * NS_PER_S))


def loop(begin: float, end: float) -> ReplayCommand:
    begin_ns, end_ns = (DAY_NS + int(at * NS_PER_S) for at in (begin, end))
    return ReplayCommand(do=Do.LOOP, at_ns=begin_ns, to_ns=end_ns)


class Seeker(Driver):
    """Loads blocks anew after a seek, as the publisher does."""

    def _loaded(self) -> bool:
        while True:
            if (at_ns := self.steering.seeking_ns) is not None:
                there = [key for key in self.whole if key >= at_ns]
                self.blocks, self._at = [there] if there else [], -1
                self.steering.begin_anew()
            if super()._loaded():
                return True
            self.steering.come_to_end(self.now_ns)
            if self.steering.seeking_ns is None:
                return False

    @property
    def whole(self) -> list[int]:
        return [DAY_NS + key * NS_PER_S for key in range(0, 20, 2)]


def seeker(steering: Steering) -> Seeker:
    made = Seeker(steering, [])
    made.blocks = [made.whole]
    return made


def test_after_a_seek_the_first_row_at_or_after_it_goes_at_once_and_a_schedule_begins() -> None:
    replay = seeker(Steering(1))
    assert keys(replay.play_s(3)) == [0, 2]
    assert replay.do(seek(11)).startswith("seeks to 2025-12-16T00:00:11")
    assert replay.steering.state.seeking_ns == DAY_NS + 11 * NS_PER_S
    assert replay.play_s(3) == [(12, 3), (14, 5)]
    replay.do(ReplayCommand(do=Do.SEEK, by_ns=-10 * NS_PER_S))
    assert replay.play_s(3) == [(4, 6), (6, 8)]
    assert [change.to_ns for change in replay.steering.changes()] == [
        DAY_NS + 11 * NS_PER_S,
        DAY_NS + 4 * NS_PER_S,
    ]


def test_a_seek_by_a_share_goes_so_far_into_the_whole_replay_whatever_was_sought_before() -> None:
    replay = seeker(Steering())
    half = ReplayCommand(do=Do.SEEK, share=0.5)
    refused = replay.steering.apply(half, replay.now_ns)
    assert (refused.ok, refused.text) == (
        False,
        "how far this replay goes is not known yet: seek to a time instead",
    )
    assert replay.steering.state.generation == 0
    span = ReplaySpan(DAY_NS, DAY_NS + 18 * NS_PER_S, is_known=True)
    replay.steering.span = lambda: span
    replay.do(seek(15))
    assert replay.do(half).startswith("seeks to 50%, 2025-12-16T00:00:09.000000000Z, from 2025-")
    assert keys(replay.play_s(0)) == [10, 12, 14, 16, 18]
    span = span._replace(is_known=False)
    assert replay.do(ReplayCommand(do=Do.SEEK, share=1.0)).startswith("seeks to about 100%, ")
    assert keys(replay.play_s(0)) == [18]


def test_what_is_commanded_before_the_rows_of_a_seek_are_there_is_in_force_with_them() -> None:
    replay = seeker(Steering(paused=True))
    replay.do(step(1))
    assert keys(replay.play_s(1)) == [0]
    replay.do(step(5))
    replay.do(seek(7))
    assert replay.play_s(1) == []
    replay.do(seek(8))
    replay.do(span(3))
    assert keys(replay.play_s(1)) == [8, 10]
    assert replay.steering.state.paused


def test_a_bound_is_kept_by_a_seek_before_it_and_dropped_by_one_behind_it() -> None:
    replay = seeker(Steering())
    replay.do(until(8))
    replay.do(seek(4))
    assert keys(replay.play_s(1)) == [4, 6]
    replay.do(until(8))
    replay.do(seek(16))
    replay.do(RESUME)
    assert keys(replay.play_s(1)) == [16, 18]


def test_a_loop_goes_round_at_its_pace_until_it_is_told_not_to() -> None:
    replay = seeker(Steering(1))
    replay.do(loop(4, 8))
    assert replay.play_s(5) == [(4, 0), (6, 2), (4, 2), (6, 4), (4, 4)]
    replay.do(ReplayCommand(do=Do.LOOP))
    assert replay.play_s(4) == [(6, 6), (8, 8)]
    replay.do(loop(4, 8))
    replay.do(seek(12))
    assert keys(replay.play_s(3)) == [12, 14]
    assert replay.steering.state.loop_ns is None


def test_a_seek_to_the_begin_of_a_loop_stays_in_it_and_one_to_its_end_leaves_it() -> None:
    replay = seeker(Steering(1))
    replay.do(loop(4, 8))
    replay.do(seek(4))
    assert replay.steering.state.loop_ns is not None
    replay.do(seek(8))
    assert replay.steering.state.loop_ns is None


def test_a_loop_goes_round_at_the_end_of_all_rows_and_not_over_nothing() -> None:
    replay = seeker(Steering(2))
    replay.do(loop(16, 90))
    assert keys(replay.play_s(2.5)) == [16, 18, 16, 18, 16]
    replay.do(loop(4.5, 5))
    assert replay.play_s(5) == []
    state = replay.steering.state
    assert (state.paused, state.loop_ns) == (True, None)


def test_a_seek_that_was_under_way_goes_on_in_another_process() -> None:
    before = seeker(Steering(3))
    before.do(loop(4, 8))
    after = seeker(Steering())
    after.steering.restore(before.steering.state)
    assert keys(after.play_s(1)) == [4, 6, 4]
    assert after.steering.state.loop_ns == before.steering.state.loop_ns
