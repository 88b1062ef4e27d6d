from __future__ import annotations

from pathlib import Path

import pytest

from ingestor.feeds.databento.progress import Remarks


def test_each_cause_is_said_once_with_its_count_and_first_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    remarks = Remarks(Path("/data/x.dbn"))
    remarks.skipped("bad", 2, 5)
    remarks.skipped("worse", 1, 7)
    remarks.skipped("bad", 3, 90)
    remarks.late(4, 11)
    remarks.late(1, 300)
    remarks.log()
    assert caplog.messages == [
        "/data/x.dbn: records skipped: 5, the first is number 5 (from 0): bad",
        "/data/x.dbn: records skipped: 1, the first is number 7 (from 0): worse",
        "/data/x.dbn: records that step back in time: 5, the first is number 11 (from 0); "
        "they keep their place",
    ]


def test_without_remarks_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    Remarks(Path("/data/x.dbn")).log()
    assert not caplog.messages
