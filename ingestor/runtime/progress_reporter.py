"""Telling people where a run stands: a line on the terminal, or log lines where nobody watches."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ingestor.model.bounds import printable
from ingestor.model.replay_control import ReplaySpan, ReplayState
from ingestor.model.units import NS_PER_MS, NS_PER_S, iso_utc, new_york_time
from ingestor.model.units import now_ns as wall_ns
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.feed_process import span_of
from ingestor.runtime.log import ERASE, FREE, STDERR, Pen

LONG_WAIT_NS: Final = 10 * NS_PER_S
"""A wait that is told of, since people would take it for a fault."""

AHEAD_NS: Final = NS_PER_S
"""Clocks that differ by less are as right as clocks are; such an event is 0 ms old."""
_MINUTE_NS: Final = 60 * NS_PER_S
_HOUR_NS: Final = 60 * _MINUTE_NS

_LOSSES: Final = {
    Counter.DROPPED_TRADES: ("trade", " dropped"),
    Counter.DROPPED_QUOTES: ("quote", " dropped"),
    Counter.GAPS: ("gap", ""),
}
DEFAULT_COLUMNS: Final = 80
"""Of a terminal that does not tell."""
MIN_BAR, MAX_BAR = 10, 40
"""Characters of a bar; where there is less room than that, the sentence alone tells the share."""

SMOOTHING_NS: Final = 2 * NS_PER_S
"""The rate shown is that of about the last two seconds: what has stopped shows 0 soon."""

log = logging.getLogger(__name__)


class Snapshot(Protocol):
    """Where a run stands."""

    @property
    def share(self) -> float | None:
        """Part of the work that is done, 0 to 1; None where there is no end to it."""
        ...

    def sentence(self) -> str:
        """One line for people."""
        ...

    def sentences(self) -> Sequence[str]:
        """Return that line, and shorter ones for narrow terminals, the longest first."""
        ...


class Progress(Protocol):
    """Reads the counters of a run."""

    def snapshot(self, now_ns: int) -> Snapshot:
        """Return where the run stands at `now_ns` of the monotonic clock."""
        ...


MakeProgress = Callable[[Sequence[tuple[str, CounterRow]], CounterRow], Progress]
"""Makes it from the feeds' names and counters, and the publisher's."""


class Rate:
    """How much a number grows in a second; where it falls, it is counted anew."""

    def __init__(self, now_ns: int, value: int = 0) -> None:
        self._seen = deque([(now_ns, value)])

    def update(self, now_ns: int, value: int) -> float:
        """Return the rate over about the last `SMOOTHING_NS`, or since the beginning."""
        if now_ns <= self._seen[-1][0]:
            return 0.0
        if value < self._seen[-1][1]:
            # As after a seek: what it grows is told from here on.
            self._seen = deque([(now_ns, value)])
            return 0.0
        self._seen.append((now_ns, value))
        while self._seen[1][0] <= now_ns - SMOOTHING_NS:
            self._seen.popleft()
        then_ns, before = self._seen[0]
        return (value - before) / (now_ns - then_ns) * NS_PER_S


class SpeedMeter:
    """Event time per time of a replay, over about the last `SMOOTHING_NS`."""

    def __init__(self, speed: float = 0.0) -> None:
        """`speed` is told until there is one that was measured."""
        self._rate: Rate | None = None
        self.speed = speed

    def update(self, now_ns: int, event_ns: int) -> float:
        """Return the speed; it is measured from the first event on."""
        if self._rate is None:
            self._rate = Rate(now_ns, event_ns) if event_ns else None
        else:
            self.speed = self._rate.update(now_ns, event_ns) / NS_PER_S
        return self.speed


class ProgressReporter:
    """Tells people where a run stands: on the terminal, or every `interval_s` in the log."""

    def __init__(self, progress: Progress, interval_s: float) -> None:
        self._progress = progress
        self._interval_ns = int(interval_s * NS_PER_S)
        self._told_ns = time.monotonic_ns()
        # A dumb terminal (an editor's) cannot take back what it shows.
        self._watched = (
            os.isatty(STDERR)
            and os.environ.get("TERM") != "dumb"
            and log.isEnabledFor(logging.INFO)
        )
        self._line: _Line | None = None

    def tick(self) -> None:
        """Draw the line again, or log one if it is time for it."""
        now_ns = time.monotonic_ns()
        snapshot = self._progress.snapshot(now_ns)
        if self._watched:
            self._line = self._line or _Line()
            self._line.draw(snapshot)
        elif now_ns - self._told_ns >= self._interval_ns:
            self._told_ns = now_ns
            log.info("%s", snapshot.sentence(), extra=FREE)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._line is not None:
            self._line.close()


class _Line:
    """The richest sentence that fits the terminal, behind a bar where there is room and an end.

    The cursor waits before its first character: a terminal that is made narrower breaks the line in
    two, and takes the cursor along with that character, so `ERASE` finds both halves. One column
    stays free, since some terminals go to the next line when the last one is written.
    """

    def __init__(self) -> None:
        self._pen = Pen(STDERR)

    def draw(self, snapshot: Snapshot) -> None:
        # A picture that is not shown in time is left out: the next one says more.
        if not self._pen.drain():
            return
        columns = DEFAULT_COLUMNS
        with contextlib.suppress(OSError):
            # Where nobody has set a size (some pseudo-terminals) it is 0.
            columns = os.get_terminal_size(STDERR).columns or DEFAULT_COLUMNS
        self._pen.put(f"{ERASE}{line_of(snapshot, columns - 1)}\r".encode(errors="replace"))

    def close(self) -> None:
        self._pen.put(ERASE.encode())


def line_of(snapshot: Snapshot, room: int) -> str:
    """Return one line of at most `room` characters: a bar, if there is room, and a sentence."""
    sentences = snapshot.sentences()
    sentence = next((one for one in sentences if len(one) <= room), printable(sentences[-1], room))
    bar = min(room - len(sentence) - 1, MAX_BAR)
    if snapshot.share is None or bar < MIN_BAR:
        return sentence
    done = int(snapshot.share * bar)
    return f"{'━' * done}{'─' * (bar - done)} {sentence}"


@dataclass(frozen=True, slots=True)
class FeedSnapshot:
    """One feed: events per second, ns since its newest event happened (None before the first)."""

    name: str
    rate: float
    age_ns: int | None
    losses: tuple[str, ...] = ()

    def phrase(self) -> str:
        """A part of the line for people."""
        return ", ".join((f"{self.name} {self.rate:,.0f}/s", self._age(), *self.losses))

    def _age(self) -> str:
        if self.age_ns is None:
            return "no event yet"
        if self.age_ns <= -AHEAD_NS:
            return f"the vendor's clock is ahead of ours by {age_text(-self.age_ns)}"
        return f"{age_text(max(self.age_ns, 0))} old"


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """Where a live run stands: events that the server has, and each feed."""

    published: int
    rate: float
    feeds: tuple[FeedSnapshot, ...]
    share: float | None = None

    def sentence(self) -> str:
        """One line for people."""
        return "; ".join((self._published, *(feed.phrase() for feed in self.feeds)))

    def sentences(self) -> Sequence[str]:
        """Return that line, one without ages, and one that tells of losses alone."""
        rates = (
            ", ".join((f"{feed.name} {feed.rate:,.0f}/s", *feed.losses)) for feed in self.feeds
        )
        lost = (f"{feed.name} {', '.join(feed.losses)}" for feed in self.feeds if feed.losses)
        shorter = "; ".join((self._published, *rates))
        return self.sentence(), shorter, "; ".join((self._published, *lost)), self._published

    @property
    def _published(self) -> str:
        return f"{counted(self.published, 'event')}, {self.rate:,.0f}/s"


class LiveProgress:
    """Reads the counters and says how the run is doing."""

    def __init__(self, feeds: Sequence[tuple[str, CounterRow]], publisher: CounterRow) -> None:
        self._feeds = feeds
        self._publisher = publisher
        started_ns = time.monotonic_ns()
        self._rate = Rate(started_ns)
        self._rates = [Rate(started_ns) for _ in feeds]

    def snapshot(self, now_ns: int) -> LiveSnapshot:
        """Return where the run stands at `now_ns` of the monotonic clock."""
        published, feeds = self._publisher[Counter.PUBLISHED], []
        for (name, row), rate in zip(self._feeds, self._rates, strict=True):
            event_ns, lag_ns = row[Counter.EVENT_TIME_NS], row[Counter.SPOOL_LAG_NS]
            losses = [
                f"{counted(row[one], noun)}{what}"
                for one, (noun, what) in _LOSSES.items()
                if row[one]
            ]
            if lag_ns:
                left = row[Counter.SPOOLED]
                more = f", {counted(left, 'event')} to read" if left else ""
                losses.append(f"{age_text(lag_ns)} behind in its journal{more}")
            age_ns = wall_ns() - event_ns if event_ns else None
            rate_per_s = rate.update(now_ns, row[Counter.RECORDS])
            feeds.append(FeedSnapshot(name, rate_per_s, age_ns, tuple(losses)))
        return LiveSnapshot(published, self._rate.update(now_ns, published), tuple(feeds))


def counted(number: int, noun: str) -> str:
    """Return a number of things.

    >>> counted(1, "gap"), counted(1_000, "event")
    ('1 gap', '1,000 events')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def age_text(age_ns: int) -> str:
    """Return an age in the unit that suits it.

    >>> age_text(7_300_000), age_text(90 * NS_PER_S), age_text(20 * _HOUR_NS)
    ('7 ms', '90 s', '20 h')
    """
    if age_ns < 2 * NS_PER_S:
        return f"{age_ns // NS_PER_MS} ms"
    if age_ns < 2 * _MINUTE_NS:
        return f"{age_ns // NS_PER_S} s"
    if age_ns < 2 * _HOUR_NS:
        return f"{age_ns // _MINUTE_NS} min"
    return f"{age_ns // _HOUR_NS} h"


