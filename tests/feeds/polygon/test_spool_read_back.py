"""What a full backlog leaves to the journal: read back in order, nothing missing, nothing twice."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from ingestor.feeds.polygon.decode import LATE_AFTER_NS, OptionDecoder, StockDecoder
from ingestor.feeds.polygon.frame_handler import FrameHandler
from ingestor.feeds.polygon.spill_queue import CATCH_UP_PER_S, Backlog, BacklogLimits, SpillQueue
from ingestor.feeds.polygon.status_reporter import FeedStats, StatusReporter
from ingestor.journal import recorder as recorder_module
from ingestor.journal import segments
from ingestor.journal.recorder import JournalRecorder
from ingestor.journal.segment_writer import Compressor
from ingestor.model.blocks import Block, Source
from ingestor.model.feed_status import What
from ingestor.model.units import NS_PER_MS, NS_PER_S
from tests.feeds.polygon.rig import Room
from tests.feeds.polygon.wire import frame, trade
from tests.journal.tapes import (
    OPEN_NS,
    Message,
    Received,
    live_messages,
    messages_of,
    option_frames,
    stock_frames,
    wait_until,
)

ROOTS = ("SPY", "QQQ")


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of a few frames: the next one is looked for whenever one is at its end."""
    monkeypatch.setattr(segments, "ENDS_BETWEEN", 1)


class Feed:
    """A feed without its sockets: what it hears it takes, what it holds it drains."""

    def __init__(
        self,
        recorder: JournalRecorder,
        market: str,
        *,
        max_rows: int = 20,
        per_s: float = CATCH_UP_PER_S,
    ) -> None:
        self.recorder, self.room, self.stats = recorder, Room(0), FeedStats(sockets=1)
        decoder = StockDecoder() if market == "stocks" else OptionDecoder(ROOTS)
        self.symbols = decoder.instruments.table
        reporter = StatusReporter(market, self.room, self.stats)
        self.spill = SpillQueue(
            self.room,
            Backlog(decoder.dtype, BacklogLimits(rows=max_rows)),
            reporter,
            feed=0,
            symbols=self.symbols,
            source=Source.REPLAY,
            frame_log=recorder,
            catch_up_per_s=per_s,
        )
        self.handler = FrameHandler(
            market,
            decoder,
            sink=self.room,
            spill=self.spill,
            reporter=reporter,
            stats=self.stats,
            shown=str,
            frame_log=recorder,
        )
        self.now_ns = OPEN_NS

    def hear(self, *received: Received) -> None:
        """Take frames of one read."""
        _, recv_ns, connection = received[0]
        if connection != self.stats.sockets:
            self.stats.sockets = connection
            self.handler.on_disconnect()
        for _ in self.handler.take([data for data, _, _ in received], recv_ns):
            pass

    def drain(self, blocks: int = 1_000_000) -> bool:
        """Hand on what so many blocks hold, a tenth of a second later."""
        self.room.room = blocks
        self.now_ns += 100 * NS_PER_MS
        self.recorder.tick(self.now_ns)
        done = self.spill.drain(self.now_ns)
        self.room.room = 0
        return done

    def catch_up(self) -> None:
        wait_until(self.drain)

    @property
    def messages(self) -> list[Message]:
        blocks = [Block(0, one, self.symbols, Source.REPLAY) for one in self.room.taken]
        return messages_of(blocks)

    def told(self, what: What) -> list[str]:
        return [one.text for one in self.room.statuses if one.what is what]


@contextmanager
def recording(
    directory: Path, market: str = "stocks", segment_bytes: int = 2_000
) -> Iterator[JournalRecorder]:
    roots = () if market == "stocks" else ROOTS
    with patch.object(Compressor, "add"):
        recorder = JournalRecorder(
            *(directory, market),
            roots=roots,
            late_after_ns=LATE_AFTER_NS,
            segment_bytes=segment_bytes,
        )
        yield recorder
        recorder.close()


def numbered(count: int, first: int = 0) -> list[Received]:
    return [
        (frame(trade(q=number)), OPEN_NS + number * NS_PER_MS, 1)
        for number in range(first, first + count)
    ]


