from __future__ import annotations

import datetime as dt
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from ingestor.feeds.polygon.journal_feed import JournalFeed
from ingestor.journal import recorder as recorder_module
from ingestor.journal.format import (
    MAX_PAYLOAD_BYTES,
    Entry,
    Header,
    Market,
)
from ingestor.journal.recorder import CHUNK_BYTES, JournalRecorder
from ingestor.journal.segment_writer import FolderLock
from ingestor.journal.segments import list_segments
from ingestor.model.errors import BadDataError, ConfigurationError
from ingestor.model.units import NS_PER_S, new_york_ns
from tests.journal.tapes import (
    DAY,
    OPEN_NS,
    Received,
    content_of,
    entries,
    record,
    stock_frames,
    unpacked,
    unpacked_as_far_as_whole,
    wait_until,
)
from tests.journal.test_segment_writer import files_of_at_most

MIDNIGHT_NS = new_york_ns(DAY + dt.timedelta(days=1), dt.time(0))


def contents(
    directory: Path, market: Market = Market.STOCKS
) -> list[tuple[str, Header, list[Entry]]]:
    """Every segment: its date and number, its header, its entries; none may be torn."""
    found = []
    for one in list_segments(directory, market):
        head, held, torn = unpacked(content_of(one))
        assert head is not None
        assert torn is None
        found.append((f"{one.date:%d}-{one.number}", head, held))
    return found


def all_entries(directory: Path) -> list[Entry]:
    return [entry for _, _, held in contents(directory) for entry in held]


def until_compressed(writer: JournalRecorder, directory: Path, number: int = 1) -> None:
    """Tick until a segment of the day is there compressed and no longer plain."""
    plain = directory / f"stocks-{DAY:%Y%m%d}-{number:06d}.journal"

    def done() -> bool:
        writer.tick(OPEN_NS)
        return plain.with_name(plain.name + ".zst").exists() and not plain.exists()

    wait_until(done)


def test_frames_come_back_as_they_were_received(tmp_path: Path) -> None:
    frames = stock_frames(300)
    record(tmp_path, "stocks", frames)
    ((name, head, held),) = contents(tmp_path)
    assert held == entries(frames)
    assert name == "16-1"
    assert (head.market, head.run_ns, head.date, head.part, head.connection, head.roots) == (
        Market.STOCKS, frames[0][1], DAY, 1, 1, (),
    )  # fmt: skip


def test_the_header_says_how_the_frames_are_decoded(tmp_path: Path) -> None:
    record(tmp_path, "options", [(b"[]", OPEN_NS, 1)], roots=("SPY", "SPX"), late_after_ns=5)
    ((_, head, _),) = contents(tmp_path, Market.OPTIONS)
    assert (head.market, head.roots, head.late_after_ns) == (Market.OPTIONS, ("SPX", "SPY"), 5)


def test_a_run_without_frames_leaves_no_segment(tmp_path: Path) -> None:
    record(tmp_path, "stocks", [])
    assert list_segments(tmp_path, Market.STOCKS) == []


def test_a_tick_writes_what_is_held(tmp_path: Path) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    writer.append(b"[]", OPEN_NS, 1)
    assert all(one.size <= 44 for one in list_segments(tmp_path, Market.STOCKS))
    writer.tick(OPEN_NS)
    wait_until(lambda: [s.size for s in list_segments(tmp_path, Market.STOCKS)] == [44 + 34])
    writer.close()


