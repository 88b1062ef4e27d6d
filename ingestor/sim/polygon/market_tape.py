"""What both markets are made of: the price of SPY, due times, and batches of events.

The price is a seeded random walk in cents plus moves that are ordered. It is sampled every 10 ms
and does not depend on how many events are asked for, so stocks and options see one price, and a
higher event rate does not make it wilder.

A tape draws a whole batch as NumPy columns; one plain loop then writes each event as JSON. At
96,000 events/s the simulator takes a quarter of a core, and a core reaches 320,000.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
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
            self._walk = grown[-BLOCKS_KEPT * BLOCK_STEPS :]
            self._first_step += len(grown) - len(self._walk)
