from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ingestor.journal import recorder as recorder_module
from ingestor.journal.format import Market
from ingestor.journal.recorder import Begin, End, Wake, WriterThread
from tests.journal.tapes import DAY, wait_until


def test_work_is_done_in_order_and_to_its_end(tmp_path: Path) -> None:
    recorder = WriterThread(tmp_path, Market.STOCKS)
    recorder.put(Begin(DAY, b"first"))
    recorder.put(bytearray(b" one"))
    recorder.put(Wake())
    recorder.put(Begin(DAY, b"second"))
    recorder.put(bytearray(b" two"))
    recorder.put(End())
    recorder.put(Begin(DAY, b"third"))
    recorder.stop()
    assert recorder.failure is None
    assert recorder.backlog_bytes == 0
    contents = [(tmp_path / f"stocks-20251216-00000{n}.journal").read_bytes() for n in (2, 3)]
    assert contents == [b"second two", b"third"]


def test_a_recorder_that_never_began_stops_at_once(tmp_path: Path) -> None:
    before = threading.active_count()
    WriterThread(tmp_path, Market.STOCKS).stop()
    assert threading.active_count() == before


def test_what_a_disk_refuses_to_the_end_is_lost_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    recorder = WriterThread(tmp_path / "file", Market.STOCKS)
    recorder.put(Begin(DAY, b"first"))
    recorder.put(bytearray(b" one"))
    recorder.stop()
    assert recorder.failure is not None
    assert "file" in recorder.failure
    assert recorder.backlog_bytes == 0
    (trouble,) = recorder.take_troubles()
    assert "cannot be written" in trouble
    assert "the last 4 bytes of the journal" in caplog.records[-1].getMessage()


def test_what_a_disk_refuses_is_written_when_it_no_longer_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_S", 0.01)
    folder = tmp_path / "journal"
    folder.touch()
    recorder = WriterThread(folder, Market.STOCKS)
    recorder.put(Begin(DAY, b"first"))
    recorder.put(bytearray(b" one"))
    wait_until(lambda: recorder.failure is not None)
    folder.unlink()
    wait_until(lambda: recorder.backlog_bytes == 0)
    recorder.stop()
    assert recorder.failure is None
    assert (folder / "stocks-20251216-000001.journal").read_bytes() == b"first one"
    assert [text.partition(": ")[2][:8] for text in recorder.take_troubles()] == [
        "it canno",
        "it is wr",
    ]


def test_a_disk_that_stands_still_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A named pipe that nobody reads stands for the disk."""
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    recorder = WriterThread(tmp_path, Market.STOCKS)
    recorder._disk.file = pipe.open("wb", buffering=0)
    recorder.put(bytearray(1 << 20))
    recorder.stop()
    assert "the disk stands still" in caplog.records[-1].getMessage()
    assert recorder.backlog_bytes == 1 << 20
    os.close(reading)
