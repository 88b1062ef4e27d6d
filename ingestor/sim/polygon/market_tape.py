"""What a market model hands to the sender: batches of events that are written but not yet sent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ingestor.sim.polygon.phrases import Ints, Words, squeeze
from ingestor.units import NS_PER_MS, NS_PER_S

Floats = npt.NDArray[np.float64]

GAP_SHARE: Final = 0.3
GAP_MAX: Final = 20


def pick(draws: Floats, count: int) -> Ints:
    """Uniform draws in [0, 1) to indices below ``count``."""
    return (draws * count).astype(np.int64)


def sequence_steps(draws: Floats) -> Ints:
    """Steps of the vendor's sequence: mostly one, sometimes a gap."""
    return 1 + np.where(draws < GAP_SHARE, draws / GAP_SHARE * GAP_MAX, 0).astype(np.int64)


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
    """Events in order: row text (each ends with a comma) and the channel each belongs to."""

    rows: Words
    channels: tuple[str, ...]
    channel: Ints
    is_quote: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of events."""
        return len(self.rows)

    def wanted_by(self, wants: Callable[[str], bool]) -> npt.NDArray[np.bool_] | None:
        """Which events a subscriber gets, or None for all of them."""
        wanted = np.fromiter(map(wants, self.channels), np.bool_, len(self.channels))
        return None if wanted.all() else wanted[self.channel]

    def count(self, index: slice | Ints) -> Counter[str]:
        """How many events of each topic there are."""
        is_quote = self.is_quote[index]
        quotes = int(np.count_nonzero(is_quote))
        return Counter({"T": len(is_quote) - quotes, "Q": quotes})

    def elements(self, index: slice | Ints) -> bytes:
        """JSON elements separated by commas, without brackets; empty for no events."""
        return squeeze(self.rows[index])[:-1]


class MarketTape(Protocol):
    """A market model: pure, seeded; time comes in with `DueTimes`."""

    def select(self, subscriptions: Collection[str]) -> bool:
        """Take note of what anybody is subscribed to; False when no event would be wanted."""

    def batch(self, due: DueTimes) -> EventBatch:
        """Write the next events, one for each due time."""

    def skip(self, events: int) -> None:
        """Let events pass that nobody is sent: the vendor's sequence goes on without them."""


STEP_NS: Final = 10 * NS_PER_MS
BLOCK_STEPS: Final = 1_024
BLOCKS_KEPT: Final = 3
"""Bound of the memory: times further back than this get the oldest price still known."""
MIN_CENTS: Final = 100


class Underlying:
    """The mid price in cents; ``volatility`` is cents per square root of a second, 0 for none."""

    def __init__(self, seed: int, start_cents: int, volatility: float) -> None:
        variance = volatility**2 * STEP_NS / NS_PER_S
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
