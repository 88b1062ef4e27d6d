from __future__ import annotations

import datetime as dt
import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ingestor.journal.format import Market
from ingestor.journal.segment_writer import SegmentWriter, compress
from tests.journal.tapes import DAY

FIRST = "stocks-20251216-000001.journal"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SegmentWriter]:
    one = SegmentWriter(tmp_path, Market.STOCKS)
    yield one
    one.stop()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond it, pytest's own log among them: be brief."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_segment_is_what_was_appended_to_it(disk: SegmentWriter, tmp_path: Path) -> None:
    disk.begin(DAY, b"header")
    disk.append(b" one")
    disk.append(bytearray(b" two"))
    assert (tmp_path / FIRST).read_bytes() == b"header one two"


def test_every_beginning_has_a_number_of_its_own(disk: SegmentWriter, tmp_path: Path) -> None:
    disk.begin(DAY, b"1")
    disk.begin(DAY, b"2")
    disk.finish()
    compress(tmp_path / "stocks-20251216-000002.journal")
    disk.begin(DAY, b"3")
    disk.begin(DAY + dt.timedelta(days=1), b"4")
    assert names(tmp_path) == [
        FIRST,
        "stocks-20251216-000002.journal.zst",
        "stocks-20251216-000003.journal",
        "stocks-20251217-000001.journal",
    ]


def test_a_write_that_the_disk_cuts_is_an_error(disk: SegmentWriter, tmp_path: Path) -> None:
    disk.begin(DAY, b"header")
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        disk.append(bytes(2000))
    assert (tmp_path / FIRST).stat().st_size == 1000


def test_nothing_is_appended_where_nothing_was_begun(disk: SegmentWriter, tmp_path: Path) -> None:
    disk.finish()
    with pytest.raises(FileNotFoundError, match="no segment was begun"):
        disk.append(b"x")
    assert names(tmp_path) == []


def test_half_compressed_files_of_other_feeds_are_left_alone(
    disk: SegmentWriter, tmp_path: Path
) -> None:
    for feed in ("stocks", "options"):
        (tmp_path / f"{feed}-20251216-000001.journal.zst.part7").touch()
    disk.tidy()
    assert names(tmp_path) == ["options-20251216-000001.journal.zst.part7"]


def test_a_process_that_cannot_be_started_is_told_and_nothing_more(
    disk: SegmentWriter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    disk.begin(DAY, b"header")
    disk.finish()
    disk.look_after()
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert "no segment can be compressed: No such file or directory" in said.getMessage()
    assert (tmp_path / FIRST).read_bytes() == b"header"
