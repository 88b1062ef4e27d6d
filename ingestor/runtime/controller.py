"""From the doors of a replay to its publisher: commands through a pipe, answers in shared memory.

Doors are the keys of a terminal (in the supervisor), a service on the server (in a process of its
own) and the page's buttons (in the metrics process). Any of them may die at any moment, so there is
no lock: a line of at most PIPE_BUF bytes goes into a pipe as a whole, however many write, and the
publisher, who alone reads, looks when its event loop tells it to. It shows the state, and its last
answers by the number of the command, in one slot that it alone writes. So steering costs a row
nothing, and a publisher that follows one that died goes on as that one stood.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import uuid4

import msgspec

from ingestor.merge.steering import NEVER, Change, Steering
from ingestor.model.blocks import Runs
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.replay_control import (
    TIMED,
    ControlAnswer,
    Do,
    ReplayCommand,
    ReplayState,
    parse_command,
)
from ingestor.model.units import NS_PER_S, now_ns
from ingestor.runtime.counters import Counter, CounterRow, CounterTable, Slots

ANSWER_TIMEOUT_S: Final = 2.0
"""A command that the publisher has not seen by then is not done any more."""

MAX_ANSWERS: Final = 16
"""Answers that are shown: as many as fit in a slot. A door looks every `POLL_S`; one that has no
CPU while so many others are answered takes its own for lost."""
POLL_S: Final = 0.005
LAST_LOOK_S: Final = 0.05
"""A command that was done in the last moment is shown by then."""

IDLE_S: Final = 0.5
"""Longest sleep before it is looked whether the run is to stop."""
LOOP_TIMER_ERROR_NS: Final = 2_000_000
"""An event loop's timer counts milliseconds; the last two are slept exactly, and block only
what can wait for 2 ms."""

REPLAY: Final = "replay"
"""The feed under which a replay tells what was done to it."""

_READ_BYTES: Final = 64 * 1024
"""All that a pipe holds, so that what is read ends with a line."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Steered:
    """What a replay is steered by: its state, the way on which commands come, and its service.

    The service runs in a process of its own, which is given the shared memory, the number of feeds
    and its row.
    """

    steering: Steering
    controller: Controller
    service: Callable[[CounterTable, int, int], None] | None = None


class _Sent(msgspec.Struct, frozen=True):
    """A line in the pipe; a command that is older than its door waits is not done."""

    number: str
    by_ns: int
    command: ReplayCommand


class _Shown(msgspec.Struct, frozen=True):
    state: ReplayState
    answers: dict[str, ControlAnswer]


def status_of(change: Change) -> FeedStatus:
    """Return what a replay tells of a change that was made now."""
    return FeedStatus(
        feed=REPLAY,
        what=What.CONTROL,
        at_ns=now_ns(),
        text=change.text,
        from_event_ns=change.position_ns,
        to_event_ns=change.to_ns,
        generation=change.generation,
    )


async def pause(ended: asyncio.Event, pause_s: float) -> None:
    """Sleep, or until the end if that comes first."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause_s):
            await ended.wait()


class Controller:
    """Both ends of the way; made before the processes fork, by the one that a signal stops."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._slot = Slots(1)
        self._answers: deque[tuple[str, ControlAnswer]] = deque(maxlen=MAX_ANSWERS)
        self._supervisor_pid = os.getpid()

    @property
    def state(self) -> ReplayState | None:
        """How the replay stood after the last change; None before the publisher's first word."""
        shown = self._shown()
        return None if shown is None else shown.state

    # The doors' end.

    def apply(self, command: ReplayCommand) -> ControlAnswer:
        """Have a command done, and return the answer, after `ANSWER_TIMEOUT_S` at the latest."""
        asking = self._asking(command)
        while (answer := next(asking)) is None:
            time.sleep(POLL_S)
        return answer

    async def ask(self, command: ReplayCommand, ended: asyncio.Event) -> ControlAnswer:
        """Do as `apply` on an event loop, until the run has ended."""
        asking = self._asking(command)
        while (answer := next(asking)) is None and not ended.is_set():
            # Woken by the end: what is said 5 ms later no connection takes any more.
            await pause(ended, POLL_S)
        return answer or ControlAnswer(ok=False, text="the replay has come to its end")

    async def ask_typed(self, words: Sequence[str], ended: asyncio.Event) -> ControlAnswer:
        """Do as `ask` with what is typed behind ``ctl``. Raises ConfigurationError."""
        at_ns = None
        # Only its time may be told from where the replay is, which costs a round to it: `state`
        # tells its last change.
        if words and words[0] in TIMED:
            state = (await self.ask(ReplayCommand(do=Do.STATUS), ended)).state or self.state
            at_ns = None if state is None else state.position_ns
        return await self.ask(parse_command(words, at_ns), ended)

    def send(self, command: ReplayCommand) -> None:
        """Send a command whose answer nobody waits for."""
        next(self._asking(command))

    def _asking(self, command: ReplayCommand) -> Iterator[ControlAnswer | None]:
        """Send a command; yield None until there is an answer."""
        if command.do is Do.STOP:
            # A stop is the signal that stops a run, so that there is one way to end in order.
            os.kill(self._supervisor_pid, signal.SIGTERM)
            yield ControlAnswer(ok=True, text="stopping in order", state=self.state)
        number, by_ns = uuid4().hex[:12], time.monotonic_ns() + int(ANSWER_TIMEOUT_S * NS_PER_S)
        line = msgspec.json.encode(_Sent(number, by_ns, command)) + b"\n"
        sent, shown = False, None
        while (now_ns := time.monotonic_ns()) < by_ns + int(LAST_LOOK_S * NS_PER_S):
            sent = sent or (now_ns < by_ns and self._write(line))
            shown = self._shown()
            if shown is not None and number in shown.answers:
                yield msgspec.structs.replace(shown.answers[number], state=shown.state)
            yield None
        state = None if shown is None else shown.state
        text = f"the publisher has not answered for {ANSWER_TIMEOUT_S:g} s: nothing is changed"
        yield ControlAnswer(ok=False, text=text, state=state)

    def _write(self, line: bytes) -> bool:
        """Put a line in the pipe; False while it is full, which takes 300 that nobody has read."""
        try:
            return bool(os.write(self._write_fd, line))
        except BlockingIOError:
            return False

    def _shown(self) -> _Shown | None:
        data = self._slot.get(0)
        return None if data is None else msgspec.json.decode(data, type=_Shown)

    # The publisher's end.

    def begin(self, steering: Steering) -> None:
        """Have a publisher begin as another stood that died, and show how it stands."""
        if (state := self.state) is not None:
            steering.restore(state)
        self.show(steering)

    def listen(self, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        """Have `heard`, which is to `obey`, called on the loop whenever there are commands."""
        loop.add_reader(self._read_fd, heard)

    def obey(self, steering: Steering) -> None:
        """Do what has been commanded."""
        for sent in self._arrived():
            now_ns = time.monotonic_ns()
            if now_ns < sent.by_ns:
                answer = steering.apply(sent.command, now_ns)
                if not answer.ok:
                    # Who pressed a key waits for no answer.
                    log.info("replay: %s", answer.text)
                self._answers.append((sent.number, msgspec.structs.replace(answer, state=None)))

    def show(self, steering: Steering) -> None:
        """Show how it stands; for the publisher alone."""
        self._slot.put(0, msgspec.json.encode(_Shown(steering.state, dict(self._answers))))

    def close(self) -> None:
        """Release the pipe."""
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _arrived(self) -> Iterator[_Sent]:
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self._read_fd, _READ_BYTES).splitlines():
                yield msgspec.json.decode(line, type=_Sent)


