"""What of a journal is not stored: exactly what follows the last event stored, of each type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingestor.feeds.polygon.instruments import MAX_INSTRUMENTS
from ingestor.feeds.polygon.spool import CONTEXT_NS, IDLE, Piece, Spool, StoredEnd, left_in
from ingestor.feeds.polygon.status_reporter import FeedGap
from ingestor.journal import reader
from ingestor.journal.format import NOTE, Entry, Market
from ingestor.model.blocks import Block, Source
from ingestor.model.records import EVENT_TYPES, RType
from ingestor.model.units import NS_PER_S
from tests.feeds.polygon.test_spill_queue_backlog import rows
from tests.feeds.polygon.wire import frame, trade
from tests.journal.tapes import (
    DAY,
    OPEN_NS,
    Message,
    Received,
    header,
    live_messages,
    messages_of,
    option_frames,
    record,
    segment,
    stock_frames,
)

RTYPES = {"stocks": (RType.STOCK_TRADE, RType.STOCK_QUOTE), "options": (RType.OPTION_TRADE,)}
SUBJECTS = {kind.rtype: kind.subject for kind in EVENT_TYPES}
TRADE, QUOTE = RTYPES["stocks"]


def times(message: Message) -> tuple[int, int]:
    event = json.loads(message[1])
    return event["ts_event_ns"], event["ts_recv_ns"]


def ends_of(stored: Sequence[Message], feed: str) -> dict[RType, StoredEnd]:
    """The ends of what is stored, told in the plainest way."""
    found = {}
    for rtype in RTYPES[feed]:
        mine = [times(one) for one in stored if one[0] == SUBJECTS[rtype]]
        if mine:
            rows_then = sum(one[1] == mine[-1][1] for one in mine)
            found[rtype] = StoredEnd(*mine[-1], rows_then)
    first = min(found.values(), key=lambda end: end.recv_ns)
    return {rtype: found.get(rtype, first._replace(rows=0)) for rtype in RTYPES[feed]}


class Spooled:
    """All that a spool yields."""

    def __init__(
        self,
        directory: Path,
        ends: dict[RType, StoredEnd],
        feed: str = "stocks",
        context_ns: int = CONTEXT_NS,
    ) -> None:
        self.symbols: dict[int, str] = {0: "LIVE"}
        self.spool = Spool(
            feed, left_in(directory, Market[feed.upper()]), lambda: ends, self.symbols, context_ns
        )
        self.pieces: list[Piece] = [one for one in self.spool.pieces() if len(one.records)]
        self.gaps = [one.gap for one in self.pieces if one.gap is not None]

    @property
    def messages(self) -> list[Message]:
        blocks = [Block(0, one.records, self.symbols, Source.REPLAY) for one in self.pieces]
        return messages_of(blocks)


def plain(directory: Path, *received: tuple[int, int]) -> list[Message]:
    """Record frames of one read each or more, (receipt, trades); return what they publish."""
    numbers = iter(range(1_000))
    frames = [
        (frame(*[trade(q=next(numbers)) for _ in range(count)]), recv_ns, 1)
        for recv_ns, count in received
    ]
    record(directory, "stocks", frames)
    return live_messages("stocks", [frames])


@pytest.mark.parametrize("feed", ["stocks", "options"])
def test_wherever_storing_has_ended_the_rest_of_all_runs_is_published(
    tmp_path: Path, feed: str
) -> None:
    frames = stock_frames if feed == "stocks" else option_frames
    runs = [frames(60), frames(40, start_ns=OPEN_NS + 10 * NS_PER_S, seed=2)]
    roots = () if feed == "stocks" else ("SPY", "QQQ")
    for run in runs:
        record(tmp_path, feed, run, roots=roots)
    messages = live_messages(feed, runs)
    for stored in range(1, len(messages) + 1):
        found = Spooled(tmp_path, ends_of(messages[:stored], feed), feed)
        assert found.messages == messages[stored:]
        assert found.spool.rows == len(messages) - stored


@pytest.mark.parametrize("feed", ["stocks", "options"])
def test_the_front_of_a_long_segment_is_not_read_and_nothing_is_missing_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: str
) -> None:
    monkeypatch.setattr(reader, "PROBE_BYTES", 4096)
    frames = stock_frames if feed == "stocks" else option_frames
    # Quotes of long before tell who was the aggressor: all of them are read here.
    runs = [frames(150), frames(40, start_ns=OPEN_NS + 60 * NS_PER_S, seed=2)]
    for run in runs:
        record(tmp_path, feed, run, roots=() if feed == "stocks" else ("SPY", "QQQ"))
    messages = live_messages(feed, runs)
    for stored in range(1, len(messages) + 1, 7):
        found = Spooled(tmp_path, ends_of(messages[:stored], feed), feed, 600 * NS_PER_S)
        assert found.messages == messages[stored:]


def test_a_journal_that_is_begun_in_its_middle_lacks_nothing_in_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PROBE_BYTES", 512)
    # What lies before the last one stored holds no event, so that nothing else tells it.
    empty = [(b"[]", OPEN_NS + at, 1) for at in range(1, 100)]
    both = frame(trade(), trade())
    frames = [(both, OPEN_NS, 1), *empty, (both, OPEN_NS + 100, 1)]
    record(tmp_path, "stocks", frames)
    messages = live_messages("stocks", [frames])
    found = Spooled(tmp_path, ends_of(messages[:3], "stocks"), context_ns=1)
    assert found.messages == messages[3:]
    assert found.gaps == []


def test_a_clock_that_was_set_back_in_a_long_segment_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PROBE_BYTES", 512)
    at = [*range(1_000, 1_060), *range(60), *range(2_000, 2_060)]
    messages = plain(tmp_path, *[(OPEN_NS + 10 * one, 1) for one in at])
    for stored in (1, 30, 59, 60, 61, 90, 119, 120, 121, 150, 179):
        found = Spooled(tmp_path, ends_of(messages[:stored], "stocks"), context_ns=100)
        assert found.messages == messages[stored:]


def test_nothing_is_read_before_it_is_known_where_to_go_on(tmp_path: Path) -> None:
    messages = plain(tmp_path, (OPEN_NS, 1), (OPEN_NS + 1, 1))
    told: list[dict[RType, StoredEnd] | None] = [None, None, ends_of(messages[:1], "stocks")]
    waiting = Spool("stocks", left_in(tmp_path, Market.STOCKS), lambda: told.pop(0), {})
    pieces = [*waiting.pieces()]
    assert pieces[:2] == [IDLE, IDLE]
    assert sum(len(one.records) for one in pieces) == 1


def test_where_that_is_never_known_nothing_is_read_and_no_gap_is_told(tmp_path: Path) -> None:
    plain(tmp_path, (OPEN_NS, 1))
    nothing = Spool("stocks", left_in(tmp_path, Market.STOCKS), dict, {})
    assert list(nothing.pieces()) == []
    assert nothing.join(rows("T", 5)) is None


def test_types_that_are_stored_up_to_different_places_go_on_each_from_its_own(
    tmp_path: Path,
) -> None:
    run = stock_frames(60)
    record(tmp_path, "stocks", run)
    messages = live_messages("stocks", [run])
    trades = [one for one in messages if one[0] == SUBJECTS[TRADE]]
    quotes = [one for one in messages if one[0] == SUBJECTS[QUOTE]]
    stored = {*trades[:7], *quotes[:20]}
    found = Spooled(tmp_path, ends_of([*trades[:7], *quotes[:20]], "stocks"))
    assert found.messages == [one for one in messages if one not in stored]


def test_frames_of_one_read_are_one_place(tmp_path: Path) -> None:
    messages = plain(tmp_path, (OPEN_NS, 2), (OPEN_NS + 1, 2), (OPEN_NS + 1, 2), (OPEN_NS + 1, 2))
    for stored in range(3, 9):
        assert Spooled(tmp_path, ends_of(messages[:stored], "stocks")).messages == messages[stored:]


def test_a_clock_that_was_set_back_neither_repeats_nor_hides_anything(tmp_path: Path) -> None:
    at = [OPEN_NS + 9, OPEN_NS + 10, OPEN_NS + 2, OPEN_NS + 1, OPEN_NS + 3]
    messages = plain(tmp_path, *[(recv_ns, 1) for recv_ns in at])
    for stored in range(1, 6):
        assert Spooled(tmp_path, ends_of(messages[:stored], "stocks")).messages == messages[stored:]


@pytest.mark.parametrize(("recv_ns", "left"), [(0, 3), (15, 2), (25, 1), (35, 0)])
def test_where_the_last_one_stored_is_not_recorded_its_time_decides(
    tmp_path: Path, recv_ns: int, left: int
) -> None:
    messages = plain(tmp_path, (OPEN_NS + 10, 1), (OPEN_NS + 20, 1), (OPEN_NS + 30, 1))
    end = StoredEnd(OPEN_NS, OPEN_NS + recv_ns, 1)
    found = Spooled(tmp_path, {TRADE: end, QUOTE: end})
    assert found.messages == messages[len(messages) - left :]


def test_a_type_that_is_stored_beyond_the_journal_hides_nothing_of_another(tmp_path: Path) -> None:
    messages = plain(tmp_path, (OPEN_NS + 10, 1), (OPEN_NS + 30, 1))
    ends = {
        TRADE: StoredEnd(OPEN_NS, OPEN_NS + 15, 1),
        QUOTE: StoredEnd(OPEN_NS, OPEN_NS + 100, 1),
    }
    assert Spooled(tmp_path, ends).messages == messages[1:]


def test_of_a_stream_that_never_held_anything_all_since_it_was_made_follows_and_ends_no_gap(
    tmp_path: Path,
) -> None:
    messages = plain(tmp_path, (OPEN_NS + 10, 1), (OPEN_NS + 20, 1), (OPEN_NS + 30, 1))
    end = StoredEnd(0, OPEN_NS + 15, 0)
    found = Spooled(tmp_path, {TRADE: end, QUOTE: end})
    assert found.messages == messages[1:]
    assert found.gaps == []


def test_names_have_ids_beyond_those_of_the_live_feed(tmp_path: Path) -> None:
    messages = plain(tmp_path, (OPEN_NS, 1), (OPEN_NS + 1, 1))
    found = Spooled(tmp_path, ends_of(messages[:1], "stocks"))
    assert found.symbols == {0: "LIVE", MAX_INSTRUMENTS: "SPY"}


def test_nothing_is_missing_between_what_is_stored_and_what_follows_it(tmp_path: Path) -> None:
    messages = plain(tmp_path, (OPEN_NS, 1), (OPEN_NS + 1, 1))
    assert Spooled(tmp_path, ends_of(messages[:1], "stocks")).gaps == []


def test_gaps_between_connections_and_runs_are_told_behind_what_is_stored(tmp_path: Path) -> None:
    first = [(frame(trade()), OPEN_NS + at, 1 + at // 2) for at in range(4)]
    second = [(frame(trade()), OPEN_NS + 10, 1)]
    record(tmp_path, "stocks", first)
    record(tmp_path, "stocks", second)
    messages = live_messages("stocks", [first, second])
    for stored, gaps in ((1, [(1, 2), (3, 10)]), (2, [(1, 2), (3, 10)]), (3, [(3, 10)])):
        found = Spooled(tmp_path, ends_of(messages[:stored], "stocks")).gaps
        told = [(gap.from_recv_ns - OPEN_NS, gap.to_recv_ns - OPEN_NS) for gap in found]
        assert told == gaps


def test_a_gap_stands_before_the_rows_that_end_it(tmp_path: Path) -> None:
    frames: list[Received] = [(frame(trade()), OPEN_NS + at, 1 + at // 2) for at in range(4)]
    record(tmp_path, "stocks", frames)
    messages = live_messages("stocks", [frames])
    pieces = Spooled(tmp_path, ends_of(messages[:1], "stocks")).pieces
    assert [(len(one.records), one.gap is None) for one in pieces] == [(1, True), (2, False)]


def test_frames_that_were_not_recorded_are_a_gap(tmp_path: Path) -> None:
    frames = [Entry(frame(trade()), OPEN_NS + at, 1, number) for at, number in enumerate((0, 1, 5))]
    write(tmp_path, frames)
    found = Spooled(tmp_path, {rtype: StoredEnd(OPEN_NS, OPEN_NS, 1) for rtype in (TRADE, QUOTE)})
    assert [gap.to_recv_ns - OPEN_NS for gap in found.gaps] == [2]


def test_what_follows_the_journal_is_behind_a_gap(tmp_path: Path) -> None:
    messages = plain(tmp_path, (OPEN_NS, 1), (OPEN_NS + 1, 1))
    event_ns, recv_ns = times(messages[1])
    for stored in (1, 2):
        found = Spooled(tmp_path, ends_of(messages[:stored], "stocks"))
        assert found.spool.join(rows("T", 5)) == FeedGap(event_ns, recv_ns, 50, 5_000)


def test_a_note_that_says_nothing_costs_no_frame_and_is_a_gap(tmp_path: Path) -> None:
    bad_note = Entry(b"no note", OPEN_NS + 2, NOTE, 2)
    frames = [Entry(frame(trade()), OPEN_NS + at, 1, at) for at in (0, 1, 3)]
    write(tmp_path, [*frames[:2], bad_note, frames[2]])
    end = StoredEnd(OPEN_NS, OPEN_NS, 1)
    found = Spooled(tmp_path, {TRADE: end, QUOTE: end})
    assert len(found.messages) == 2
    assert [gap.to_recv_ns - OPEN_NS for gap in found.gaps] == [3]


def test_a_segment_that_cannot_be_read_is_a_gap_and_those_after_it_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [[(frame(trade()), OPEN_NS + at, 1)] for at in range(3)]
    for run in runs:
        record(tmp_path, "stocks", run)
    unreadable = left_in(tmp_path, Market.STOCKS)[1].path
    unreadable.unlink()
    unreadable.mkdir()
    end = StoredEnd(OPEN_NS, OPEN_NS, 1)
    found = Spooled(tmp_path, {TRADE: end, QUOTE: end})
    assert [gap.to_recv_ns - OPEN_NS for gap in found.gaps] == [2]
    assert len(found.messages) == 1
    assert str(unreadable) in caplog.text


def test_segments_long_before_are_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = stock_frames(60, start_ns=OPEN_NS)
    new = stock_frames(60, start_ns=OPEN_NS + 600 * NS_PER_S)
    newest = stock_frames(60, start_ns=OPEN_NS + 1200 * NS_PER_S)
    for run in (old, new, newest):
        record(tmp_path, "stocks", run)
    oldest = left_in(tmp_path, Market.STOCKS)[0].path
    data = bytearray(oldest.read_bytes())
    data[len(data) // 2] ^= 1
    oldest.write_bytes(data)
    messages = live_messages("stocks", [newest])
    assert Spooled(tmp_path, ends_of(messages[:5], "stocks")).messages == messages[5:]
    assert "damaged" not in caplog.text


def test_a_folder_that_is_not_there_has_nothing_left(tmp_path: Path) -> None:
    assert left_in(tmp_path / "none", Market.STOCKS) == []


def write(directory: Path, entries: Sequence[Entry]) -> None:
    (directory / f"stocks-{DAY:%Y%m%d}-000001.journal").write_bytes(segment(entries, header()))
