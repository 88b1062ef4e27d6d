"""One market's stream: events that are due, cut into frames. Time comes in; nothing is sent here.

Events are written ahead in batches of about a tenth of a second, each with the time it is due as
its ``t``. A sender that falls behind therefore sends old times: the delay shows, and shows as ours.

The price of SPY is a seeded random walk in cents plus moves that are ordered. It is sampled every
10 ms and does not depend on how many events are asked for, so stocks and options see one price, and
a higher event rate does not make it wilder.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ingestor.model.units import NS_PER_MS, NS_PER_S

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T")

GAP_SHARE: Final = 0.3
GAP_MAX: Final = 20

CENTS_PER_UNIT: Final = 100
MILLS_PER_CENT: Final = 10
MILLS_PER_UNIT: Final = MILLS_PER_CENT * CENTS_PER_UNIT
"""Prices count thousandths, so that the midpoint of a one-cent spread is exact."""

STEP_NS: Final = 10 * NS_PER_MS
BLOCK_STEPS: Final = 1_024
BLOCKS_KEPT: Final = 3
"""Bound of the memory: times further back than this get the oldest price still known."""
MIN_CENTS: Final = 100


def choose(options: Sequence[T], draws: Floats) -> list[T]:
    """One option for each uniform draw in [0, 1)."""
    return [options[index] for index in (draws * len(options)).astype(np.int64).tolist()]


def sequence_steps(draws: Floats) -> Ints:
    """Steps of the vendor's sequence: mostly one, sometimes a gap."""
    return 1 + np.where(draws < GAP_SHARE, draws / GAP_SHARE * GAP_MAX, 0).astype(np.int64)


def prices(mills: Ints) -> list[float]:
    """Mills as numbers that JSON shows as the vendor writes them: 686, 686.1, 686.015."""
    # JSON writes a float of 686 as 686.0; the vendor writes 686.
    return [
        each // MILLS_PER_UNIT if each % MILLS_PER_UNIT == 0 else each / MILLS_PER_UNIT
        for each in mills.tolist()
    ]


