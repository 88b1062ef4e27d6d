"""The price of SPY as a function of time: a seeded random walk in cents, plus ordered moves.

The walk is sampled every 10 ms and does not depend on how many events are asked for, so stocks
and options see one price, and a higher event rate does not make it wilder.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ingestor.sim.polygon.phrases import Ints
from ingestor.units import NS_PER_MS, NS_PER_S

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
