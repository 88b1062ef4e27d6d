"""What became of every event that the vendor sent: a plain second reading of all sides.

Nothing of the program is used here but what its formats say: the vendor's elements, the events of
the contract, the statuses, the journal.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

STOCK_TRADES: Final = "market.stocks.trades"
STOCK_QUOTES: Final = "market.stocks.quotes"
OPTION_TRADES: Final = "market.options.trades"
FEEDS: Final = {STOCK_TRADES: "stocks", STOCK_QUOTES: "stocks", OPTION_TRADES: "options"}
NS_PER_MS: Final = 1_000_000

Key = tuple[Any, ...]
"""Subject, time of the event in ns, and all else that the contract takes from the vendor's element;
receipt and aggressor are not of the vendor."""

Span = tuple[int, int]
"""From an event's time to another's, both included, ns UTC."""

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def sent_events(frame: bytes) -> Iterator[Key]:
    """Yield what a frame of the vendor holds of the events that are to be stored."""
    elements = msgspec.json.decode(frame)
    for one in elements if isinstance(elements, list) else [elements]:
        is_option = one.get("sym", "").startswith("O:")
        if one.get("ev") == "T":
            subject = OPTION_TRADES if is_option else STOCK_TRADES
            exchange = None if is_option else one["x"]
            more = (one["p"], one["s"], exchange, tuple(one.get("c", ())))
        elif one.get("ev") == "Q" and not is_option:
            subject = STOCK_QUOTES
            more = tuple(one[name] for name in ("bp", "ap", "bs", "as", "bx", "ax"))
        else:
            continue
        yield (subject, one["t"] * NS_PER_MS, one["sym"], one["q"], *more)


def stored_event(subject: str, data: bytes) -> Key:
    """Return the same of a message of the stream."""
    one = msgspec.json.decode(data)
    symbol = one["option_symbol" if subject == OPTION_TRADES else "symbol"]
    if subject == STOCK_QUOTES:
        names = ("bid_px", "ask_px", "bid_sz", "ask_sz", "bid_exch", "ask_exch")
        more = tuple(one[name] for name in names)
    else:
        more = (one["price"], one["size"], one.get("exchange"), tuple(one["conditions"]))
    return (subject, one["ts_event_ns"], symbol, one["seq"], *more)


def logged_frames(path: Path) -> Iterator[bytes]:
    """Yield the frames of a simulator's log: a line each, the number of its connection first."""
    with path.open("rb") as lines:
        for line in lines:
            yield line.partition(b" ")[2]


def recorded_frames(folder: Path) -> Iterator[bytes]:
    """Yield the frames of a journal; damaged entries are passed over."""
    for path in sorted(folder.glob("*.journal*")):
        data = path.read_bytes()
        if path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if len(data) < 8:
            continue
        at = int.from_bytes(data[6:8], "little")
        seed = int.from_bytes(data[at - 4 : at], "little")
        while (at := data.find(b"\xabFRM", at)) >= 0 and at + 32 <= len(data):
            checksum, size, connection = struct.unpack_from("<III", data, at + 4)
            end = at + 32 + size
            if end > len(data) or crc32(data[at + 8 : end], seed) != checksum:
                at += 4
                continue
            if connection:
                yield data[at + 32 : end]
            at = end


@dataclass
class Verdict:
    """Counts of events, but for `missing_spans` and `inexact`."""

    sent: int = 0
    stored: int = 0
    missing: int = 0
    missing_spans: int = 0
    untold: int = 0
    """Missing, and no status has a span that holds them."""
    inexact: int = 0
    """Spans that are told, but by no status from the event before to the one after."""
    doubled: int = 0
    disordered: int = 0
    """Stored behind one that the vendor sent later."""
    foreign: int = 0
    """Stored or recorded, and the vendor never sent it so."""
    received_missing: int = 0
    """Missing, though the journal has it."""
    stored_unrecorded: int = 0
    """Stored, though the journal does not have it."""

    @property
    def broken(self) -> int:
        """How many events went wrong."""
        return self.untold + self.doubled + self.disordered + self.foreign

    def add(self, other: Verdict) -> None:
        """Count another's too."""
        for field in fields(self):
            name = field.name
            setattr(self, name, getattr(self, name) + getattr(other, name))


