from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ingestor.feeds.polygon.journal import recorder as recorder_module
from ingestor.feeds.polygon.journal.format import Market
from ingestor.feeds.polygon.journal.recorder import Begin, End, Recorder, Wake
from tests.feeds.polygon.journal.tapes import DAY


def test_work_is_done_in_order_and_to_its_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, Market.STOCKS)
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
    Recorder(tmp_path, Market.STOCKS).stop()
    assert threading.active_count() == before


def test_after_a_failure_work_is_thrown_away(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "gone", Market.STOCKS)
    recorder.put(Begin(DAY, b"first"))
    recorder.put(bytearray(b" one"))
    recorder.stop()
    assert recorder.failure is not None
    assert "gone" in recorder.failure
    assert recorder.backlog_bytes == 0


def test_a_disk_that_stands_still_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A named pipe that nobody reads stands for the disk."""
    monkeypatch.setattr(recorder_module, "CLOSE_S", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    recorder = Recorder(tmp_path, Market.STOCKS)
    recorder._disk._file = pipe.open("wb", buffering=0)
    recorder.put(bytearray(1 << 20))
    recorder.stop()
    assert "the disk stands still" in caplog.records[-1].getMessage()
    assert recorder.backlog_bytes == 1 << 20
    os.close(reading)