def test_no_more_than_a_chunk_is_held(tmp_path: Path) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    for number in range(3 * CHUNK_BYTES // 1000):
        writer.append(bytes(1000), OPEN_NS + number, 1)
        assert len(writer._chunk) < CHUNK_BYTES
    wait_until(
        lambda: sum(s.size for s in list_segments(tmp_path, Market.STOCKS)) > 2 * CHUNK_BYTES
    )
    writer.close()


def test_a_full_segment_is_followed_by_another_of_the_same_run(tmp_path: Path) -> None:
    frames = stock_frames(100)
    record(tmp_path, "stocks", frames, segment_bytes=10_000)
    segments = contents(tmp_path)
    assert all_entries(tmp_path) == entries(frames)
    assert [head.part for _, head, _ in segments] == list(range(1, len(segments) + 1))
    assert {head.run_ns for _, head, _ in segments} == {frames[0][1]}
    assert [head.connection for _, head, _ in segments] == [
        held[0].connection for _, _, held in segments
    ]
    sizes = [one.size for one in list_segments(tmp_path, Market.STOCKS)]
    assert all(10_000 <= size < 12_000 for size in sizes[:-1])
    assert len(sizes) > 2


def test_segments_end_at_midnight_in_new_york_not_in_utc(tmp_path: Path) -> None:
    hours = [MIDNIGHT_NS - 5 * 3600 * NS_PER_S + n * 3600 * NS_PER_S // 2 for n in range(13)]
    record(tmp_path, "stocks", [(b"[]", recv_ns, 1) for recv_ns in hours])
    assert [(name, len(held)) for name, _, held in contents(tmp_path)] == [
        ("16-1", 10),
        ("17-1", 3),
    ]


def test_a_tick_ends_a_day_that_is_over(tmp_path: Path) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    writer.append(b"[1]", MIDNIGHT_NS - 1, 1)
    writer.tick(MIDNIGHT_NS)
    until_compressed(writer, tmp_path)
    writer.append(b"[2]", MIDNIGHT_NS + 1, 1)
    writer.close()
    assert [name for name, _, _ in contents(tmp_path)] == ["16-1", "17-1"]


def test_a_frame_of_a_day_that_a_tick_has_ended_gets_a_segment_of_its_own(tmp_path: Path) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    writer.append(b"[1]", MIDNIGHT_NS - 2, 1)
    writer.tick(MIDNIGHT_NS)
    writer.append(b"[2]", MIDNIGHT_NS - 1, 1)
    writer.close()
    assert [(name, [entry.payload for entry in held]) for name, _, held in contents(tmp_path)] == [
        ("16-1", [b"[1]"]),
        ("16-2", [b"[2]"]),
    ]


def test_a_clock_that_is_set_back_does_not_lead_back_into_yesterday(tmp_path: Path) -> None:
    times = [MIDNIGHT_NS + 1, MIDNIGHT_NS - 1, MIDNIGHT_NS + 2]
    record(tmp_path, "stocks", [(b"[]", recv_ns, 1) for recv_ns in times], segment_bytes=60)
    assert [name for name, _, _ in contents(tmp_path)] == ["17-1", "17-2", "17-3"]
    assert [entry.recv_ns for entry in all_entries(tmp_path)] == times


def test_a_run_never_touches_what_was_there(tmp_path: Path) -> None:
    record(tmp_path, "stocks", [(b"[1]", OPEN_NS, 1)])
    torn = list_segments(tmp_path, Market.STOCKS)[0].path
    torn.write_bytes(torn.read_bytes()[:-2])
    before = torn.read_bytes()
    record(tmp_path, "stocks", [(b"[2]", OPEN_NS + 1, 1)])
    second = list_segments(tmp_path, Market.STOCKS)[1]
    assert second.number == 2
    compressed = torn.with_name(torn.name + ".zst")
    assert torn.exists()
    assert torn.read_bytes() == before
    assert not compressed.exists()


def test_a_segment_is_compressed_when_it_is_full(tmp_path: Path) -> None:
    frames = stock_frames(100)
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S, segment_bytes=10_000)
    for received in frames:
        writer.append(*received)
    until_compressed(writer, tmp_path)
    writer.close()
    assert all_entries(tmp_path) == entries(frames)


def test_what_a_run_left_plain_is_compressed_by_the_next(tmp_path: Path) -> None:
    record(tmp_path, "stocks", [(b"[1]", OPEN_NS, 1)])
    half = tmp_path / f"stocks-{DAY:%Y%m%d}-000001.journal.zst.part123"
    half.write_bytes(b"half")
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    until_compressed(writer, tmp_path)
    writer.close()
    assert not half.exists()
    assert [entry.payload for entry in all_entries(tmp_path)] == [b"[1]"]


def test_two_feeds_share_a_folder(tmp_path: Path) -> None:
    stocks, options = (
        JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S),
        JournalRecorder(tmp_path, "options", late_after_ns=NS_PER_S),
    )
    stocks.append(b"[1]", OPEN_NS, 1)
    options.append(b"[2]", OPEN_NS, 1)
    stocks.close()
    options.close()
    assert [entry.payload for entry in all_entries(tmp_path)] == [b"[1]"]
    assert contents(tmp_path, Market.OPTIONS)[0][2][0].payload == b"[2]"


