from __future__ import annotations

import datetime as dt
import json
import logging
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.polygon.journal_feed import MIN_BLOCK_BYTES, JournalFeed
from ingestor.journal.format import Market
from ingestor.journal.segment_writer import Compressor, compress
from ingestor.journal.segments import list_segments
from ingestor.model.blocks import Source
from ingestor.model.errors import BadDataError, ConfigurationError, NoDataError
from ingestor.model.records import STOCK_TRADE
from ingestor.model.units import NS_PER_S, new_york_ns
from tests.feeds.polygon.wire import frame, quote, trade
from tests.journal.tapes import (
    DAY,
    OPEN_NS,
    Message,
    Received,
    entries,
    header,
    live_messages,
    messages_of,
    option_frames,
    record,
    segment,
    stock_frames,
)

NEXT = DAY + dt.timedelta(days=1)
NEXT_OPEN_NS = new_york_ns(NEXT, dt.time(9, 30))
ROOTS = ("QQQ", "SPY")


def replayed(directory: Path, feed_name: str = "stocks", **settings: Any) -> list[Message]:
    market = Market[feed_name.upper()]
    return messages_of(JournalFeed(directory=directory, market=market, **settings).blocks())


@pytest.fixture(autouse=True)
def _nothing_is_compressed_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which segments are compressed, and when, is these tests' choice."""
    monkeypatch.setattr(Compressor, "poll", lambda _: None)


def plain_segments(directory: Path) -> list[Path]:
    return [one.path for one in list_segments(directory, Market.STOCKS)]


def aggressors(messages: Sequence[Message]) -> set[int]:
    return {json.loads(payload).get("aggressor") for _, payload in messages}


@pytest.mark.parametrize(
    ("feed_name", "frames"), [("stocks", stock_frames(600)), ("options", option_frames(600))]
)
def test_the_messages_are_those_that_were_live(
    tmp_path: Path, feed_name: Any, frames: list[Received]
) -> None:
    record(tmp_path, feed_name, frames, roots=ROOTS, segment_bytes=20_000)
    expected = live_messages(feed_name, [frames])
    assert aggressors(expected) >= {1, 0, -1}
    assert replayed(tmp_path, feed_name) == expected


def test_plain_and_compressed_segments_say_the_same(tmp_path: Path) -> None:
    frames = stock_frames(600)
    record(tmp_path, "stocks", frames, segment_bytes=20_000)
    paths = plain_segments(tmp_path)
    assert len(paths) > 5
    for path in paths[::2]:
        compress(path)
    assert replayed(tmp_path) == live_messages("stocks", [frames])
    for path in paths[1::2]:
        compress(path)
    assert replayed(tmp_path) == live_messages("stocks", [frames])


def test_a_run_that_was_started_again_knows_nothing_of_the_one_before(tmp_path: Path) -> None:
    """Both runs call their first connection 1."""
    first = [(frame(quote()), OPEN_NS, 1)]
    second = [(frame(trade(p=686.02)), OPEN_NS + NS_PER_S, 1)]
    record(tmp_path, "stocks", first)
    record(tmp_path, "stocks", second)
    found = replayed(tmp_path)
    assert found == live_messages("stocks", [first, second])
    assert json.loads(found[1][1])["aggressor"] == 0


def test_runs_whose_symbols_have_other_numbers_are_not_mixed_up(tmp_path: Path) -> None:
    runs = [[(frame(trade(sym=sym)), OPEN_NS + n, 1)] for n, sym in enumerate(("SPY", "QQQ"))]
    for frames in runs:
        record(tmp_path, "stocks", frames)
    blocks = JournalFeed(directory=tmp_path, market=Market.STOCKS).blocks()
    symbols = [
        block.symbols[int(number)] for block in blocks for number in block.records["instrument_id"]
    ]
    assert symbols == ["SPY", "QQQ"]


def test_a_day_alone_says_what_it_said_among_others(tmp_path: Path) -> None:
    """The second day begins with trades of a connection whose quotes came on the first."""
    frames = [
        (frame(quote(), trade(p=686.02)), OPEN_NS, 1),
        (frame(trade(p=686.02), trade(p=686.0)), NEXT_OPEN_NS, 1),
    ]
    record(tmp_path, "stocks", frames)
    both = live_messages("stocks", [frames])
    assert replayed(tmp_path) == both
    assert replayed(tmp_path, dates=[DAY]) == both[:2]
    assert replayed(tmp_path, dates=[NEXT]) == both[2:]
    assert aggressors(both[2:]) == {1, -1}


