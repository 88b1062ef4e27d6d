"""What a standby holds of what it hears, how it gives it away, and what it finds stored."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ingestor.feeds.polygon.relay import TAIL_NS, Rows, StoredTail
from ingestor.feeds.polygon.status_reporter import FeedStats
from ingestor.model.blocks import Source
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import RType
from ingestor.model.units import NS_PER_MS
from ingestor.nats.options import ConnectOptions
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.runtime import standby as module
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.feed_process import FeedContext
from ingestor.runtime.standby import HeldRows, RingRows, stored_tails
from tests.ports import free_port
from tests.rows import block
from tests.runtime.test_resume_stored_ends import publish

if TYPE_CHECKING:
    from tests.nats_servers import NatsServer

ROW_BYTES = 48
HEARS = FeedStats(streaming=True)
AWAY = FeedStats(streaming=False)
GAP = FeedStatus(feed="stocks", what=What.GAP, at_ns=1, text="nothing was received")


class Ends:
    """A receiver's sink, and the end of its ring at which a feed takes."""

    def __init__(self, max_rows: int = 1_000, ring_bytes: int = 100_000) -> None:
        self.ring = BlockRing(Doorbell(), ring_bytes)
        self.table = CounterTable(1)
        self.sink = HeldRows(FeedContext(0, self.ring, self.table), max_rows, 1_000_000)
        self.rows = RingRows(0, self.ring, self.table.row(0), Source.SIM)
        self.sink.show(HEARS)

    def put(self, *times: int) -> None:
        assert self.sink.put(block([(time, 1, 1) for time in times]))

    def turn(self) -> None:
        """The leases are taken."""
        self.ring.begin_generation()
        self.sink.show(HEARS)

    def taken(self) -> list[int]:
        found: list[int] = []
        while (rows := self.rows.take()) is not None and len(rows[0]):
            assert rows[1] == {0: "ES.c.0"}
            found += rows[0]["ts_event_ns"].tolist()
        return found


def test_nothing_is_given_away_before_the_leases_are_taken() -> None:
    ends = Ends()
    ends.put(1, 2)
    ends.sink.show(HEARS)
    assert ends.ring.used_bytes == 0
    assert ends.sink.held == 2


def test_then_what_is_held_comes_and_after_it_what_is_new() -> None:
    ends = Ends()
    ends.put(1, 2)
    ends.put(3)
    ends.turn()
    ends.put(4)
    assert ends.taken() == [1, 2, 3, 4]
    assert ends.sink.held == 0


@pytest.mark.parametrize("bound", ["rows", "bytes"])
def test_of_too_much_the_oldest_go(bound: str) -> None:
    ends = Ends(max_rows=3 if bound == "rows" else 1_000)
    if bound == "bytes":
        ends.sink._max_bytes = 3 * ROW_BYTES + 1
    for first in range(1, 9, 2):
        ends.put(first, first + 1)
    assert ends.sink.held == 3
    ends.turn()
    assert ends.taken() == [6, 7, 8]


def test_a_ring_that_is_full_gets_the_rest_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 20)
    ends = Ends(ring_bytes=4_000)
    ends.put(*range(160))
    ends.turn()
    found = ends.taken()
    assert 0 < len(found) < 160
    while len(found) < 160:
        ends.sink.show(HEARS)
        found += ends.taken()
    assert found == list(range(160))


@pytest.mark.parametrize("how", ["away", "gap"])
def test_what_lies_before_a_lost_connection_is_forgotten(how: str) -> None:
    ends = Ends()
    ends.put(1, 2)
    if how == "away":
        ends.sink.show(AWAY)
    else:
        assert ends.sink.tell(GAP)
    ends.put(3)
    ends.turn()
    assert ends.taken() == [3]
    assert not ends.sink.is_over


@pytest.mark.parametrize("how", ["away", "gap", "too much"])
def test_once_it_is_asked_for_it_is_the_last_that_comes(how: str) -> None:
    ends = Ends(max_rows=3)
    ends.put(1, 2)
    ends.turn()
    if how == "away":
        ends.sink.show(AWAY)
    elif how == "gap":
        ends.sink.tell(GAP)
    else:
        ends.put(3, 4, 5, 6)
    assert ends.sink.is_over
    assert ends.taken() == ([1, 2, 3, 4, 5, 6] if how == "too much" else [1, 2])
    assert ends.rows.take() is None


def test_other_statuses_concern_nobody() -> None:
    ends = Ends()
    ends.put(1)
    assert ends.sink.tell(FeedStatus(feed="stocks", what=What.STREAMING, at_ns=1, text="flows"))
    ends.turn()
    assert ends.taken() == [1]