def test_two_runs_cannot_record_one_feed_into_one_folder(tmp_path: Path) -> None:
    first = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    with pytest.raises(
        ConfigurationError, match=f"{tmp_path} is in use: another run records stocks"
    ):
        JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    first.close()
    JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S).close()


def test_a_folder_that_cannot_be_written_to_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigurationError, match="file/journal cannot be written to: Not a directory"
    ):
        JournalRecorder(tmp_path / "file" / "journal", "stocks", late_after_ns=NS_PER_S)


def test_nothing_starts_before_the_first_frame(tmp_path: Path) -> None:
    before = threading.active_count()
    writer = JournalRecorder(tmp_path / "new", "stocks", late_after_ns=NS_PER_S)
    assert threading.active_count() == before
    writer.close()


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    writer = JournalRecorder(folder, "stocks", late_after_ns=NS_PER_S)
    shutil.rmtree(folder)
    writer.append(b"[1]", OPEN_NS, 1)
    writer.close()
    assert [entry.payload for entry in all_entries(folder)] == [b"[1]"]


def test_frames_wait_for_a_disk_that_refuses_and_are_written_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_S", 0.01)
    folder = tmp_path / "journal"
    writer = JournalRecorder(folder, "stocks", late_after_ns=NS_PER_S)
    shutil.rmtree(folder)
    folder.touch()
    told: list[str] = []
    for number in range(3):
        writer.append(b"[%d]" % number, OPEN_NS + number, 1)
        told += writer.tick(OPEN_NS) or ()
    wait_until(lambda: writer.failure is not None)
    folder.unlink()
    wait_until(lambda: writer.failure is None)
    told += writer.tick(OPEN_NS) or ()
    writer.close()
    assert [entry.payload for entry in all_entries(folder)] == [b"[0]", b"[1]", b"[2]"]
    assert writer.counts.lost == 0
    assert "cannot be written" in told[0]


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda path: path.unlink(), "was removed"),
        (lambda path: path.rename(path.with_suffix(".old")), "was renamed"),
        (lambda path: os.truncate(path, 100), "has 100 bytes"),
        (lambda path: os.truncate(path, 0), "has 0 bytes"),
        (lambda path: path.write_bytes(b"x" * 9999), "has 9999 bytes"),
        (lambda path: Path(shutil.copy(path, f"{path}.x")).replace(path), "was replaced"),
        (lambda path: shutil.rmtree(path.parent), "was removed"),
    ],
)
def test_frames_go_on_in_a_new_file_when_theirs_is_removed_renamed_or_cut(
    tmp_path: Path, harm: Callable[[Path], object], what: str
) -> None:
    """Every frame after the harm is there, of those before it what the harm left."""
    folder = tmp_path / "journal"
    writer = JournalRecorder(folder, "stocks", late_after_ns=NS_PER_S)
    frames = stock_frames(60)
    told: list[str] = []

    def take(some: Sequence[Received]) -> None:
        for received in some:
            writer.append(*received)
        told.extend(writer.tick(OPEN_NS) or ())
        wait_until(lambda: writer._thread.backlog_bytes == 0)

    take(frames[:20])
    (active,) = folder.glob("*.journal")
    harm(active)
    take(frames[20:40])
    take(frames[40:])
    writer.tick(OPEN_NS)
    writer.close()
    assert any(f"{active} {what}" in text for text in told)
    found = {
        entry.number: entry.payload
        for one in list_segments(folder, Market.STOCKS)
        for entry in unpacked_as_far_as_whole(content_of(one))
    }
    assert [found.get(number) for number in range(20, 60)] == [data for data, _, _ in frames[20:]]
    feed = JournalFeed(directory=folder, market=Market.STOCKS)
    with suppress(BadDataError):
        list(feed.blocks())
    missing = feed.progress.skipped.get("frame_not_in_journal", 0)
    assert feed.progress.frames + missing == 60


def test_what_is_flushed_is_written_without_a_tick(tmp_path: Path) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    writer.append(b"[1]", OPEN_NS, 1)
    writer.flush()
    wait_until(lambda: writer._thread.backlog_bytes == 0)
    assert [entry.payload for entry in all_entries(tmp_path)] == [b"[1]"]
    writer.close()


