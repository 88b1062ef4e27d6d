"""Scripts: a tape turned into MBP-10 records that can be played again and again.

A script starts from a book at rest around best bid 0 and, if it was settled, ends at rest around
another, so it can follow itself with prices moved by a constant: the seam shows nothing. Seen in
a mirror (bids for asks, prices negated) it does so in the opposite direction. Playing it costs an
addition to all words of the records (prices, sequence) and two columns of times, so ten gigabytes
need no more thought than ten megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from ingestor.model.blocks import Int64s
from ingestor.model.records import LEVELS, MBP10, Records, RType
from ingestor.model.units import NS_PER_US, PRICE_SCALE
from ingestor.sim.book import BookTape, Draws

TICK_E9: Final = PRICE_SCALE // 4
PUBLISHER_ID: Final = 1
INSTRUMENT_ID: Final = 999_000_001
"""Stands for no real contract; CME's own ids are far below."""

FLAG_LAST: Final = 128

STORM_EVERY: Final = 1_000
STORM_EVENTS: Final = 32
"""Of `STORM_EVERY` events, `STORM_EVENTS` in a row share one ts_event."""

_WORDS: Final = MBP10.itemsize // 8
_PRICE_WORDS: Final = [2, *(6 + 4 * level + side for level in range(LEVELS) for side in (0, 1))]
_SEQUENCE_WORD: Final = 5
_SEQUENCE_UNIT: Final = 2**32
"""One step of the sequence in its word; the lower half is ts_in_delta."""

_TIE_PERMILLE: Final = 15
_BURST_PERMILLE: Final = 740
_BURST_MAX_NS: Final = 900 * NS_PER_US
_BURST_STEP_NS: Final = 60
_IN_DELTA_MIN_NS: Final = 13_000
_IN_DELTA_NS: Final = 2_500
_LATENCY_MIN_NS: Final = 80 * NS_PER_US
_LATENCY_NS: Final = 30 * NS_PER_US
_GAP_UNITS: Final = 60
_ONE_PACKET_PERMILLE: Final = 400
"""Of records of events that share ts_event with another, how many share its packet too."""


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """Records and their timing, row by row.

    ``words`` (int64, rows x 46) are MBP-10 records around bid 0, with sequences counted from 0
    and no times. ``units``, ``after_ns``, ``latency_ns`` (int64, one per row) say when a row
    happens: activity since the start, nanoseconds on top of it, and from event to reception.
    ``shift`` is by how many ticks the book has moved at the end.
    """

    words: Int64s
    units: Int64s
    after_ns: Int64s
    latency_ns: Int64s
    shift: int

    def __len__(self) -> int:
        return len(self.words)

    def whole_events(self, rows: int) -> int:
        """Return the largest number of rows up to `rows` that does not cut an event."""
        ends = np.flatnonzero(as_records(self.words[:rows])["flags"] & FLAG_LAST)
        return int(ends[-1]) + 1 if len(ends) else 0

    def units_of(self, rows: int) -> int:
        """Return the activity in the first `rows` rows, one at least."""
        return int(self.units[rows - 1])

    def mirrored(self) -> Script:
        """Return the same script with bids and asks changed over."""
        words = self.words.copy()
        words[:, _PRICE_WORDS] = TICK_E9 - words[:, _PRICE_WORDS]
        records = as_records(words)
        levels = records["levels"]
        for name in ("px_e9", "sz", "ct"):
            bid = levels[f"bid_{name}"].copy()
            levels[f"bid_{name}"] = levels[f"ask_{name}"]
            levels[f"ask_{name}"] = bid
        # A script has no row without a side: those are written outside of trading.
        records["side"] = np.where(records["side"] == ord("A"), ord("B"), ord("A"))
        return replace(self, words=words, shift=-self.shift)


def as_records(words: Int64s) -> Records:
    """View rows of words as MBP-10 records, without copying."""
    return words.view(MBP10)[:, 0]


