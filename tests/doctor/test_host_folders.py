from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingestor.doctor.host import (
    LEAST_FREE_BYTES,
    SYNCS,
    bytes_a_day,
    folder_checks,
    space_finding,
    sync_finding,
    sync_times_s,
    writable_check,
)
from ingestor.model.errors import ExitCode
from tests.doctor.typing_shell import assert_right, assert_wrong, typed


def test_a_folder_that_is_made_by_a_run_is_judged_by_the_one_above(tmp_path: Path) -> None:
    codes = [finding.code for finding in folder_checks([tmp_path / "journal" / "of" / "today"])]
    assert codes == ["FOLDERS", "DISK_SYNC", "DISK_SPACE"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_can_once_the_mend_is_typed(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir(mode=0o500)
    (finding,) = folder_checks([folder])
    assert_wrong(finding, "FOLDERS", ExitCode.CONFIGURATION)
    typed(finding)
    assert_right(writable_check(folder), "FOLDERS")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("")
    finding = writable_check(tmp_path / "journal")
    assert_wrong(finding, "FOLDERS", ExitCode.CONFIGURATION)


def test_a_slow_disk_is_told_by_its_slowest_syncs() -> None:
    folder = Path("journal")
    assert_right(sync_finding(folder, [0.001] * 99 + [5.0]), "DISK_SYNC")
    finding = sync_finding(folder, [0.001] * 98 + [0.05, 0.05])
    assert_wrong(finding, "DISK_SYNC")
    assert finding.found == "journal: 99 of 100 syncs within 50.0 ms"
    assert_wrong(sync_finding(folder, [0.5]), "DISK_SYNC")


def test_syncs_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    took_s = sync_times_s(tmp_path)
    assert 0 < len(took_s) <= SYNCS
    assert min(took_s) > 0
    assert list(tmp_path.iterdir()) == []


def test_free_space_is_judged_by_what_a_day_takes() -> None:
    folder, day = Path("journal"), 30e9
    assert_right(space_finding(folder, int(60e9), day), "DISK_SPACE")
    assert_right(space_finding(folder, int(10e9), None), "DISK_SPACE")
    assert_wrong(space_finding(folder, int(59e9), day), "DISK_SPACE")
    assert_wrong(space_finding(folder, int(9e9), None), "DISK_SPACE")
    full = space_finding(folder, LEAST_FREE_BYTES - 1, None)
    assert_wrong(full, "DISK_SPACE", ExitCode.EMBEDDED_SERVER)


def test_what_a_day_takes_is_known_by_sizes_and_times(tmp_path: Path) -> None:
    assert bytes_a_day(tmp_path / "none") is None
    for number in range(4):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes(1_000))
        os.utime(path, (0, number * 86_400 // 2))
    assert bytes_a_day(tmp_path) == pytest.approx(4_000 / 1.5)
    assert bytes_a_day(tmp_path / "0") is None