@dataclass(frozen=True, slots=True)
class ReplaySnapshot:
    """Where a run stands; `rate` in events per second, `share` of the input done (0 to 1)."""

    published: int
    rate: float
    event_time_ns: int
    speed: float
    share: float
    eta_s: float | None
    waits: str | None = None
    span: ReplaySpan | None = None
    """From the first event of all files to the last; None before anything is read."""
    told: float = 0.0
    """The speed that was told, which the other may fall short of; 0 as fast as possible."""
    paused: bool = False

    def sentence(self, *, new_york: bool = False) -> str:
        """One line for people; with `new_york` it also tells the time of what is typed there."""
        parts = [counted(self.published, "event"), f"{self.rate:,.0f}/s"]
        if self.paused:
            parts.insert(0, "paused")
        if self.event_time_ns:
            there = f" ({new_york_time(self.event_time_ns)})" if new_york else ""
            parts.append(f"at {iso_utc(self.event_time_ns)[:19]}Z{there}")
        parts += self._speeds()
        parts.append(f"{self.share:.0%} done")
        if self.eta_s is not None:
            parts.append(f"{_clock(self.eta_s)} left")
        if self.waits is not None:
            parts.append(self.waits)
        return ", ".join(parts)

    def sentences(self) -> Sequence[str]:
        """Return that line with New York's time and without, one without the date, shorter ones."""
        total, rate = counted(self.published, "event"), f"{self.rate:,.0f}/s"
        done = f"{self.share:.0%} done"
        if self.waits is not None:
            # What people would take for a fault comes before how fast it was.
            short = self.waits.partition(":")[0]
            shorter = [[total, done, self.waits], [done, self.waits], [done, short], [short]]
        else:
            paused = ["paused"] if self.paused else []
            at = [f"at {iso_utc(self.event_time_ns)[11:19]}Z"] if self.event_time_ns else []
            left = [f"{_clock(self.eta_s)} left"] if self.eta_s is not None else []
            shorter = [
                [*paused, total, rate, *at, *self._speeds(), done, *left],
                [*paused, rate, *self._speeds(), done, *left],
                [*paused, rate, *self._speeds(told=False), done, *left],
                [*paused, done, *left],
                [*paused, done],
            ]
        whole = self.sentence(new_york=True), self.sentence()
        return *whole, *(", ".join(parts) for parts in shorter)

    def _speeds(self, *, told: bool = True) -> list[str]:
        if not self.event_time_ns:
            return []
        wanted = f" of x{self.told:,.6g}" if told and self.told else ""
        return [f"x{self.speed:,.4g}{wanted}"]