def test_it_ends_when_the_feed_needs_no_more() -> None:
    ends = Ends()
    ends.turn()
    before = ends.rows.is_closed, ends.sink.is_over
    ends.rows.close()
    assert before == (False, False)
    ends.sink.show(HEARS)
    assert (ends.sink.is_over, ends.rows.is_closed) == (True, True)


def test_it_ends_by_itself_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()
    ends.turn()
    monkeypatch.setattr(module, "MAX_FLOW_S", 0.0)
    time.sleep(0.001)
    ends.sink.show(HEARS)
    assert ends.sink.is_over


def test_a_receiver_without_a_sign_of_life_is_lost() -> None:
    ends = Ends()
    ends.put(1)
    ends.turn()
    ends.table.row(0)[Counter.HEARTBEAT_NS] -= module.SILENT_NS
    assert ends.taken() == [1]
    assert ends.rows.take() is None


def test_the_price_is_shown_to_the_other_receivers() -> None:
    ends = Ends()
    ends.sink.price(5)
    assert ends.table.reference_price_e9 == 5


T, Q = RType.STOCK_TRADE, RType.STOCK_QUOTE
START_NS = 1_786_649_956_000_000_000


def at(*ms: int) -> list[int]:
    return [START_NS + one * NS_PER_MS for one in ms]


def tail(server: NatsServer) -> StoredTail | None:
    options = ConnectOptions((server.url,))
    return stored_tails(options, "MARKET_DATA", ["stocks"], Source.SIM).get("stocks")


def times(rows: Rows) -> list[int]:
    return [(int(one) - START_NS) // NS_PER_MS for one in rows[0]["ts_recv_ns"]]


def found(stored: StoredTail, rtype: RType) -> list[int]:
    mine = [rows for rows in stored.rows if rows[0]["rtype"][0] == rtype]
    assert all(set(rows[1].values()) == {"SPY"} for rows in mine)
    return [one for rows in mine for one in times(rows)]


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_the_tail_of_a_feed_is_that_of_all_its_types(
    nats_server: NatsServer, encoding: str
) -> None:
    quotes, trades = at(1, 5_000, 9_000), at(2, 3, 4)
    publish(nats_server, (Q, quotes, Source.SIM), (T, trades, Source.SIM), encoding=encoding)
    stored = tail(nats_server)
    assert stored is not None
    assert stored.last == (quotes[-1] - 1_000, quotes[-1])
    assert stored.since_ns == quotes[-1] - 1_000 - TAIL_NS
    assert found(stored, Q)[-1] == 9_000
    assert found(stored, T) == [2, 3, 4]


def test_it_is_read_back_as_far_as_rows_are_compared(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAIL_SEQS", 4)
    publish(nats_server, (T, at(*range(0, 9_000, 100)), Source.SIM))
    stored = tail(nats_server)
    assert stored is not None
    compared = [ms for ms in found(stored, T) if at(ms)[0] - 1_000 >= stored.since_ns]
    assert compared == list(range(5_900, 9_000, 100))


def test_beyond_a_bound_what_is_older_counts_as_stored(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAIL_SEQS", 4)
    monkeypatch.setattr(module, "MAX_TAIL_SEQS", 16)
    publish(nats_server, (T, at(*range(0, 9_000, 100)), Source.SIM))
    stored = tail(nats_server)
    assert stored is not None
    assert found(stored, T) == list(range(7_300, 9_000, 100))
    assert stored.since_ns == at(7_300)[0] - 1_000


def test_what_others_have_stored_behind_is_passed_over(nats_server: NatsServer) -> None:
    publish(nats_server, (T, at(1, 2), Source.SIM), (T, at(70_000), Source.REPLAY))
    stored = tail(nats_server)
    assert stored is not None
    assert stored.last[1] == at(2)[0]
    assert found(stored, T) == [1, 2]


def test_where_nothing_of_a_feed_is_stored_it_has_no_tail(nats_server: NatsServer) -> None:
    assert tail(nats_server) is None
    publish(nats_server, (T, at(1), Source.REPLAY))
    assert tail(nats_server) is None


def test_a_server_that_is_gone_costs_what_was_heard_and_not_the_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingestor.runtime.run_keeper.OPEN_TIMEOUT_S", 0.1)
    options = ConnectOptions((f"nats://127.0.0.1:{free_port()}",))
    assert stored_tails(options, "MARKET_DATA", ["stocks"], Source.SIM) == {}
    assert "what was heard while waiting is not published" in caplog.text
