from __future__ import annotations

from pathlib import Path

import pytest

from ingestor.feeds.databento.record_filter import FileIssues


def test_each_cause_is_said_once_with_its_count_and_first_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    issues = FileIssues(Path("/data/x.dbn"))
    issues.skipped("bad", 2, 5)
    issues.skipped("worse", 1, 7)
    issues.skipped("bad", 3, 90)
    issues.late(4, 11)
    issues.late(1, 300)
    issues.log()
    assert caplog.messages == [
        "/data/x.dbn: records skipped: 5, the first is number 5 (from 0): bad",
        "/data/x.dbn: records skipped: 1, the first is number 7 (from 0): worse",
        "/data/x.dbn: records that step back in time: 5, the first is number 11 (from 0); "
        "they keep their place",
    ]


def test_without_issues_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    FileIssues(Path("/data/x.dbn")).log()
    assert not caplog.messages
