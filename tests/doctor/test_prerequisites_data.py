"""Folders of data that are set up wrong."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import pytest

from ingestor.config.schema import Config, Replay
from ingestor.doctor import CheckResult
from ingestor.doctor.prerequisites import data_checks
from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_DAY
from tests.dbn_files import DAY, DAY_NS, dbn_path, trades, write_dbn
from tests.doctor.typing_shell import assert_right, assert_wrong, typed


def write_day(folder: Path, days_later: int = 0) -> Path:
    date = DAY + dt.timedelta(days=days_later)
    path = dbn_path(folder, "trades", date)
    write_dbn(path, trades(10, start_ns=DAY_NS + days_later * NS_PER_DAY), schema="trades")
    return path


def findings(folder: Path, *, needed: bool = True, **replay: object) -> dict[str, CheckResult]:
    given: dict[str, Any] = {"data_dir": folder, "feeds": ("trades",), **replay}
    config = Config(replay=Replay(**given))
    return {finding.code: finding for finding in data_checks(config, needed=needed)}


def test_a_day_of_files_is_right(tmp_path: Path) -> None:
    write_day(tmp_path)
    found = findings(tmp_path)
    for code in ("DATA_FILES", "DATA", "DATA_DATES"):
        assert_right(found[code], code)
    assert found["DATA"].found.startswith("trades: 1 day, ")


@pytest.mark.parametrize("needed", [True, False])
def test_a_feed_of_which_there_is_nothing_is_told(tmp_path: Path, needed: bool) -> None:
    write_day(tmp_path)
    finding = findings(tmp_path, needed=needed, feeds=("trades", "mbp10"))["DATA"]
    assert_wrong(finding, "DATA", ExitCode.NO_DATA if needed else 0)
    assert finding.found == "nothing of mbp10; there is trades"
    assert "replay --date 2024-01-02 --feeds trades" in finding.mend


@pytest.mark.parametrize("needed", [True, False])
def test_a_folder_that_is_missing_or_empty_is_told(tmp_path: Path, needed: bool) -> None:
    missing = findings(tmp_path / "none", needed=needed)["DATA"]
    empty = findings(tmp_path, needed=needed)["DATA"]
    for finding in (missing, empty):
        assert_wrong(finding, "DATA", ExitCode.NO_DATA if needed else 0)
        assert finding.mend.endswith("replay --demo")


def test_a_date_that_lacks_is_told_with_those_there(tmp_path: Path) -> None:
    write_day(tmp_path)
    finding = findings(tmp_path, dates=(dt.date(2024, 1, 3),))["DATA_DATES"]
    assert_wrong(finding, "DATA_DATES", ExitCode.NO_DATA)
    assert finding.found == "nothing of 2024-01-03; there is 2024-01-02"
    assert finding.mend.endswith(f"replay --date 2024-01-02 --feeds trades --data-dir {tmp_path}")


def test_a_trading_day_that_lacks_in_between_is_told(tmp_path: Path) -> None:
    write_day(tmp_path)
    write_day(tmp_path, 3)
    finding = findings(tmp_path)["DATA_DATES"]
    assert_wrong(finding, "DATA_DATES")
    assert finding.found == "trades lacks 2024-01-03, 2024-01-04"
    write_day(tmp_path, 1)
    write_day(tmp_path, 2)
    # The 6th and 7th are a weekend.
    write_day(tmp_path, 6)
    assert_right(findings(tmp_path)["DATA_DATES"], "DATA_DATES")


def test_a_file_that_is_damaged_is_named_and_moved_aside_by_the_mend(tmp_path: Path) -> None:
    write_day(tmp_path)
    broken = dbn_path(tmp_path, "trades", DAY + dt.timedelta(days=1))
    broken.write_bytes(b"DBN\x09nonsense")
    finding = findings(tmp_path)["DATA_FILES"]
    assert_wrong(finding, "DATA_FILES", ExitCode.BAD_DATA)
    assert str(broken) in finding.found
    typed(finding)
    assert_right(findings(tmp_path)["DATA_FILES"], "DATA_FILES")
    assert broken.with_name(f"{broken.name}.broken").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_can_be_once_the_mend_is_typed(tmp_path: Path) -> None:
    path = write_day(tmp_path)
    path.chmod(0)
    finding = findings(tmp_path)["DATA_FILES"]
    assert_wrong(finding, "DATA_FILES", ExitCode.NO_DATA)
    typed(finding)
    assert_right(findings(tmp_path)["DATA_FILES"], "DATA_FILES")


def test_what_is_passed_over_is_told(tmp_path: Path) -> None:
    write_day(tmp_path)
    (tmp_path / "job.zip").write_bytes(b"")
    finding = findings(tmp_path)["DATA_FILES"]
    assert_wrong(finding, "DATA_FILES")
    assert (
        finding.found
        == f"1 passed over, such as {tmp_path / 'job.zip'}, which is an archive: unpack it"
    )


def test_a_journal_that_is_not_there_is_told(tmp_path: Path) -> None:
    finding = findings(tmp_path, journal_dir=tmp_path / "journal")["DATA"]
    assert_wrong(finding, "DATA", ExitCode.NO_DATA)
