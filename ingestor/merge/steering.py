"""Steering a replay: whether it runs, how fast, and how far. No clock is read: time comes in.

Rows come a block at a time, in publishing order. `next_due_ns` says when the next of them may go,
`ready` up to which one at a given moment; a row that was taken is on its way whatever is commanded
afterwards. So a command is in force between two rows, and the position it is answered with is
exact.

A pause stops the schedule where it stands, which is up to the next event: an event that was due in
3 s is due in 3 s when it goes on. Where sending has fallen behind, what was late is forgiven at a
change, or a slower speed would be reached only once all of it was made up for. Every change that is
made counts as a generation, and is told in a sentence (`changes`).

A seek drops the block. From then on nothing can be taken until whoever loads blocks begins anew
with the first row at or after `seeking_ns`, and says so (`begin_anew`). A loop is a seek that is
made wherever its end is reached. The schedule begins anew with the first row, as in a fresh run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from ingestor.model.blocks import Int64s
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.replay_control import (
    ControlAnswer,
    Do,
    ReplayCommand,
    ReplaySpan,
    ReplayState,
    place_text,
    span_text,
    speed_text,
    window_text,
)
from ingestor.model.units import INT64_MAX, iso_utc

NEVER: Final = INT64_MAX
"""When a row is due that waits for a command."""

_NO_ROWS: Final = np.zeros(0, np.int64)


class Pacer:
    """Maps event times to due times; speed is seconds of event time per second, above 0.

    The schedule is absolute. The first event is due at once; every other is due by its distance in
    event time from the first, divided by the speed. Due times are computed from that one anchor,
    never from the event before, so an error in sending one event does not move the next. Holes
    longer than `max_gap_ns` are shortened to it: the time removed so far is one offset. Another
    speed, and the end of a pause, move the anchor once, and the schedule is absolute from there.
    """

    def __init__(self, speed: float, max_gap_ns: int | None = None) -> None:
        self._speed = speed
        self._max_gap_ns = max_gap_ns
        self._anchor: tuple[int, int] | None = None
        self._previous_ns = 0
        self._cut_ns = 0

    @property
    def anchored(self) -> bool:
        """Whether the first event has been seen."""
        return self._anchor is not None

    def due_ns(self, key_ts_ns: Int64s, now_ns: int) -> Int64s:
        """Return due times (int64 ns on the clock of `now_ns`) of the next events in order.

        `now_ns` is read only by the first call, which anchors the schedule to it.
        """
        if len(key_ts_ns) == 0:
            return key_ts_ns
        # Anchored by the first event, not at the start: until then files may be opened for minutes.
        if self._anchor is None:
            self._anchor = (int(key_ts_ns[0]), now_ns)
            self._previous_ns = int(key_ts_ns[0])
        first_ns, start_ns = self._anchor
        elapsed_ns = key_ts_ns - first_ns - self._cuts_ns(key_ts_ns)
        self._previous_ns = int(key_ts_ns[-1])
        # float64 holds 104 days of ns exactly; only what has elapsed goes through it.
        due: Int64s = start_ns + np.rint(elapsed_ns / self._speed).astype(np.int64)
        return due

    def reschedule(self, due_ns: Int64s, speed: float, now_ns: int, at_ns: int) -> Int64s:
        """Go on at a speed; return anew the due times of rows that have theirs already.

        What was due at `at_ns` is due at `now_ns`, and the rest by its distance from that. The
        error of a due time, 1 ns, is stretched with it: once a change, and not once an event.
        """
        factor = self._speed / speed
        if self._anchor is not None:
            first_ns, start_ns = self._anchor
            self._anchor = (first_ns, now_ns + round((start_ns - at_ns) * factor))
        self._speed = speed
        due: Int64s = now_ns + np.rint((due_ns - at_ns) * factor).astype(np.int64)
        return due

    def _cuts_ns(self, key_ts_ns: Int64s) -> Int64s | int:
        if self._max_gap_ns is None:
            return 0
        # Across blocks too: a hole may lie between the last event of one and the first of the next.
        gaps = np.diff(key_ts_ns, prepend=self._previous_ns)
        cuts: Int64s = self._cut_ns + np.cumsum(np.maximum(gaps - self._max_gap_ns, 0))
        self._cut_ns = int(cuts[-1])
        return cuts


class Change(NamedTuple):
    """A change that was made, and where: before every row that was not taken then."""

    generation: int
    position_ns: int | None
    text: str
    to_ns: int | None = None
    """Where a seek leads: what comes next is the first row at or after it."""


class Steering:
    """The state of one replay, and of the block that it is in.

    Attributes:
        speed: As told: seconds of event time a second, 0 as fast as possible.
        position_ns: Event time of the last row that was taken, None before the first; after a
            seek, the time that was sought until a row is taken.
        generation: Changes made so far.
        seeking_ns: The time of a seek that is under way, None where none is.
        span: Tells where the replay begins and ends, None while nobody knows.
    """

    def __init__(
        self, speed: float = 0.0, max_gap_ns: int | None = None, *, paused: bool = False
    ) -> None:
        """A replay that begins `paused` waits before its first row."""
        self.speed = speed
        self.position_ns: int | None = None
        self.generation = 0
        self.seeking_ns: int | None = None
        self.span: Callable[[], ReplaySpan | None] = lambda: None
        self._loop_ns: tuple[int, int] | None = None
        self._has_moved = False
        """Whether a row was taken since the last seek."""
        self._max_gap_ns = max_gap_ns
        self._pacer = Pacer(speed, max_gap_ns) if speed else None
        self._paused = paused
        self._stands_ns: int | None = None
        """While paused, the moment up to which the schedule has come."""
        self._until_ns: int | None = None
        self._step_rows = 0
        self._step_span_ns = 0
        """Of a step that begins at the first row of all, which is not known yet."""
        self._step_until_ns: int | None = None
        self._stepped_to_ns = 0
        self._keys = self._due = _NO_ROWS
        self.done = 0
        """Rows of the block that were taken."""
        self._changes: list[Change] = []

    @property
    def state(self) -> ReplayState:
        """Return how it stands."""
        return ReplayState(
            paused=self._paused,
            stepping=self._stepping,
            speed=self.speed,
            until_ns=self._until_ns,
            position_ns=self.position_ns,
            generation=self.generation,
            seeking_ns=self.seeking_ns,
            loop_ns=self._loop_ns,
        )

    def restore(self, state: ReplayState) -> None:
        """Go on as another process did that died: before the first block."""
        self._paused, self._until_ns = state.paused, state.until_ns
        self.position_ns, self.generation = state.position_ns, state.generation
        self.seeking_ns, self._loop_ns = state.seeking_ns, state.loop_ns
        # Nobody knows any more; a loop over nothing then takes one round more to end.
        self._has_moved = True
        self.speed = state.speed
        self._pacer = Pacer(state.speed, self._max_gap_ns) if state.speed else None

    def changes(self) -> Sequence[Change]:
        """Return the changes made since it was last asked."""
        changes, self._changes = self._changes, []
        return changes

    # The block.

    def load(self, key_ts_ns: Int64s, now_ns: int) -> None:
        """Take the keys of the next block, whose rows are then numbered from 0."""
        self._keys, self.done = key_ts_ns, 0
        if self._step_span_ns:
            self._step_until_ns = self._step_end_ns(int(key_ts_ns[0]), self._step_span_ns)
            self._step_span_ns = 0
        if self._pacer is not None:
            if not self._pacer.anchored:
                # There is no schedule yet that a pause could have stopped.
                self._stands_ns = None
            self._due = self._pacer.due_ns(key_ts_ns, now_ns)

    def next_due_ns(self, now_ns: int) -> int:
        """Return when the next row is due, of which there must be one; `NEVER` while it is held.

        Where a bound holds it, that is reached here: the replay is paused, its step done, or its
        loop sought to the begin. During a seek it is 0.
        """
        if self.seeking_ns is None and self._limit() == self.done:
            self._reach(now_ns)
        if self._stepping or self.seeking_ns is not None:
            return 0
        if self._paused:
            return NEVER
        return 0 if self._pacer is None else int(self._due[self.done])

    def take(self, now_ns: int) -> slice:
        """Return the rows that may go now; they count as taken."""
        first, stop = self.done, self._limit()
        if not self._stepping:
            if self._paused:
                stop = first
            elif self._pacer is not None:
                # What has come due meanwhile goes along: sleeping for each would fall behind.
                stop = min(stop, int(np.searchsorted(self._due, now_ns, "right")))
        if stop > first:
            self._note_taken(stop)
        return slice(first, max(stop, first))

    def due_ns(self, rows: slice) -> Int64s:
        """Return when rows of the block are due; nothing where they do not go by a schedule."""
        return _NO_ROWS if self._pacer is None or self._paused else self._due[rows]

    @property
    def _stepping(self) -> bool:
        return bool(self._step_rows or self._step_span_ns) or self._step_until_ns is not None

    def _limit(self) -> int:
        """Return the row of the block before which bounds make it stop; its length for none."""
        stop = len(self._keys)
        for bound_ns in (self._until_ns, self._step_until_ns, self._loop_ns and self._loop_ns[1]):
            if bound_ns is not None:
                stop = min(stop, int(np.searchsorted(self._keys, bound_ns, "left")))
        if self._step_rows:
            stop = min(stop, self.done + self._step_rows)
        return max(stop, self.done)

    def _note_taken(self, stop: int) -> None:
        if self._step_rows:
            self._step_rows -= stop - self.done
        if self._paused and self._pacer is not None:
            # A step moves the schedule along: the next row comes after its distance from this one.
            self._stands_ns = max(self._stands_ns or 0, int(self._due[stop - 1]))
        self.done, self._has_moved = stop, True
        self.position_ns = int(self._keys[stop - 1])

    def _reach(self, now_ns: int) -> None:
        """Stop at the bound that holds the next row."""
        next_ns = int(self._keys[self.done])
        if self._step_until_ns is not None and next_ns >= self._step_until_ns:
            self._end_step()
        if self._until_ns is not None and next_ns >= self._until_ns:
            until = iso_utc(self._until_ns)
            self._until_ns = None
            self._end_step()
            self._pause(now_ns)
            self._note(f"paused {place_text(self.position_ns)}: played until {until}")
        is_at_end = self._loop_ns is not None and next_ns >= self._loop_ns[1]
        if is_at_end and (self._stepping or not self._paused):
            self._go_round(now_ns)

    def come_to_end(self, now_ns: int) -> None:
        """Note that there are no more rows: a loop that ends behind them goes round."""
        if self.seeking_ns is None:
            self._go_round(now_ns)

    def begin_anew(self) -> None:
        """Note that the rows that are loaded from now on are those from `seeking_ns` on."""
        self.seeking_ns = None

    def _go_round(self, now_ns: int) -> None:
        if self._loop_ns is None:
            return
        if self._has_moved:
            self._jump(self._loop_ns[0], "loops back")
            return
        # Round and round at full speed, and never an event.
        window, self._loop_ns = window_text(self._loop_ns), None
        self._end_step()
        self._pause(now_ns)
        self._note(f"paused: there is nothing to loop over from {window}")

    def _end_step(self) -> None:
        self._step_rows, self._step_span_ns, self._step_until_ns = 0, 0, None

    # Commands.

    def apply(self, command: ReplayCommand, now_ns: int) -> ControlAnswer:
        """Do what is commanded; what is so already changes nothing and is no new generation."""
        span = self.span() if command.share is not None else None
        if command.share is not None and span is None:
            text = "how far this replay goes is not known yet: seek to a time instead"
            return ControlAnswer(ok=False, text=text, state=self.state)
        match command.do:
            case Do.PAUSE:
                text = self._hold(now_ns)
            case Do.RESUME:
                text = self._resume(now_ns)
            case Do.TOGGLE:
                text = self._resume(now_ns) if self._paused else self._hold(now_ns)
            case Do.SPEED:
                text = self._change_speed(command.speed or 0.0, now_ns)
            case Do.STEP:
                text = self._step(command, now_ns)
            case Do.UNTIL:
                text = self._play_until(command.at_ns)
            case Do.SEEK:
                text = self._seek(command, span)
            case Do.LOOP:
                text = self._loop_over(command)
            case _:
                text = self.state.sentence()
        return ControlAnswer(ok=True, text=text, state=self.state)

    def _note(self, text: str, to_ns: int | None = None) -> str:
        self.generation += 1
        self._changes.append(Change(self.generation, self.position_ns, text, to_ns))
        return text

    def _hold(self, now_ns: int) -> str:
        if self._paused and not self._stepping:
            return f"it is paused already, {place_text(self.position_ns)}"
        self._end_step()
        self._pause(now_ns)
        return self._note(f"paused {place_text(self.position_ns)}")

    def _pause(self, now_ns: int) -> None:
        if not self._paused:
            self._paused, self._stands_ns = True, now_ns

    def _resume(self, now_ns: int) -> str:
        if not self._paused:
            return f"it runs already, {place_text(self.position_ns)}"
        self._end_step()
        self._go_on(self.speed, now_ns, self._stands_ns)
        self._paused, self._stands_ns = False, None
        return self._note(f"resumed {place_text(self.position_ns)}, {speed_text(self.speed)}")

    def _change_speed(self, speed: float, now_ns: int) -> str:
        if speed == self.speed:
            return f"the speed is {speed_text(speed)} already"
        # While it is paused the schedule stands where it is, and is only measured anew.
        at_ns = self._stands_ns if self._paused else now_ns
        self._go_on(speed, now_ns, at_ns)
        if self._paused and self._stands_ns is not None:
            self._stands_ns = now_ns
        return self._note(f"{speed_text(speed)} from here on, {place_text(self.position_ns)}")

    def _go_on(self, speed: float, now_ns: int, at_ns: int | None) -> None:
        """Go on at a speed; the schedule has come to the moment `at_ns`, None for the next row."""
        left = self._due[self.done :]
        self.speed = speed
        if not speed:
            self._pacer, self._due = None, _NO_ROWS
        elif self._pacer is None:
            self._pacer = Pacer(speed, self._max_gap_ns)
            keys = self._keys[self.done :]
            self._due = self._from_here(self._pacer.due_ns(keys, now_ns))
        else:
            # What is late is not made up for: the schedule has come to the next row at the most.
            if len(left):
                at_ns = int(left[0]) if at_ns is None else min(at_ns, int(left[0]))
            due = self._pacer.reschedule(left, speed, now_ns, now_ns if at_ns is None else at_ns)
            self._due = self._from_here(due)

    def _from_here(self, due_ns: Int64s) -> Int64s:
        """Return due times of the whole block; rows that were taken are due no more."""
        return np.concatenate((np.zeros(self.done, np.int64), due_ns))

    def _step(self, command: ReplayCommand, now_ns: int) -> str:
        self._pause(now_ns)
        # A step that is under way goes on: two presses of a key are two events.
        rows, waiting_ns = self._step_rows, self._step_span_ns
        self._end_step()
        if command.events is not None:
            what = f"{command.events:,} event{'s' if command.events > 1 else ''}"
            self._step_rows = rows + command.events
        if command.span_ns is not None:
            what = f"all events within {span_text(command.span_ns)}"
            if self.position_ns is not None:
                self._step_until_ns = self._step_end_ns(self.position_ns, command.span_ns)
            elif len(self._keys):
                self._step_until_ns = self._step_end_ns(int(self._keys[0]), command.span_ns)
            else:
                self._step_span_ns = waiting_ns + command.span_ns
        return self._note(f"a step of {what}, {place_text(self.position_ns)}")

    def _step_end_ns(self, position_ns: int, span_ns: int) -> int:
        # From where the step before it ended, be it in a hole: steps follow on one another.
        begin_ns = max(position_ns, self._stepped_to_ns)
        self._stepped_to_ns = min(begin_ns + span_ns, INT64_MAX)
        return self._stepped_to_ns

    def _play_until(self, at_ns: int | None) -> str:
        if at_ns == self._until_ns:
            return "that is so already"
        self._until_ns = at_ns
        how_far = "to the end" if at_ns is None else f"until {iso_utc(at_ns)}"
        return self._note(f"plays {how_far}, {place_text(self.position_ns)}")

    def _seek(self, command: ReplayCommand, span: ReplaySpan | None) -> str:
        at_ns, where = command.at_ns, ""
        if span is not None and command.share is not None:
            at_ns = min(max(span.at_ns(command.share), 0), MAX_TIME_NS)
            where = f"{'' if span.is_known else 'about '}{100 * command.share:.6g}%, "
        if at_ns is None:
            if self.position_ns is None:
                return "nothing has been published yet: there is no place to count from"
            at_ns = min(max(self.position_ns + (command.by_ns or 0), 0), MAX_TIME_NS)
        if self._loop_ns is not None and not self._loop_ns[0] <= at_ns < self._loop_ns[1]:
            self._loop_ns = None
        return self._jump(at_ns, f"seeks to {where}{iso_utc(at_ns)},")

    def _loop_over(self, command: ReplayCommand) -> str:
        if command.at_ns is None or command.to_ns is None:
            if self._loop_ns is None:
                return "it does not loop"
            self._loop_ns = None
            return self._note(f"loops no more, {place_text(self.position_ns)}")
        self._loop_ns = (command.at_ns, command.to_ns)
        return self._jump(command.at_ns, f"loops over {window_text(self._loop_ns)}")

    def _jump(self, at_ns: int, text: str) -> str:
        """Forget the block and its schedule; paused is paused, and a step is over."""
        text += f" from {place_text(self.position_ns).removeprefix('at ')}"
        self._note(text, at_ns)
        self._end_step()
        if self._until_ns is not None and self._until_ns <= at_ns:
            self._until_ns = None
        self._keys, self._due, self.done = _NO_ROWS, _NO_ROWS, 0
        self._stepped_to_ns, self._stands_ns = 0, None
        self._pacer = Pacer(self.speed, self._max_gap_ns) if self.speed else None
        self.position_ns = self.seeking_ns = at_ns
        self._has_moved = False
        return text