def moved_by(price_e9: int, sequence: int) -> Int64s:
    """Return the words to add to a record to move its prices and its sequence."""
    # One addition over whole rows costs a third of adding to the same words field by field.
    words = np.zeros(_WORDS, np.int64)
    words[_PRICE_WORDS] = price_e9
    words[_SEQUENCE_WORD] = sequence * _SEQUENCE_UNIT
    return words


def write_script(tape: BookTape, draws: Draws, shift: int = 0) -> Script:
    """Turn a tape into a script, with timing drawn for it."""
    rows = np.array(tape.heads, np.int64).reshape(len(tape), len(BookTape.HEAD_FIELDS))
    heads = dict(zip(BookTape.HEAD_FIELDS, rows.T, strict=True))
    event = heads["event"] - heads["event"][0]
    gaps, after_ns, tied = _gaps(int(event[-1]) + 1, draws)
    # An event joins the packet of the one before it where the tape says so, or by chance.
    new = np.diff(heads["packet"], prepend=heads["packet"][0] - 1) > 0
    joins = ~new | tied[event] & (draws.permille(len(event)) < _ONE_PACKET_PERMILLE)
    packet = np.cumsum(~joins) - 1
    records = _records(tape, heads)
    records["flags"] = np.where(np.diff(event, append=event[-1] + 1), FLAG_LAST, 0)
    records["sequence"] = np.cumsum(1 + draws.permille(int(packet[-1]) + 1) // 600)[packet]
    records["ts_in_delta_ns"] = _IN_DELTA_MIN_NS + _skewed(draws, len(packet), _IN_DELTA_NS)[packet]
    return Script(
        records.view(np.int64).reshape(len(records), _WORDS),
        np.cumsum(gaps)[event],
        after_ns[event],
        _LATENCY_MIN_NS + _skewed(draws, len(packet), _LATENCY_NS)[packet],
        shift,
    )


def _records(tape: BookTape, heads: dict[str, Int64s]) -> Records:
    records = np.zeros(len(tape), MBP10)
    records["length"] = MBP10.itemsize // 4
    records["rtype"] = RType.MBP10
    records["publisher_id"] = PUBLISHER_ID
    records["instrument_id"] = INSTRUMENT_ID
    records["price_e9"] = heads["tick"] * TICK_E9
    for name in ("size", "action", "side", "depth"):
        records[name] = heads[name]
    books = np.array(tape.books, np.int64).reshape(len(tape), 2, 3, LEVELS)
    for side, prefix in enumerate(("bid", "ask")):
        records["levels"][f"{prefix}_px_e9"] = books[:, side, 0] * TICK_E9
        records["levels"][f"{prefix}_sz"] = books[:, side, 1]
        records["levels"][f"{prefix}_ct"] = books[:, side, 2]
    return records


def _gaps(events: int, draws: Draws) -> tuple[Int64s, Int64s, Any]:
    """Return activity before each event, nanoseconds after it, and which tie with the last.

    Gaps are heavy-tailed; most events follow each other in bursts without any.
    """
    kind = draws.permille(events)
    storm = np.arange(events) % STORM_EVERY - STORM_EVERY // 2
    tied = (kind < _TIE_PERMILLE) | ((storm > 0) & (storm < STORM_EVENTS))
    # The first event has none to tie with.
    tied[0] = False
    bursts = ~tied & (kind < _BURST_PERMILLE)
    bursts[0] = False
    gaps = np.where(tied | bursts, 0, 1 + _skewed(draws, events, _GAP_UNITS))
    since_start = np.cumsum(np.where(bursts, 1 + draws.permille(events), 0) * _BURST_STEP_NS)
    # Time within a burst counts from the event that opened it, which is the last one with a gap.
    burst_start = np.maximum.accumulate(np.where(gaps, since_start, 0))
    return gaps, np.minimum(since_start - burst_start, _BURST_MAX_NS), tied


def _skewed(draws: Draws, count: int, scale: int) -> Int64s:
    """Return integers with a median near `scale` and a tail of up to 20 times `scale`."""
    even = draws.permille(count)
    skewed: Int64s = scale * even // (1_050 - even)
    return skewed
