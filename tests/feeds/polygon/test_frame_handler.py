from __future__ import annotations

import numpy as np

from ingestor.feeds.polygon.decode import StockDecoder
from ingestor.feeds.polygon.frame_handler import TOGETHER_ROWS, FrameHandler
from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.option_follower import ReferencePrice
from ingestor.feeds.polygon.spill_queue import Backlog, BacklogLimits, SpillQueue
from ingestor.feeds.polygon.status_reporter import FeedStats, StatusReporter
from ingestor.model.blocks import Block, Source
from ingestor.model.feed_status import FeedStatus, What
from tests.feeds.polygon.wire import RECV_NS, frame, quote, status, trade


class Keeper:
    """Keeps, in order, everything it is given."""

    def __init__(self) -> None:
        self.given: list[Block | FeedStatus | int] = []

    def put(self, block: Block) -> bool:
        self.given.append(block)
        return True

    def tell(self, status: FeedStatus) -> bool:
        self.given.append(status)
        return True

    def price(self, price_e9: int) -> None:
        self.given.append(price_e9)

    def show(self, stats: FeedStats) -> None:
        raise AssertionError(f"nobody asked for {stats}")

    @property
    def blocks(self) -> list[Block]:
        return [each for each in self.given if isinstance(each, Block)]

    @property
    def prices(self) -> list[int]:
        return [each for each in self.given if isinstance(each, int)]

    @property
    def whats(self) -> list[What]:
        return [each.what for each in self.given if isinstance(each, FeedStatus)]


def handler() -> tuple[FrameHandler, Keeper, FeedStats]:
    sink, stats, decoder = Keeper(), FeedStats(sockets=1), StockDecoder()
    reporter = StatusReporter("stocks", sink, stats)
    spill = SpillQueue(
        sink,
        Backlog(decoder.dtype, BacklogLimits()),
        reporter,
        feed=0,
        symbols=decoder.instruments.table,
        source=Source.SIM,
    )
    way = FrameHandler(
        "stocks",
        decoder,
        sink=sink,
        spill=spill,
        reporter=reporter,
        stats=stats,
        shown=str,
        reference=ReferencePrice("SPY"),
    )
    return way, sink, stats


def take(way: FrameHandler, frames: list[bytes], recv_ns: int) -> list[StatusMessage]:
    return [status for statuses in way.take(frames, recv_ns) for status in statuses]


def test_short_frames_of_one_read_make_one_block() -> None:
    way, sink, stats = handler()
    assert take(way, [frame(trade(q=1)), frame(quote(q=2), trade(q=3))], RECV_NS) == []
    (block,) = sink.blocks
    assert block.records["sequence"].tolist() == [1, 2, 3]
    assert set(block.records["ts_recv_ns"].tolist()) == {RECV_NS}
    assert dict(block.symbols) == {0: "SPY"}
    assert (stats.frames, stats.records) == (2, 3)


def test_long_frames_of_one_read_are_not_kept_waiting() -> None:
    way, sink, _ = handler()
    long = frame(*(trade(q=number) for number in range(TOGETHER_ROWS)))
    take(way, [long, long, frame(trade())], RECV_NS)
    assert [len(block.records) for block in sink.blocks] == [TOGETHER_ROWS, TOGETHER_ROWS, 1]


def test_statuses_come_back_in_order_wherever_they_stood() -> None:
    way, sink, _ = handler()
    said = [{"ev": "status", "status": name} for name in "abc"]
    statuses = take(way, [frame(said[0], trade()), frame(said[1], said[2])], RECV_NS)
    assert statuses == [status("a"), status("b"), status("c")]
    assert len(sink.blocks) == 1


def test_frames_without_records_hand_nothing_on() -> None:
    way, sink, stats = handler()
    assert take(way, [b"[]", b"", b"[{]"], RECV_NS) == []
    assert sink.given == []
    assert stats.frames == 3


def test_what_begins_is_told_before_the_records_it_speaks_of() -> None:
    way, sink, stats = handler()
    take(way, [frame(trade())], RECV_NS)
    way.on_disconnect()
    take(way, [frame(trade())], RECV_NS + 5)
    kinds = [type(each) for each in sink.given]
    assert [kind for kind in kinds if kind is not int] == [FeedStatus, Block, FeedStatus, Block]
    assert sink.whats == [What.STREAMING, What.GAP]
    assert stats.gaps == 1


def test_a_connection_lost_before_any_data_is_no_gap() -> None:
    way, sink, _ = handler()
    way.on_disconnect()
    take(way, [frame(trade())], RECV_NS)
    assert sink.whats == [What.STREAMING]


def test_the_reference_price_is_handed_on_when_it_changes() -> None:
    way, sink, _ = handler()
    for bid in (686.0, 686.0, 687.0):
        take(way, [frame(quote(bp=bid, ap=bid + 0.02))], RECV_NS)
    assert sink.prices == [686_010_000_000, 687_010_000_000]


def test_quotes_from_before_a_lost_connection_decide_no_aggressor() -> None:
    way, sink, _ = handler()
    take(way, [frame(quote(bp=686.0, ap=686.02), trade(p=686.02))], RECV_NS)
    way.on_disconnect()
    take(way, [frame(trade(p=686.02))], RECV_NS)
    aggressors = np.concatenate([block.records["aggressor"] for block in sink.blocks])
    assert aggressors.tolist()[1:] == [1, 0]


def test_a_socket_has_brought_data_only_once_it_has_itself() -> None:
    way, _, _ = handler()
    take(way, [frame(trade())], RECV_NS)
    found = [way.has_data]
    way.on_open(RECV_NS)
    take(way, [frame({"ev": "status", "status": "connected"})], RECV_NS)
    found.append(way.has_data)
    assert found == [True, False]