class FeedAccount:
    """All events of one feed, in the vendor's order."""

    def __init__(self) -> None:
        # The hash stands for the event: an hour of 5,000/s takes 0.5 GB so, and 7 GB as tuples.
        self._sent = array("q")
        self._times_ns = array("q")
        self._stored = array("q")
        self._recorded = array("q")
        self.spans: list[Span] = []
        """What statuses tell as missing."""
        self.missing: list[Span] = []
        """First and last time of each stretch that is missing; there once there is a verdict."""

    def on_sent(self, event: Key) -> None:
        """The vendor has sent it, to whom ever."""
        self._sent.append(hash(event))
        self._times_ns.append(event[1])

    def on_recorded(self, event: Key) -> None:
        """The journal has it."""
        self._recorded.append(hash(event))

    def on_stored(self, event: Key) -> None:
        """The stream has it, behind those before."""
        self._stored.append(hash(event))

    def verdict(self, *, recorded: bool) -> Verdict:
        """Return what became of all; `recorded` says that there is a journal."""
        # Sent over two connections at once, where that of a killed process is not closed yet, an
        # event counts where it came first.
        known, first = np.unique(np.array(self._sent, np.int64), return_index=True)
        order = np.argsort(first)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        times = np.array(self._times_ns, np.int64)[first[order]]
        numbers, foreign = _numbers(known, places, self._stored)
        there = np.zeros(len(known), np.bool_)
        there[numbers] = True
        _, once = np.unique(numbers, return_index=True)
        in_order = numbers[np.sort(once)]
        verdict = Verdict(
            sent=len(known),
            stored=int(there.sum()),
            doubled=len(numbers) - len(once),
            disordered=int((np.diff(in_order) < 0).sum()),
            foreign=foreign,
        )
        self._judge_missing(verdict, there, times)
        if recorded:
            numbers, foreign = _numbers(known, places, self._recorded)
            in_journal = np.zeros(len(known), np.bool_)
            in_journal[numbers] = True
            verdict.foreign += foreign
            verdict.received_missing = int((in_journal & ~there).sum())
            verdict.stored_unrecorded = int((there & ~in_journal).sum())
        return verdict

    def _judge_missing(self, verdict: Verdict, there: Flags, times: Ints) -> None:
        edges = np.flatnonzero(np.diff(np.concatenate(([True], there, [True]))))
        for start, stop in edges.reshape(-1, 2).tolist():
            first, last = int(times[start]), int(times[stop - 1])
            self.missing.append((first, last))
            verdict.missing_spans += 1
            verdict.missing += stop - start
            if not any(begin <= first and last <= end for begin, end in self.spans):
                verdict.untold += stop - start
            elif start and stop < len(times):
                around = int(times[start - 1]), int(times[stop])
                verdict.inexact += around not in self.spans


def _numbers(known: Ints, places: Ints, hashes: array[int]) -> tuple[Ints, int]:
    """Return which events these are, numbered as they were sent, and how many are none of them."""
    wanted = np.array(hashes, np.int64)
    if not len(known):
        return np.zeros(0, np.int64), len(wanted)
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found = known[at] == wanted
    return places[at[found]], int((~found).sum())


class Account:
    """All feeds: what was sent, recorded, stored and told, and the verdict."""

    def __init__(self) -> None:
        self.feeds = {name: FeedAccount() for name in dict.fromkeys(FEEDS.values())}
        self._recorded = False

    def take_log(self, path: Path) -> None:
        """Take what the vendor says that it has sent; first of all."""
        for frame in logged_frames(path):
            for event in sent_events(frame):
                self.feeds[FEEDS[event[0]]].on_sent(event)

    def take_journal(self, folder: Path) -> None:
        """Take what was received."""
        self._recorded = True
        for frame in recorded_frames(folder):
            for event in sent_events(frame):
                self.feeds[FEEDS[event[0]]].on_recorded(event)

    def take_message(self, subject: str, data: bytes) -> None:
        """Take a message of the stream, in its order."""
        self.feeds[FEEDS[subject]].on_stored(stored_event(subject, data))

    def take_status(self, data: bytes) -> None:
        """Take a status, in any order."""
        status = msgspec.json.decode(data)
        if status["what"] in ("gap", "overflow"):
            span = (status["from_event_ns"], status["to_event_ns"])
            self.feeds[status["feed"]].spans.append(span)

    def verdicts(self) -> dict[str, Verdict]:
        """Return what became of each feed's events."""
        return {name: one.verdict(recorded=self._recorded) for name, one in self.feeds.items()}