def reads(draw: random.Random, frames: Sequence[Received]) -> Iterator[Sequence[Received]]:
    """Frames as they come out of a socket: several at once, all of one time and connection."""
    at = 0
    while at < len(frames):
        _, recv_ns, connection = frames[at]
        more = [one for one in frames[at : at + draw.randrange(1, 6)] if one[2] == connection]
        yield [(one[0], recv_ns, connection) for one in more]
        at += len(more)


@pytest.mark.parametrize("market", ["stocks", "options"])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_sink_takes_and_when_everything_is_handed_on_once_and_in_order(
    tmp_path: Path, market: str, seed: int
) -> None:
    draw = random.Random(seed)
    frames = (stock_frames if market == "stocks" else option_frames)(200, seed=seed)
    heard: list[Received] = []
    with recording(tmp_path, market, draw.choice([1_000, 5_000, 1 << 20])) as recorder:
        feed = Feed(recorder, market, max_rows=draw.choice([5, 20, 100]))
        for read in reads(draw, frames):
            feed.hear(*read)
            heard += read
            if draw.random() < 0.15:
                feed.drain(draw.choice([0, 1, 3, 1_000]))
        feed.catch_up()
    assert feed.messages == live_messages(market, [heard], ROOTS)
    assert feed.told(What.OVERFLOW) == []
    assert feed.told(What.SPOOL)
    assert (feed.spill.left_rows, len(feed.spill)) == (0, 0)