def test_a_journal_that_ends_in_the_middle_of_an_entry_gives_all_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = stock_frames(50)
    record(tmp_path, "stocks", frames)
    (path,) = plain_segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    assert messages_of(feed.blocks()) == live_messages("stocks", [frames[:-1]])
    assert feed.progress.skipped == {}
    assert feed.progress.bytes_read == feed.progress.bytes_total
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert str(path) in said.getMessage()
    start = path.stat().st_size + 1 - 32 - len(frames[-1][0])
    assert f"ends in the middle of an entry, at byte {start} " in said.getMessage()


@given(st.data())
def test_a_cut_anywhere_gives_the_messages_of_the_whole_frames(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    frames = stock_frames(8)
    content = segment(entries(frames))
    folder = tmp_path_factory.mktemp("cut")
    at = data.draw(st.integers(0, len(content)))
    (folder / "stocks-20251216-000001.journal").write_bytes(content[:at])
    sizes = np.cumsum([len(segment([])), *(32 + len(one[0]) for one in frames)])
    whole = int((sizes <= at).sum()) - 1
    assert replayed(folder) == live_messages("stocks", [frames[: max(whole, 0)]])


def test_a_run_goes_on_behind_a_torn_tail_of_the_run_before(tmp_path: Path) -> None:
    first, second = stock_frames(20), stock_frames(20, start_ns=OPEN_NS + 60 * NS_PER_S, seed=2)
    record(tmp_path, "stocks", first)
    (path,) = plain_segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    record(tmp_path, "stocks", second)
    assert replayed(tmp_path) == live_messages("stocks", [first[:-1], second])


def all_before_the_error(feed: JournalFeed) -> tuple[list[Message], str]:
    found: list[Message] = []
    with pytest.raises(BadDataError) as caught:  # noqa: PT012 - what came before it counts too
        for block in feed.blocks():
            found += messages_of([block])
    return found, str(caught.value)


def test_damage_in_the_middle_costs_its_frame_and_is_told_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [(frame(trade(q=number)), OPEN_NS + number, 1) for number in range(50)]
    record(tmp_path, "stocks", frames, segment_bytes=2_500)
    paths = plain_segments(tmp_path)
    assert len(paths) == 3
    content = bytearray(paths[1].read_bytes())
    content[-40] ^= 1
    content[-300] ^= 1
    paths[1].write_bytes(content)
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    found, error = all_before_the_error(feed)
    numbers = [json.loads(payload)["seq"] for _, payload in found]
    lost = sorted(set(range(50)) - set(numbers))
    assert numbers == sorted(numbers)
    assert len(lost) == 2
    assert feed.progress.skipped == {"frame_not_in_journal": 2}
    # The entry at the end of the second segment cannot be told from a torn one; its number can.
    assert error.startswith(f"{paths[1]} is damaged from byte ")
    assert error.endswith("; all else was read (places like this: 1)")
    assert [one.levelno for one in caplog.records] == [logging.ERROR, logging.WARNING]


def test_a_segment_whose_header_is_damaged_is_left_out_and_the_rest_read(tmp_path: Path) -> None:
    frames = [(frame(trade(q=number)), OPEN_NS + number, 1) for number in range(50)]
    record(tmp_path, "stocks", frames, segment_bytes=2_500)
    paths = plain_segments(tmp_path)
    content = bytearray(paths[1].read_bytes())
    content[10] ^= 1
    paths[1].write_bytes(content)
    found, error = all_before_the_error(JournalFeed(directory=tmp_path, market=Market.STOCKS))
    assert error.startswith(f"{paths[1]} has a damaged header: its checksum disagrees")
    numbers = [json.loads(payload)["seq"] for _, payload in found]
    assert 0 in numbers
    assert 49 in numbers
    assert len(numbers) < 50


def test_a_compressed_segment_that_is_cut_gives_what_is_whole(tmp_path: Path) -> None:
    frames = stock_frames(5000)
    record(tmp_path, "stocks", frames)
    path = compress(plain_segments(tmp_path)[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found, error = all_before_the_error(JournalFeed(directory=tmp_path, market=Market.STOCKS))
    expected = live_messages("stocks", [frames])
    assert len(found) > len(expected) // 3
    assert found == expected[: len(found)]
    assert f"{path} ends inside a zstd frame" in error


def test_a_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stocks-20251216-000001.journal"
    path.write_bytes(b"[{}]")
    found, error = all_before_the_error(JournalFeed(directory=tmp_path, market=Market.STOCKS))
    assert found == []
    assert error.startswith(f"{path} is no journal: it does not begin as one")


def test_a_file_of_another_feed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stocks-20251216-000001.journal"
    path.write_bytes(segment(entries(option_frames(3)), header(market=Market.OPTIONS)))
    found, error = all_before_the_error(JournalFeed(directory=tmp_path, market=Market.STOCKS))
    assert found == []
    assert error.startswith(f"{path} holds frames of options")


def test_a_folder_or_a_date_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(NoDataError, match="cannot be listed"):
        JournalFeed(directory=tmp_path / "gone", market=Market.STOCKS).blocks()
    record(tmp_path, "stocks", stock_frames(1))
    with pytest.raises(NoDataError, match="dates there are: 2025-12-16"):
        JournalFeed(directory=tmp_path, market=Market.STOCKS, dates=[NEXT]).blocks()


def minutes(count: int, start_ns: int = OPEN_NS) -> list[Received]:
    """A trade each minute; its number is its sequence."""
    times = [start_ns + number * 60 * NS_PER_S for number in range(count)]
    return [(frame(trade(t=ns // 1_000_000, q=number)), ns, 1) for number, ns in enumerate(times)]


def test_a_session_by_new_york_time(tmp_path: Path) -> None:
    record(tmp_path, "stocks", [*minutes(120), *minutes(120, NEXT_OPEN_NS)])
    feed = JournalFeed(
        directory=tmp_path, market=Market.STOCKS, start=dt.time(10, 0), end=dt.time(10, 2)
    )
    found = messages_of(feed.blocks())
    assert [json.loads(payload)["seq"] for _, payload in found] == [30, 31, 30, 31]
    assert (feed.progress.records, feed.progress.filtered) == (4, 236)


def test_what_the_window_leaves_out_is_known_all_the_same(tmp_path: Path) -> None:
    ms = OPEN_NS // 1_000_000
    frames = [
        (frame(quote(t=ms)), OPEN_NS, 1),
        (frame(trade(p=686.02, t=ms + 60_000)), OPEN_NS + 60 * NS_PER_S, 1),
    ]
    record(tmp_path, "stocks", frames)
    (message,) = replayed(tmp_path, start=dt.time(9, 31))
    assert json.loads(message[1])["aggressor"] == 1


@pytest.mark.parametrize(
    ("feed_name", "symbols", "key", "expected"),
    [
        ("stocks", {"SPY"}, "symbol", {"SPY"}),
        ("stocks", {"SPY", "QQQ"}, "symbol", {"SPY", "QQQ"}),
        ("stocks", {"ES.c.0"}, "symbol", set()),
        ("options", {"SPY"}, "option_symbol", {"O:SPY260814C00686000", "O:SPY260814P00680000"}),
        ("options", {"O:QQQ260814C00500000"}, "option_symbol", {"O:QQQ260814C00500000"}),
    ],
)
def test_symbols_are_chosen_by_name_options_also_by_underlying(
    tmp_path: Path, feed_name: str, symbols: set[str], key: str, expected: set[str]
) -> None:
    frames = (stock_frames if feed_name == "stocks" else option_frames)(200)
    record(tmp_path, feed_name, frames, roots=ROOTS)
    found = replayed(tmp_path, feed_name, symbols=frozenset(symbols))
    assert {json.loads(payload)[key] for _, payload in found} == expected
    everything = live_messages(feed_name, [frames])
    assert found == [one for one in everything if json.loads(one[1])[key] in expected]


def test_blocks_are_large_but_no_larger_than_asked_for(tmp_path: Path) -> None:
    frames = stock_frames(2000)
    record(tmp_path, "stocks", frames)
    for block_bytes in (MIN_BLOCK_BYTES, 65_536):
        feed = JournalFeed(directory=tmp_path, market=Market.STOCKS, block_bytes=block_bytes)
        sizes = [block.records.nbytes for block in feed.blocks() if len(block.records)]
        assert max(sizes) <= block_bytes
        assert sum(size > block_bytes // 2 for size in sizes) >= len(sizes) // 2
        assert feed.progress.frames == 2000


def test_a_frame_larger_than_a_block_is_cut(tmp_path: Path) -> None:
    frames = [(frame(*(trade(q=number) for number in range(300))), OPEN_NS, 1)]
    record(tmp_path, "stocks", frames)
    blocks = list(JournalFeed(
        directory=tmp_path, market=Market.STOCKS, block_bytes=MIN_BLOCK_BYTES
    ).blocks())  # fmt: skip
    assert max(len(block.records) for block in blocks) == MIN_BLOCK_BYTES // STOCK_TRADE.itemsize
    assert messages_of(blocks) == live_messages("stocks", [frames])


def test_blocks_smaller_than_a_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="block_bytes is 100; it must be at least 4096"):
        JournalFeed(directory=tmp_path, market=Market.STOCKS, block_bytes=100)


def test_a_journal_without_records_gives_signs_of_life(tmp_path: Path) -> None:
    status = frame({"ev": "status", "status": "success", "message": "x" * 10_000})
    record(tmp_path, "stocks", [(status, OPEN_NS, 1)] * 200)
    blocks = list(JournalFeed(directory=tmp_path, market=Market.STOCKS, source=Source.SIM).blocks())
    assert len(blocks) >= 200 * 10_000 // (256 * 1024)
    assert {(len(block.records), block.source) for block in blocks} == {(0, Source.SIM)}


def test_progress_counts_bytes_records_and_what_was_left_out(tmp_path: Path) -> None:
    frames = [
        (frame(quote(), {"ev": "A"}, trade(p=-1)), OPEN_NS, 1),
        (frame(trade(), trade(t=1_786_649_956_000)), OPEN_NS + 1, 1),
    ]
    record(tmp_path, "stocks", frames)
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    size = plain_segments(tmp_path)[0].stat().st_size
    blocks = feed.blocks()
    assert (feed.progress.bytes_total, feed.progress.bytes_read) == (size, 0)
    list(blocks)
    assert feed.progress.bytes_read == size
    assert (feed.progress.frames, feed.progress.records, feed.progress.late) == (2, 3, 1)
    assert feed.progress.skipped == {"unknown_ev": 1, "price": 1}


def test_frames_that_were_not_recorded_are_counted(tmp_path: Path) -> None:
    frames = entries([(frame(trade(q=number)), OPEN_NS, 1) for number in range(9)])
    path = tmp_path / "stocks-20251216-000001.journal"
    path.write_bytes(segment([*frames[:3], *frames[7:]]))
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    assert len(messages_of(feed.blocks())) == 5
    assert feed.progress.skipped == {"frame_not_in_journal": 4}


def test_of_what_is_read_for_context_only_nothing_is_counted(tmp_path: Path) -> None:
    """One run of two days; of the first a frame was never recorded."""
    name = "stocks-{:%Y%m%d}-00000{}.journal"
    frames = entries([(frame(trade(q=number)), OPEN_NS, 1) for number in range(4)])
    for date, number, kept in ((DAY, 1, frames[:1]), (DAY, 2, frames[2:3]), (NEXT, 1, frames[3:])):
        head = header(part=len(list(tmp_path.iterdir())) + 1, date=date)
        (tmp_path / name.format(date, number)).write_bytes(segment(kept, head))
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS, dates=[NEXT])
    assert len(messages_of(feed.blocks())) == 1
    assert (feed.progress.frames, feed.progress.skipped) == (1, {})
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    assert len(messages_of(feed.blocks())) == 3
    assert feed.progress.skipped == {"frame_not_in_journal": 1}


def test_memory_does_not_depend_on_the_size_of_the_journal(tmp_path: Path) -> None:
    peaks = []
    for count in (3_000, 12_000):
        folder = tmp_path / str(count)
        record(folder, "stocks", stock_frames(count))
        for path in plain_segments(folder):
            compress(path)
        feed = JournalFeed(directory=folder, market=Market.STOCKS, block_bytes=MIN_BLOCK_BYTES)
        tracemalloc.start()
        for block in feed.blocks():
            assert block.records.nbytes <= MIN_BLOCK_BYTES
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2
    assert peaks[1] < 4_000_000
