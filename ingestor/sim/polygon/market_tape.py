"""What a market model hands to the sender: batches of events that are written but not yet sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ingestor.sim.polygon.phrases import Ints, Words, squeeze

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
class Due:
    """When the events of a batch happen: ns since the market opened, and the vendor's ms UTC."""

    elapsed_ns: Ints
    t_ms: Ints

    def __len__(self) -> int:
        """Number of events."""
        return len(self.t_ms)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
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


class Tape(Protocol):
    """A market model: pure, seeded; time comes in with `Due`."""

    def select(self, subscriptions: Collection[str]) -> bool:
        """Take note of what anybody is subscribed to; False when no event would be wanted."""

    def batch(self, due: Due) -> Batch:
        """Write the next events, one for each due time."""

    def skip(self, events: int) -> None:
        """Let events pass that nobody is sent: the vendor's sequence goes on without them."""