def test_how_far_behind_it_is_is_told(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        feed = Feed(recorder, "stocks")
        for one in numbered(50):
            feed.hear(one)
        # The frame that does not fit is the first that is left.
        assert (len(feed.spill), feed.spill.left_rows) == (20, 30)
        assert feed.spill.lag_ns(OPEN_NS + 3 * NS_PER_S) == 3 * NS_PER_S
        feed.now_ns += 11 * NS_PER_S
        feed.drain(0)
        feed.catch_up()
        assert feed.spill.lag_ns(feed.now_ns) == 0
    assert feed.told(What.SPOOL) == [
        "what comes waits in the journal: the backlog is full",
        "11.1 s behind: 30 events wait in the journal",
        "caught up: 30 events were read back",
    ]


def test_a_server_that_is_away_for_a_day_is_told_of_some_hundred_times(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        feed = Feed(recorder, "stocks")
        for one in numbered(50):
            feed.hear(one)
        for _ in range(24 * 360):
            feed.now_ns += 10 * NS_PER_S
            feed.spill.drain(feed.now_ns)
    assert 140 < len(feed.told(What.SPOOL)) < 160


def test_the_journal_is_read_at_a_rate_that_leaves_room(tmp_path: Path) -> None:
    with recording(tmp_path, segment_bytes=1 << 20) as recorder:
        feed = Feed(recorder, "stocks", per_s=10_000)
        for one in numbered(5_000):
            feed.hear(one)
        recorder.tick(feed.now_ns)
        wait_until(lambda: sum(one.stat().st_size for one in tmp_path.glob("*.journal")) > 500_000)
        feed.drain()
        steps = []
        while feed.spill.left_rows:
            before = feed.spill.left_rows
            feed.drain()
            steps.append(before - feed.spill.left_rows)
        # A tenth of a second each, beyond which one piece may go.
        assert sum(steps[:4]) <= 4 * 1_000 + 1_024
        assert max(steps) <= 2_048
        feed.catch_up()
    assert feed.room.numbers == list(range(5_000))


def test_what_is_left_at_the_end_is_told_with_its_bounds(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        feed = Feed(recorder, "stocks")
        for one in numbered(50):
            feed.hear(one)
        feed.spill.give_up(feed.now_ns)
    held, left = (one for one in feed.room.statuses if one.what is What.OVERFLOW)
    assert (held.lost_trades, left.lost_trades, left.lost_quotes) == (20, 30, 0)
    assert left.to_recv_ns == OPEN_NS + 49 * NS_PER_MS
    assert "the next run does" in left.text
    assert feed.stats.undelivered == 50


def test_what_the_journal_lacks_is_a_gap(tmp_path: Path) -> None:
    with recording(tmp_path, segment_bytes=1) as recorder:
        feed = Feed(recorder, "stocks")
        for one in numbered(50):
            feed.hear(one)
        recorder.tick(OPEN_NS)
        wait_until(lambda: len(list(tmp_path.glob("*.journal"))) == 50)
        # Every frame has a file of its own: one is lost that is not read back yet.
        (tmp_path / "stocks-20251216-000031.journal").unlink()
        feed.catch_up()
    assert feed.room.numbers == [*range(30), *range(31, 50)]
    (gap,) = (one for one in feed.room.statuses if one.what is What.GAP)
    assert (gap.from_recv_ns, gap.to_recv_ns) == (
        OPEN_NS + 29 * NS_PER_MS,
        OPEN_NS + 31 * NS_PER_MS,
    )


def test_what_the_journal_lacks_at_its_end_does_not_hold_up_what_is_new(tmp_path: Path) -> None:
    with recording(tmp_path, segment_bytes=1) as recorder:
        feed = Feed(recorder, "stocks")
        for one in numbered(50):
            feed.hear(one)
        recorder.tick(OPEN_NS)
        # What is not written yet when its file is removed would be written to another one.
        wait_until(lambda: recorder._thread.backlog_bytes == 0)
        (tmp_path / "stocks-20251216-000050.journal").unlink()
        wait_until(lambda: feed.drain() or feed.spill.left_rows == 1)
        # At the end of the journal: what comes now is held, and recorded too.
        for _ in range(5):
            feed.drain()
        feed.hear(*numbered(1, first=50))
        feed.catch_up()
    assert feed.room.numbers == [*range(49), 50]
    (gap,) = (one for one in feed.room.statuses if one.what is What.GAP)
    assert (gap.from_recv_ns, gap.to_recv_ns) == (
        OPEN_NS + 48 * NS_PER_MS,
        OPEN_NS + 50 * NS_PER_MS,
    )


def test_a_disk_that_takes_nothing_more_does_not_hold_up_what_is_new_for_ever(
    tmp_path: Path,
) -> None:
    with (
        recording(tmp_path) as recorder,
        patch.object(recorder, "tick"),
        patch.object(recorder, "flush"),
    ):
        feed = Feed(recorder, "stocks")
        for one in numbered(50):
            feed.hear(one)
        # What was recorded last is never handed over.
        wait_until(lambda: bool(feed.drain(1_000_000)) or feed.spill.left_rows < 30)
        feed.hear(*numbered(1, first=60))
        feed.catch_up()
    assert feed.room.numbers[-1] == 60
    (gap,) = (one for one in feed.room.statuses if one.what is What.GAP)
    assert gap.to_recv_ns == OPEN_NS + 60 * NS_PER_MS


def test_without_room_in_the_journal_what_is_too_much_is_dropped_and_told(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        feed = Feed(recorder, "stocks")
        with patch.object(recorder_module, "MAX_BACKLOG_BYTES", 0):
            for one in numbered(50):
                feed.hear(one)
        feed.catch_up()
    assert feed.room.numbers == list(range(30, 50))
    (told,) = feed.told(What.OVERFLOW)
    assert told == "30 trades and 0 quotes were dropped: the backlog was full"


def test_what_was_read_beyond_the_end_is_not_lost_when_that_is_put_off(tmp_path: Path) -> None:
    with recording(tmp_path, segment_bytes=1 << 20) as recorder:
        feed = Feed(recorder, "stocks")
        for one in numbered(40):
            feed.hear(one)
        with patch.object(recorder, "flush"), patch.object(recorder, "tick"):
            for one in numbered(10, first=40):
                feed.hear(one)
            wait_until(lambda: bool(feed.drain()) or feed.spill.left_rows == 10)
        for one in numbered(20, first=50):
            feed.hear(one)
        wait_until(lambda: recorder._thread.backlog_bytes == 0)
        # Read up to 49, which the sink does not take, and some of what is held in memory.
        feed.drain(0)
        for one in numbered(20, first=70):
            feed.hear(one)
        feed.catch_up()
    assert feed.room.numbers == list(range(90))
    assert feed.told(What.GAP) == []


def test_a_twin_lets_in_what_was_asked_for() -> None:
    decoder = StockDecoder()
    decoder.begin_connection()
    decoder.ask(["T.SPY"])
    twin = decoder.twin()
    for one in (decoder, twin):
        assert len(one.decode(frame(trade(), trade(sym="AAPL")), OPEN_NS).records) == 1