class ReplayProgress:
    """Reads the counters and says how far the run is.

    A run as fast as possible is as far as its input is read and published. A paced one is as far as
    its schedule: what is read ahead of it says only where it ends, exactly once all is read, and
    before that by the share of the bytes that is read.
    """

    def __init__(
        self,
        feeds: Sequence[tuple[str, CounterRow]],
        publisher: CounterRow,
        speed: float = 0.0,
        *,
        shortens: bool = False,
        steered: Callable[[], ReplayState | None] = lambda: None,
    ) -> None:
        """`speed` 0 is as fast as possible; `shortens` says that holes are cut short.

        `steered` tells what has been changed since.
        """
        self._feeds = [row for _, row in feeds]
        self._publisher = publisher
        self._paced_speed = speed
        self._shortens = shortens
        self._steered = steered
        self._is_paused = False
        self._started_ns = time.monotonic_ns()
        self._rate = Rate(self._started_ns)
        self._meter = SpeedMeter()
        self._generation = 0
        self._first_event_ns = 0

    def snapshot(self, now_ns: int) -> ReplaySnapshot:
        """Return where the run stands at `now_ns` of the monotonic clock."""
        state = self._steered()  # Read first: once it tells of a seek, the event time has jumped.
        published = self._publisher[Counter.PUBLISHED]
        event_ns = self._publisher[Counter.EVENT_TIME_NS]
        # Who begins to look late, as the page does, is told where the run began.
        self._first_event_ns = (
            self._publisher[Counter.FIRST_EVENT_NS] or self._first_event_ns or event_ns
        )
        span = span_of(self._feeds, self._first_event_ns)
        if state is not None:
            self._paced_speed, self._is_paused = state.speed, state.paused
            if state.generation != self._generation or state.seeking_ns is not None:
                # Time that a seek passes over is no speed, and another speed is not averaged in.
                self._generation = state.generation
                self._meter = SpeedMeter(self._meter.speed)
        if self._paced_speed:
            share, eta_s = self._scheduled(now_ns, event_ns, span)
        else:
            total, read, records = (
                sum(row[counter] for row in self._feeds)
                for counter in (Counter.BYTES_TOTAL, Counter.BYTES_READ, Counter.RECORDS)
            )
            # Of the input what is read, and of that what is published.
            share = read / total * min(published / records, 1.0) if total and records else 0.0
            elapsed_s = (now_ns - self._started_ns) / NS_PER_S
            eta_s = elapsed_s * (1 - share) / share if share else None
        return ReplaySnapshot(
            published,
            self._rate.update(now_ns, published),
            event_ns,
            self._meter.update(now_ns, event_ns),
            share,
            eta_s,
            self._waits(now_ns),
            span,
            told=self._paced_speed,
            paused=self._is_paused,
        )

    def _scheduled(
        self, now_ns: int, event_ns: int, span: ReplaySpan | None
    ) -> tuple[float, float | None]:
        """Return the share of the schedule that is over, and the seconds that are left of it."""
        if not event_ns:
            return 0.0, None
        if span is None:
            return 1.0, 0.0
        at_ns = event_ns
        if waits_for_ns := self._publisher[Counter.WAITS_FOR_NS]:
            # In a hole of the data the schedule goes on though no event is sent.
            due_ns = max(self._publisher[Counter.WAITS_UNTIL_NS] - now_ns, 0)
            at_ns = max(at_ns, waits_for_ns - int(due_ns * self._paced_speed))
        left_ns = max(span.ends_ns - at_ns, 0)
        share = 1 - left_ns / (span.ends_ns - span.first_ns)
        return min(max(share, 0.0), 1.0), left_ns / NS_PER_S / self._paced_speed

    def _waits(self, now_ns: int) -> str | None:
        """Say what a wait is for that people would take for a fault."""
        event_ns = self._publisher[Counter.WAITS_FOR_NS]
        left_ns = self._publisher[Counter.WAITS_UNTIL_NS] - now_ns
        if not event_ns or left_ns < LONG_WAIT_NS:
            return None
        hint = "" if self._shortens else "; --max-gap shortens"
        return f"next event in {age_text(left_ns)}: {iso_utc(event_ns)[:16]}Z{hint}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