def test_a_journal_is_synced_as_often_as_is_said_and_beside_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that does not come back holds up nothing but the next sync."""
    syncs, ticks, goes_on = count(1), count(), threading.Event()

    def sync(descriptor: int) -> None:
        next(syncs)
        goes_on.wait(10)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", sync)
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S, sync_s=0.01)
    told: list[str] = []

    def tick() -> bool:
        told.extend(writer.tick(OPEN_NS + next(ticks) * 10_000_000) or ())
        return writer._thread.backlog_bytes == 0

    for number in range(20):
        writer.append(b"[%d]" % number, OPEN_NS, 1)
        wait_until(tick)
    assert len(all_entries(tmp_path)) == 20
    assert next(syncs) == 2
    goes_on.set()
    wait_until(lambda: tick() and bool(told))
    assert told == [
        f"the journal in {tmp_path}: it is written, but might not survive a power cut:"
        " [Errno 5] Input/output error"
    ]
    writer.close()


def test_a_file_that_is_gone_is_noticed_by_a_tick_without_a_frame(tmp_path: Path) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    writer.append(b"[1]", OPEN_NS, 1)
    writer.tick(OPEN_NS)
    wait_until(lambda: writer._thread.backlog_bytes == 0)
    next(tmp_path.glob("*.journal")).unlink()
    told: list[str] = []

    def is_told() -> bool:
        told.extend(writer.tick(OPEN_NS) or ())
        return bool(told)

    wait_until(is_told)
    assert "was removed: the recording goes on in a new file" in told[0]
    writer.close()


def test_a_clock_that_steps_by_days_takes_the_date_with_it_both_ways(tmp_path: Path) -> None:
    day_ns = 24 * 3600 * NS_PER_S
    times = [OPEN_NS, OPEN_NS + 3 * day_ns, OPEN_NS + 1, OPEN_NS - 400 * day_ns, OPEN_NS + 2]
    record(tmp_path, "stocks", [(b"[]", recv_ns, 1) for recv_ns in times])
    assert [name for name, _, _ in contents(tmp_path)] == ["11-1", "16-1", "16-2", "16-3", "19-1"]
    assert sorted(entry.number for entry in all_entries(tmp_path)) == list(range(5))


FULL_DISK_PROGRAM = """
import resource, sys
from pathlib import Path
from ingestor.journal.recorder import JournalRecorder
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
writer = JournalRecorder(Path(sys.argv[1]), "stocks", late_after_ns=10**9)
for number in range(2000):
    writer.append(b"x" * 100, 1_765_895_400_000_000_000 + number, 1)
    if number % 100 == 0:
        writer.tick(1_765_895_400_000_000_000)
writer.close()
print(writer.failure)
"""


def test_a_segment_that_meets_a_full_disk_keeps_what_was_whole(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: both cut a write in its middle."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK_PROGRAM, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert os.strerror(errno.EFBIG) in done.stdout
    (found,) = list_segments(tmp_path, Market.STOCKS)
    assert found.size == 100_000
    _, held, torn = unpacked(content_of(found))
    assert [entry.number for entry in held] == list(range((100_000 - 44) // 132))
    assert torn is not None


def test_a_disk_that_was_full_is_written_again_and_the_hole_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: the same bytes are refused and retried."""
    monkeypatch.setattr(recorder_module, "MAX_BACKLOG_BYTES", 4 * CHUNK_BYTES)
    monkeypatch.setattr(recorder_module, "RETRY_S", 0.01)
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    numbers, told = count(), list[str]()

    def ticked(word: str) -> Callable[[], bool]:
        def is_told() -> bool:
            told.extend(writer.tick(OPEN_NS) or ())
            return any(word in one for one in told)

        return is_told

    def recorded() -> bool:
        number = next(numbers)
        return writer.append(b"[%d]" % number + b" " * 1_000, OPEN_NS + number, 1)

    with files_of_at_most(50_000):
        while writer.failure is None:
            recorded()  # in vain, where the thread is slow
            writer.flush()
        wait_until(ticked("cannot be written"))
        while recorded():
            pass
        assert [writer.place] == [None]
        for _ in range(100):
            assert not recorded()
    wait_until(ticked("it is written again"))
    wait_until(lambda: writer._thread.backlog_bytes == 0)
    assert recorded()
    writer.close()
    assert writer.counts.lost > 100
    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    list(feed.blocks())
    assert feed.progress.skipped["frame_not_in_journal"] == writer.counts.lost
    assert feed.progress.frames == writer.counts.frames