def write(is_quote: Bools, trades: Iterable[object], quotes: Iterable[object]) -> list[bytes]:
    """JSON of trades and quotes, each taken in its order where ``is_quote`` says so."""
    # A plain loop over msgspec costs 1.4 us an event, rows of prebuilt JSON text cost 0.9 (best of
    # ten runs in turns on a busy machine; 2.5 and 1.5 in its slow spells). That is 5 to 10 % of a
    # core at 96,000 events/s, for a module less.
    next_trade, next_quote, encode = iter(trades), iter(quotes), msgspec.json.Encoder().encode
    return [encode(next(next_quote if quote else next_trade)) for quote in is_quote.tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class DueTimes:
    """When the events of a batch happen: ns since the market opened, and the vendor's ms UTC."""

    elapsed_ns: Ints
    t_ms: Ints

    def __len__(self) -> int:
        """Number of events."""
        return len(self.t_ms)


@dataclass(frozen=True, slots=True, eq=False)
class EventBatch:
    """Events in order: the JSON of each, and the index of the channel each belongs to."""

    events: list[bytes]
    channels: tuple[str, ...]
    channel: Ints
    is_quote: Bools

    def __len__(self) -> int:
        """Number of events."""
        return len(self.events)

    def wanted_by(self, wants: Callable[[str], bool]) -> Bools | None:
        """Which events a subscriber gets, or None for all of them."""
        # Asked per channel that occurs, not per event: with 20,000 stocks a batch has 2,000 events.
        present, channel = np.unique(self.channel, return_inverse=True)
        names = (self.channels[index] for index in present.tolist())
        wanted = np.fromiter(map(wants, names), np.bool_, len(present))
        return None if wanted.all() else wanted[channel]

    def count(self, index: slice | Ints) -> Counter[str]:
        """How many events of each topic there are."""
        is_quote = self.is_quote[index]
        quotes = int(np.count_nonzero(is_quote))
        return Counter({"T": len(is_quote) - quotes, "Q": quotes})

    def elements(self, index: slice | Ints) -> bytes:
        """JSON elements separated by commas, without brackets; empty for no events."""
        if isinstance(index, slice):
            return b",".join(self.events[index])
        return b",".join([self.events[event] for event in index.tolist()])


class MarketTape(Protocol):
    """A market model: pure, seeded; time comes in with `DueTimes`."""

    def select(self, subscriptions: Collection[str]) -> bool:
        """Take note of what anybody is subscribed to; False when no event would be wanted."""

    def batch(self, due: DueTimes) -> EventBatch:
        """Write the next events, one for each due time."""

    def skip(self, events: int) -> None:
        """Let events pass that nobody is sent: the vendor's sequence goes on without them."""


class Underlying:
    """The mid price in cents; ``volatility`` is cents per square root of a second, 0 for none."""

    def __init__(self, seed: int, start_cents: int, volatility: float) -> None:
        variance = volatility**2 * STEP_NS / NS_PER_S
        # A step is -jump, 0 or +jump: more than a cent only where a cent cannot be wild enough.
        self._jump = max(1, math.ceil(math.sqrt(variance)))
        self._half_chance = variance / self._jump**2 / 2
        self._rng = np.random.default_rng([seed, 0])
        self._first_step = 0
        self._walk = np.full(1, start_cents, np.int64)
        self._base_cents, self._move_cents = 0, 0
        self._move_from_ns, self._move_over_ns = 0, 1

    def cents(self, elapsed_ns: Ints) -> Ints:
        """Prices at times since the market opened, int64 ns."""
        steps = elapsed_ns // STEP_NS
        self._walk_to(int(steps.max(initial=0)))
        # Written ahead, then rewritten: times may go back, at most to the oldest price kept.
        index = np.maximum(steps - self._first_step, 0)
        cents: Ints = self._walk[index] + self._offset(elapsed_ns)
        return cents.clip(MIN_CENTS)

    def at(self, elapsed_ns: int) -> int:
        """Price at one time."""
        return int(self.cents(np.array([elapsed_ns], np.int64))[0])

    def move(self, to_cents: int, at_ns: int, over_ns: int = 0) -> None:
        """Go to a price from ``at_ns`` on, in a straight line; the walk goes on around it."""
        here = np.array([at_ns], np.int64)
        base = int(self._offset(here)[0])
        self._move_cents = to_cents - self.at(at_ns)
        self._base_cents = base
        self._move_from_ns, self._move_over_ns = at_ns, max(over_ns, 1)

    def _offset(self, elapsed_ns: Ints) -> Ints:
        if not self._move_cents:
            return np.full(len(elapsed_ns), self._base_cents, np.int64)
        # A move at once is over at its own nanosecond, not one later.
        share = (elapsed_ns - self._move_from_ns + (self._move_over_ns == 1)) / self._move_over_ns
        moved = np.rint(np.clip(share, 0, 1) * self._move_cents)
        return self._base_cents + moved.astype(np.int64)

    def _walk_to(self, step: int) -> None:
        while self._first_step + len(self._walk) <= step:
            draws = self._rng.random(BLOCK_STEPS)
            up = (draws > 1 - self._half_chance).astype(np.int64)
            steps = (up - (draws < self._half_chance)) * self._jump
            grown = np.concatenate((self._walk, self._walk[-1] + np.cumsum(steps)))
            # 30 s of prices: batches are written a tenth of a second ahead and may be rewritten.
            self._walk = grown[-BLOCKS_KEPT * BLOCK_STEPS :]
            self._first_step += len(grown) - len(self._walk)


AHEAD_PER_S: Final = 10
"""A batch holds a tenth of a second of events, within the next bound."""
FRAME_EVENTS: Final = 2_000
"""Most events in a batch, hence in a frame: about 300 kB, well under a reader's usual limit of
1 MiB, and written in 3 ms."""
TICK_EVENTS: Final = 20_000
"""Most events sent in one go when catching up, so that the control channel stays alive."""


class Schedule:
    """Events at a fixed rate a second from an anchor on; a rate of 0 is silence.

    Event ``k`` is due at the anchor plus ``k / rate`` seconds, rounded up to a whole ns. All of it
    is integer arithmetic from one anchor, so that errors never add up.
    """

    def __init__(self, rate: int, now_ns: int) -> None:
        self.rate = rate
        self._event, self._time_ns = 0, now_ns

    def anchor(self, event: int, now_ns: int, rate: int) -> None:
        """From now on: event number ``event`` is due now, the others after it at ``rate``."""
        self.rate = rate
        self._event, self._time_ns = event, now_ns

    def due(self, now_ns: int) -> int:
        """How many events are due by now, counted from the first ever."""
        if not self.rate:
            return self._event
        return self._event + (now_ns - self._time_ns) * self.rate // NS_PER_S + 1

    def due_at(self, event: int) -> int:
        """Due time of one event; the rate must not be 0."""
        # Python's integers: an event a long way from its anchor overflows no product here.
        return self._time_ns - (self._event - event) * NS_PER_S // self.rate

    def due_ns(self, first: int, count: int) -> Ints:
        """Due times of ``count`` events from ``first`` on; the rate must not be 0."""
        # The anchor moves by whole seconds, which is exact: products stay in 64 bits.
        seconds = max(0, first - self._event) // self.rate
        self._event += seconds * self.rate
        self._time_ns += seconds * NS_PER_S
        numbers = np.arange(first - self._event, first - self._event + count, dtype=np.int64)
        # Negated twice, floor division rounds up: no event is due before its time.
        return self._time_ns - (-numbers * NS_PER_S // self.rate)


class MarketTime:
    """From the monotonic clock to market time (0 at the first subscription) and to vendor ms."""

    def __init__(self, wall_offset_ns: int) -> None:
        self._offset_ns = wall_offset_ns
        self._opened_ns: int | None = None

    def open(self, now_ns: int) -> None:
        """Begin, once."""
        if self._opened_ns is None:
            self._opened_ns = now_ns

    def jump(self, ms: int) -> None:
        """Set the vendor's clock forward, or back."""
        self._offset_ns += ms * NS_PER_MS

    def elapsed_ns(self, now_ns: int) -> int:
        """Time since the opening."""
        return 0 if self._opened_ns is None else now_ns - self._opened_ns

    def wall_ms(self, now_ns: int) -> int:
        """The vendor's clock."""
        return (now_ns + self._offset_ns) // NS_PER_MS

    def due(self, due_ns: Ints) -> DueTimes:
        """Both times of many events."""
        opened_ns = self._opened_ns or 0
        return DueTimes(due_ns - opened_ns, (due_ns + self._offset_ns) // NS_PER_MS)


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Events ``rows`` of a batch, to be sent as one frame."""

    batch: EventBatch
    rows: slice


class EventStream:
    """Paces a tape; ``limit`` is the number of events after which it falls silent, 0 for none."""

    def __init__(self, tape: MarketTape, time: MarketTime, rate: int, limit: int = 0) -> None:
        self.tape = tape
        self.sent = 0
        self.behind_ns = 0
        self.behind_max_ns = 0
        self._time = time
        self._limit = limit
        self._schedule = Schedule(rate, 0)
        self._running = False
        self._left_ns: int | None = None
        self._batch: EventBatch | None = None
        self._used = 0

    @property
    def rate(self) -> int:
        """Events a second."""
        return self._schedule.rate

    @property
    def finished(self) -> bool:
        """The limit is reached."""
        return bool(self._limit) and self.sent >= self._limit

    def select(self, subscriptions: Collection[str], now_ns: int) -> None:
        """Start, stop or go on, by what anybody is subscribed to."""
        wanted = self.tape.select(subscriptions)
        # What is written ahead is for those who were subscribed until now.
        self.rewrite()
        if wanted and not self._running:
            self._time.open(now_ns)
            if self._left_ns is not None:
                # The vendor's sequence went on for what nobody was sent since they left.
                unsent = self._schedule.due(now_ns) - self._schedule.due(self._left_ns)
                self.tape.skip(max(0, unsent))
            # Due from now on: what nobody was sent is not made up for.
            self._schedule.anchor(self.sent, now_ns, self.rate)
        elif self._running and not wanted:
            self._left_ns = now_ns
        self._running = wanted

    def set_rate(self, rate: int, now_ns: int) -> None:
        """Go on at another rate from now."""
        self._schedule.anchor(self.sent, now_ns, rate)
        self.rewrite()

    def rewrite(self) -> None:
        """Forget what is written ahead: the next events are to be written anew."""
        self._batch, self._used = None, 0

    def next_due_ns(self) -> int | None:
        """When the next event is due, or None for never."""
        if not self._running or not self.rate or self.finished:
            return None
        return self._schedule.due_at(self.sent)

    def slices(self, now_ns: int, tolerance_ns: int) -> Iterator[Slice]:
        """Yield what is due and take it as sent; more than ``tolerance_ns`` late is behind."""
        next_due_ns = self.next_due_ns()
        if next_due_ns is None:
            return
        self.behind_ns = max(0, now_ns - next_due_ns - tolerance_ns)
        self.behind_max_ns = max(self.behind_max_ns, self.behind_ns)
        # A sender that was stopped for a while catches up in portions, the rest at the next tick.
        due = min(self._schedule.due(now_ns), self.sent + TICK_EVENTS)
        due = min(due, self._limit) if self._limit else due
        while self.sent < due:
            yield self._next_slice(due - self.sent)

    def _next_slice(self, wanted: int) -> Slice:
        batch = self._batch
        if batch is None or self._used == len(batch):
            count = min(max(self.rate // AHEAD_PER_S, 1), FRAME_EVENTS)
            due = self._time.due(self._schedule.due_ns(self.sent, count))
            batch, self._used = self.tape.batch(due), 0
        first = self._used
        self._used = min(first + wanted, len(batch))
        self._batch = batch
        self.sent += self._used - first
        return Slice(batch, slice(first, self._used))
