"""Rows of three connections become one feed: each once, whatever each of them is behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.client.payloads import batches_of
from ingestor.encode.packed import PackedEncoder
from ingestor.encode.reference import payloads
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.relay import (
    LINGER_NS,
    OVERLAP_NS,
    Relay,
    Rows,
    SeenRows,
    StoredTail,
    identities,
)
from ingestor.feeds.polygon.spill_queue import Backlog, BacklogLimits, SpillQueue
from ingestor.feeds.polygon.spool import IDLE, Piece, Spool
from ingestor.feeds.polygon.status_reporter import FeedGap, FeedStats, StatusReporter
from ingestor.model.blocks import Block, Source, whole_block
from ingestor.model.feed_status import What
from ingestor.model.records import STOCK_TRADE, Records, RType
from ingestor.model.units import NS_PER_MS, NS_PER_S
from tests.encode.examples import REPLY
from tests.encode.test_packed import messages
from tests.feeds.polygon.rig import Room
from tests.feeds.polygon.wire import RECV_NS, frame, option_quote, option_trade, quote, trade
from tests.journal.tapes import option_frames, stock_frames

NAMES = {0: "SPY", 1: "QQQ", 2: "IWM"}
START_NS = 1_786_649_956_000_000_000
NOTHING: Rows = (np.zeros(0, STOCK_TRADE), {})


@dataclass
class Heard:
    """Another connection that has brought these rows."""

    rows: list[Rows]
    is_lost: bool = False
    is_closed: bool = False

    def take(self) -> Rows | None:
        if self.rows:
            return self.rows.pop(0)
        return None if self.is_lost else NOTHING

    def close(self) -> None:
        self.is_closed = True


@dataclass(frozen=True)
class Told:
    """An event as the vendor tells it: two may be equal in all."""

    ms: int
    symbol: int
    number: int
    is_quote: bool = False


def records_of(events: Sequence[Told], ids: Sequence[int] = (0, 1, 2), late_ms: int = 0) -> Records:
    """The events as a connection brings them that gives these ids to the symbols."""
    records = np.zeros(len(events), STOCK_TRADE)
    for record, event in zip(records, events, strict=True):
        record["rtype"] = RType.STOCK_QUOTE if event.is_quote else RType.STOCK_TRADE
        record["instrument_id"] = ids[event.symbol]
        record["ts_event_ns"] = START_NS + event.ms * NS_PER_MS
        record["ts_recv_ns"] = START_NS + (event.ms + late_ms) * NS_PER_MS
        record["sequence"] = event.number
    return records


def table_of(ids: Sequence[int]) -> dict[int, str]:
    return {number: NAMES[symbol] for symbol, number in enumerate(ids)}


def tail_of(stored: Sequence[Told]) -> StoredTail:
    records = records_of(stored, (7, 8, 9), 1)
    last = int(records["ts_event_ns"].max()), int(records["ts_recv_ns"][-1])
    return StoredTail(last, 0, [(records, table_of((7, 8, 9)))])


@dataclass
class Handed:
    """All that a relay hands on, its own connection having all from the beginning on."""

    relay: Relay
    table: dict[int, str]
    pieces: list[Piece] = field(default_factory=list)

    def run(self, *, whole: bool = True) -> None:
        now_ns, looks = 0, 0
        for piece in self.relay.pieces():
            if len(piece.records):
                self.pieces.append(piece)
            if piece is IDLE:
                self.relay.on_own(is_whole=whole, now_ns=now_ns, recv_ns=START_NS)
                now_ns += OVERLAP_NS // 4
                looks += 1
                assert looks < 100

    def seen(self, records: Records) -> list[tuple[str, int, int, int]]:
        names = ("instrument_id", "rtype", "sequence", "ts_event_ns")
        columns = zip(*(records[name].tolist() for name in names), strict=True)
        return [(self.table[number], *more) for number, *more in columns]

    @property
    def rows(self) -> list[tuple[str, int, int, int]]:
        return [row for piece in self.pieces for row in self.seen(piece.records)]


def relayed(
    heard: Heard, stored: Sequence[Told], spool: Any = None, own: dict[int, str] | None = None
) -> Handed:
    table = table_of((0, 1, 2)) if own is None else own
    return Handed(Relay("stocks", heard, tail_of(stored), table, spool), table)


BEHIND_MS = 50
"""How far a connection may be behind another one, in these tests."""


@st.composite
def tapes(draw: st.DrawFn) -> list[Told]:
    steps = st.tuples(st.integers(0, 8), st.integers(0, 2), st.booleans(), st.integers(1, 2))
    found, ms = [], 0
    for number, (step, symbol, is_quote, times) in enumerate(
        draw(st.lists(steps, min_size=60, max_size=120))
    ):
        ms += step
        found += [Told(ms, symbol, number, is_quote)] * times
    return found


DELAYS = st.tuples(*[st.integers(0, BEHIND_MS - 1)] * 3)


def brought(tape: Sequence[Told], delays: Sequence[int]) -> list[tuple[int, Told]]:
    """When a connection brings what, each symbol later by a time of its own."""
    arrivals = [(event.ms + delays[event.symbol], event) for event in tape]
    return sorted(arrivals, key=lambda one: one[0])


@settings(max_examples=30)
@given(tapes(), DELAYS, DELAYS, DELAYS, st.data())
def test_of_three_connections_each_event_comes_once_and_in_its_symbols_order(
    tape: list[Told],
    first: tuple[int, ...],
    second: tuple[int, ...],
    third: tuple[int, ...],
    data: st.DataObject,
) -> None:
    end_ms = tape[-1].ms + BEHIND_MS
    stored = [event for _, event in brought(tape, first)]
    stored = stored[: data.draw(st.integers(1, len(stored)))]
    # What comes from here on is not stored: any later connection must have begun before.
    cut_ms = stored[-1].ms + first[stored[-1].symbol]
    begun_ms = data.draw(st.integers(-BEHIND_MS, cut_ms - BEHIND_MS))
    over_ms = data.draw(st.integers(max(cut_ms, begun_ms), end_ms))
    own_ms = data.draw(st.integers(-BEHIND_MS, max(over_ms - BEHIND_MS, -BEHIND_MS)))
    ids = data.draw(st.permutations((4, 5, 6)))
    heard = [event for at, event in brought(tape, second) if begun_ms <= at <= over_ms]
    size = data.draw(st.integers(1, 20))
    chunks = [heard[at : at + size] for at in range(0, len(heard), size)]
    handed = relayed(Heard([(records_of(one, ids), table_of(ids)) for one in chunks]), stored)
    handed.run()
    own = records_of([event for at, event in brought(tape, third) if at >= own_ms])
    cuts = (own[:5], own[5:])
    rest = [row for one in cuts for row in handed.seen(handed.relay.own(one, handed.table))]
    everything = [*handed.seen(records_of(stored)), *handed.rows, *rest]
    assert Counter(everything) == Counter(handed.seen(records_of(tape)))
    for name in NAMES.values():
        numbers = [row[2] for row in everything if row[0] == name]
        assert numbers == sorted(numbers)
    assert handed.relay.rows == len(handed.rows)


def events(*numbers: int) -> list[Told]:
    return [Told(number, 0, number) for number in numbers]


def numbers(handed: Handed) -> list[int]:
    return [row[2] for row in handed.rows]


def heard(*numbers: int, is_lost: bool = False) -> Heard:
    return Heard([(records_of(events(*numbers), late_ms=3), table_of((0, 1, 2)))], is_lost)


def test_what_is_older_than_what_is_compared_counts_as_stored() -> None:
    table = table_of((0, 1, 2))
    tail = tail_of(events(5, 6))._replace(since_ns=START_NS + 4 * NS_PER_MS)
    handed = Handed(Relay("stocks", heard(2, 3, 4, 5, 6, 7), tail, table), table)
    handed.run()
    assert numbers(handed) == [4, 7]


def test_a_connection_that_began_too_late_tells_the_gap() -> None:
    handed = relayed(heard(5, 6), events(1, 2))
    handed.run()
    at = START_NS // NS_PER_MS
    gap = FeedGap(*(NS_PER_MS * (at + ms) for ms in (2, 3, 5, 8)))
    assert [piece.gap for piece in handed.pieces] == [gap]
    assert numbers(handed) == [5, 6]
    assert handed.relay.join(records_of(events(7))) is None


def test_one_that_has_heard_what_is_stored_last_tells_none() -> None:
    handed = relayed(heard(2, 3), events(1, 2))
    handed.run()
    assert [piece.gap for piece in handed.pieces] == [None]


def test_a_connection_that_is_lost_before_the_own_one_has_all_leaves_a_gap() -> None:
    handed = relayed(heard(2, 3, is_lost=True), events(1, 2))
    handed.run(whole=False)
    gap = handed.relay.join(records_of(events(9), late_ms=1))
    assert gap is not None
    assert (gap.from_event_ns, gap.to_event_ns) == (
        START_NS + 3 * NS_PER_MS,
        START_NS + 9 * NS_PER_MS,
    )


def test_a_connection_that_is_lost_while_the_own_one_has_all_leaves_none() -> None:
    heard_then_lost = heard(2, 3, is_lost=True)
    handed = relayed(heard_then_lost, events(1, 2))
    handed.relay.on_own(is_whole=True, now_ns=0, recv_ns=START_NS + 6 * NS_PER_MS)
    handed.run()
    assert heard_then_lost.is_closed
    assert handed.relay.join(records_of(events(9))) is None


def test_one_that_is_lost_before_it_has_come_so_far_leaves_a_gap() -> None:
    handed = relayed(heard(2, 3, is_lost=True), events(1, 2))
    handed.relay.on_own(is_whole=True, now_ns=0, recv_ns=START_NS + 7 * NS_PER_MS)
    handed.run()
    assert handed.relay.join(records_of(events(9))) is not None


def test_one_that_is_far_behind_is_read_to_its_end() -> None:
    source = heard(2, 3)
    source.rows.append((records_of(events(4)), table_of((0, 1, 2))))
    handed = relayed(source, events(1, 2))
    handed.relay.on_own(is_whole=True, now_ns=0, recv_ns=0)
    handed.relay.on_own(is_whole=True, now_ns=OVERLAP_NS, recv_ns=0)
    handed.run()
    assert numbers(handed) == [3, 4]


def test_it_ends_once_the_own_connection_has_had_all_for_a_while() -> None:
    source = heard(2, 3)
    relay = relayed(source, events(1, 2)).relay
    pieces = relay.pieces()
    assert len(next(pieces).records) == 1
    for now_ns, whole in ((0, False), (1, True), (2, False), (3, True), (OVERLAP_NS + 2, True)):
        relay.on_own(is_whole=whole, now_ns=now_ns, recv_ns=0)
        assert next(pieces) is IDLE
    closed = [source.is_closed]
    relay.on_own(is_whole=True, now_ns=OVERLAP_NS + 3, recv_ns=0)
    assert next(pieces, None) is None
    assert [*closed, source.is_closed] == [False, True]
    done = [relay.is_done]
    relay.on_own(is_whole=False, now_ns=OVERLAP_NS + 3 + LINGER_NS, recv_ns=0)
    assert [*done, relay.is_done] == [False, True]


def test_when_the_feed_stops_what_has_come_is_all_there_is() -> None:
    source = heard(2, 3)
    relay = relayed(source, events(1, 2)).relay
    relay.stop()
    assert [len(piece.records) for piece in relay.pieces()] == [1]
    assert source.is_closed


class Journal:
    """A spool that has one row."""

    def pieces(self) -> Iterator[Piece]:
        yield Piece(records_of(events(3)))

    def join(self, records: Records) -> FeedGap | None:
        return FeedGap(1, 2, 3, int(records["ts_recv_ns"][0]))


def test_a_journal_goes_first_where_the_other_connection_began_too_late() -> None:
    source = heard(5, 6)
    handed = relayed(source, events(1, 2), cast("Spool", Journal()))
    handed.run()
    assert source.is_closed
    assert handed.relay.is_done
    assert numbers(handed) == [3]
    own = records_of(events(5, 6, 7))
    assert len(handed.relay.own(own, handed.table)) == 3
    assert handed.relay.join(own) == FeedGap(1, 2, 3, int(own["ts_recv_ns"][0]))


def test_a_journal_is_not_read_where_the_other_connection_reaches_back() -> None:
    handed = relayed(heard(2, 3, 4), events(1, 2), cast("Spool", Journal()))
    handed.run()
    assert numbers(handed) == [3, 4]


def test_rows_that_are_equal_in_all_are_left_out_as_often_as_they_were_seen() -> None:
    seen, table = SeenRows(), table_of((0, 1, 2))
    seen.add(records_of(events(1, 1, 2)), table)
    assert seen.rest(records_of(events(1, 2, 1, 1, 2, 3)), table)["sequence"].tolist() == [1, 2, 3]


DIFFERENT = (
    {"sym": "QQQ"},
    {"t": RECV_NS // NS_PER_MS},
    {"q": 9},
    {"p": 686.02},
    {"s": 99},
    {"x": 12},
    {"c": [14]},
    {"c": [14, 41, 12]},
)


@pytest.mark.parametrize("change", DIFFERENT)
def test_trades_that_differ_in_what_the_vendor_says_are_two(change: dict[str, Any]) -> None:
    decoder = StockDecoder()
    plain = trade(q=1, c=[14, 41])
    records = decoder.decode(frame(plain, plain | change), RECV_NS).records
    one, other = identities(records, decoder.instruments.table)
    assert one != other


@pytest.mark.parametrize("change", [{"bp": 1.0}, {"ap": 1.0}, {"bs": 1}, {"as": 1}, {"bx": 7}])
def test_so_are_quotes(change: dict[str, Any]) -> None:
    decoder = StockDecoder()
    records = decoder.decode(frame(quote(q=1), quote(q=1) | change), RECV_NS).records
    one, other = identities(records, decoder.instruments.table)
    assert one != other


def test_what_a_connection_brought_before_makes_no_difference() -> None:
    one, other = OptionDecoder(("SPY",)), OptionDecoder(("SPY",))
    first = one.decode(frame(option_quote(), option_trade(q=1)), RECV_NS).records
    later = other.decode(frame(option_trade(q=1)), RECV_NS + 5).records
    assert first["opt_bid_e9"][0] != later["opt_bid_e9"][0]
    assert identities(first, one.instruments.table) == identities(later, other.instruments.table)


@pytest.mark.parametrize("market", ["stocks", "options"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_row_is_the_same_as_the_stream_gives_it_back(market: str, is_packed: bool) -> None:
    is_stocks = market == "stocks"
    decoder = StockDecoder() if is_stocks else OptionDecoder(("SPY", "QQQ"))
    frames = stock_frames(40) if is_stocks else option_frames(40)
    wanted: Counter[int] = Counter()
    found: Counter[int] = Counter()
    for data, recv_ns, _ in frames:
        records, table = decoder.decode(data, recv_ns).records, decoder.instruments.table
        wanted.update(identities(records, table))
        for subject, message in _messages(Block(0, records, table, Source.SIM), is_packed):
            batches, bad = batches_of([(subject.encode(), b"", message)], [1])
            assert not bad
            for batch in batches:
                found.update(identities(batch.records, batch.symbols))
    assert wanted == found
    assert sum(wanted.values()) > 20


def _messages(block: Block, is_packed: bool) -> list[tuple[str, bytes]]:
    runs = whole_block(block)
    if not is_packed:
        return list(payloads(runs))
    frames = PackedEncoder().encode(runs, REPLY, 1, len(block.records))
    return [(subject, message) for subject, _, message in messages(frames)]


def test_the_own_rows_wait_for_the_others_and_are_then_what_those_are_not() -> None:
    room, stats, source = Room(100), FeedStats(), heard(2, 3)
    reporter = StatusReporter("stocks", room, stats)
    table = table_of((0, 1, 2))
    relay = Relay("stocks", source, tail_of(events(1, 2)), table)
    queue = SpillQueue(
        room,
        Backlog(STOCK_TRADE, BacklogLimits()),
        reporter,
        feed=0,
        symbols=table,
        source=Source.SIM,
        spool=cast("Spool", relay),
    )
    now_ns = NS_PER_S
    queue.on_own(is_whole=True, now_ns=0, recv_ns=0)
    assert not queue.drain(now_ns)
    queue.put(records_of(events(2, 3, 4)), now_ns)
    source.rows.append((records_of(events(4, 5, 6)), table))
    queue.drain(now_ns := now_ns + NS_PER_S)
    assert room.numbers == [3, 4, 5, 6]
    queue.on_own(is_whole=True, now_ns=OVERLAP_NS, recv_ns=0)
    queue.drain(now_ns := now_ns + NS_PER_S)
    # A slower connection, and not in one order: what was handed on before still comes.
    queue.put(records_of(events(5, 7)), now_ns)
    queue.put(records_of(events(6, 8)), now_ns)
    assert room.numbers == [3, 4, 5, 6, 7, 8]
    queue.on_own(is_whole=True, now_ns=OVERLAP_NS + LINGER_NS, recv_ns=0)
    queue.put(records_of(events(9)), now_ns)
    queue.put(records_of(events(9)), now_ns)
    assert room.numbers == [3, 4, 5, 6, 7, 8, 9, 9]
    assert not [status for status in room.statuses if status.what == What.GAP]