class Pace:
    """In the publisher: waits until rows are due, and does meanwhile what is commanded."""

    def __init__(
        self,
        steered: Steered,
        table: CounterTable,
        row: CounterRow,
        tell: Callable[[FeedStatus], None],
    ) -> None:
        """`row` is the publisher's; `tell` publishes a status."""
        self.steering = steered.steering
        self._controller = steered.controller
        self._table = table
        self._row = row
        self._tell = tell
        self._sleeper: asyncio.Future[None] | None = None

    @property
    def seeks(self) -> bool:
        """Whether a seek is under way."""
        return self.steering.seeking_ns is not None

    def listen(self, loop: asyncio.AbstractEventLoop, on_seek: Callable[[], None]) -> None:
        """Begin as a publisher stood that died, and do what is commanded from here on."""
        self._controller.begin(self.steering)
        self._controller.listen(loop, partial(self._obey, on_seek))

    def show(self) -> None:
        """Show how the replay stands."""
        self._controller.show(self.steering)

    def come_to_end(self) -> None:
        """Note that all rows are sent: a loop goes round once more."""
        self.steering.come_to_end(time.monotonic_ns())
        self._tell_changes()

    async def until_due(self, runs: Runs) -> bool:
        """Sleep until the next row is due, to some tens of us; False to stop or seek instead."""
        steering, generation = self.steering, -1
        while True:
            now_ns = time.monotonic_ns()
            due_ns = steering.next_due_ns(now_ns)
            if steering.seeking_ns is not None:
                self._tell_changes()
                return False
            if (left_ns := due_ns - now_ns) <= LOOP_TIMER_ERROR_NS:
                break
            if self._table.stopping:
                return False
            if generation != steering.generation:
                generation = steering.generation
                self._tell_changes()
                held = due_ns == NEVER
                self._row[Counter.WAITS_UNTIL_NS] = 0 if held else due_ns
                self._row[Counter.WAITS_FOR_NS] = 0 if held else int(runs.key_ts_ns[steering.done])
            await self._sleep(min((left_ns - LOOP_TIMER_ERROR_NS) / NS_PER_S, IDLE_S))
        if generation != -1:
            self._row[Counter.WAITS_FOR_NS] = 0
        if left_ns > 0:
            # Blocks the loop for 2 ms at most: its timers count in ms, this is good to tens of us.
            time.sleep(left_ns / NS_PER_S)
        return True

    async def _sleep(self, delay_s: float) -> None:
        """Sleep as asyncio does, or until a command comes."""
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = loop.call_later(delay_s, self._wake)
        try:
            await self._sleeper
        finally:
            timer.cancel()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _obey(self, on_seek: Callable[[], None]) -> None:
        self._controller.obey(self.steering)
        self._tell_changes()
        self._wake()
        if self.seeks:
            on_seek()

    def _tell_changes(self) -> None:
        """Tell each change that was made, be it by a command or by a bound that was reached."""
        for change in self.steering.changes():
            log.info("replay: %s", change.text)
            self._tell(status_of(change))
        self.show()