def test_a_frame_that_is_too_long_is_counted_and_its_number_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    for size in (2, MAX_PAYLOAD_BYTES + 1, MAX_PAYLOAD_BYTES + 1, 3):
        writer.append(bytes(size), OPEN_NS, 1)
    writer.close()
    assert (writer.counts.frames, writer.counts.lost) == (2, 2)
    assert [entry.number for entry in all_entries(tmp_path)] == [0, 3]
    assert [one.getMessage()[:26] for one in caplog.records] == ["frame 1 is not recorded: l"]


def test_a_frame_that_is_recorded_ends_a_loss_and_the_next_loss_is_told_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    places = []
    for size in (2, MAX_PAYLOAD_BYTES + 1, 2, MAX_PAYLOAD_BYTES + 1):
        writer.append(bytes(size), OPEN_NS, 1)
        places.append(writer.place is not None)
    writer.close()
    assert places == [True, False, True, False]
    assert [one.getMessage()[:24] for one in caplog.records] == [
        "frame 1 is not recorded:",
        "frame 3 is not recorded:",
    ]


def test_a_disk_that_stands_still_costs_frames_but_no_waiting_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named pipe that nobody reads stands for the disk."""
    monkeypatch.setattr(recorder_module, "MAX_BACKLOG_BYTES", 4 * CHUNK_BYTES)
    writer = JournalRecorder(tmp_path, "stocks", late_after_ns=NS_PER_S)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer.append(b"[]", OPEN_NS, 1)
    writer.tick(OPEN_NS)
    disk = writer._thread._disk
    wait_until(lambda: disk.file is not None and writer._thread.backlog_bytes == 0)
    real = disk.file
    assert real is not None
    disk.file = pipe.open("wb", buffering=0)
    for number in range(10 * CHUNK_BYTES // 1000):
        writer.append(bytes(1000), OPEN_NS + number, 1)
        assert writer._thread.backlog_bytes + len(writer._chunk) <= 4 * CHUNK_BYTES
    assert writer.counts.lost > 0
    lost = writer.counts.lost
    taken = 0

    def written() -> bool:
        nonlocal taken
        with suppress(BlockingIOError):
            taken += len(os.read(reading, 1 << 20))
        return writer._thread.backlog_bytes == 0

    wait_until(written)
    writer.append(b"[]", OPEN_NS, 1)
    assert writer.counts.lost == lost
    assert taken > 2 * CHUNK_BYTES
    os.close(reading)
    real.close()
    writer.close()


KILLED_PROGRAM = """
import sys, itertools
from pathlib import Path
from ingestor.journal.recorder import JournalRecorder
writer = JournalRecorder(Path(sys.argv[1]), "stocks", late_after_ns=10**9, segment_bytes=300_000)
for number in itertools.count():
    writer.append(b"[%d]" % number * (1 + number % 300), 1_765_895_400_000_000_000 + number, 1)
    if number % 50 == 0:
        writer.tick(1_765_895_400_000_000_000)
        print(number, flush=True)
"""


@pytest.mark.parametrize("ticks", [1, 7, 40, 150])
def test_a_writer_killed_at_any_moment_leaves_a_readable_journal(
    tmp_path: Path, ticks: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_PROGRAM, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(ticks):
        process.stdout.readline()
    process.kill()
    process.stdout.close()
    process.wait()
    found = [
        entry
        for one in list_segments(tmp_path, Market.STOCKS)
        for entry in unpacked(content_of(one))[1]
    ]
    assert [entry.number for entry in found] == list(range(len(found)))
    assert all(
        entry.payload == b"[%d]" % entry.number * (1 + entry.number % 300) for entry in found
    )
    # A compressor that was just being started holds the lock until it runs its own program.
    wait_until(lambda: is_free(tmp_path))
    # The next run goes on behind it.
    record(tmp_path, "stocks", [(b"next", OPEN_NS, 1)])
    assert all_payloads_end_with(tmp_path, b"next")


def is_free(directory: Path) -> bool:
    try:
        FolderLock(directory, Market.STOCKS).release()
    except ConfigurationError:
        return False
    return True


def all_payloads_end_with(directory: Path, payload: bytes) -> bool:
    last = list_segments(directory, Market.STOCKS)[-1]
    return last.path.read_bytes().endswith(payload)
