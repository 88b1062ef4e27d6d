from __future__ import annotations

import datetime as dt
import importlib.util
import zoneinfo
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ingestor.doctor.prerequisites import (
    calendar_check,
    compiled_check,
    installation_checks,
    packages_check,
    python_check,
    server_program_check,
    time_zones_check,
)
from ingestor.model.errors import ExitCode
from tests.doctor.typing_shell import assert_right, assert_wrong


def test_this_installation_is_right() -> None:
    codes = ["PYTHON", "PACKAGES", "COMPILED", "NATS_PROGRAM", "TIME_ZONES", "CALENDAR"]
    for finding, code in zip(installation_checks(needs_server=True), codes, strict=True):
        assert_right(finding, code)


@pytest.mark.parametrize(
    ("version", "system", "is_64_bit"),
    [((3, 10), "Linux", True), ((3, 14), "Linux", True), ((3, 12), "Darwin", True)],
)
def test_another_python_is_refused(version: tuple[int, int], system: str, is_64_bit: bool) -> None:
    assert_wrong(python_check(version, system, is_64_bit), "PYTHON", ExitCode.CONFIGURATION)
    assert_right(python_check((3, 13), "Linux", True), "PYTHON")


def test_a_package_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = metadata.distribution

    def without(name: str) -> Any:
        if name == "uvloop":
            raise metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(metadata, "distribution", without)
    finding = packages_check()
    assert_wrong(finding, "PACKAGES", ExitCode.INTERNAL)
    assert finding.found == "uvloop is not installed"


def test_compiled_modules_that_lack_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "_fast" in name else name)
    finding = compiled_check()
    assert_wrong(finding, "COMPILED")
    assert finding.found.startswith("without _fast;")


def test_a_server_program_that_lacks_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_wrong(server_program_check(), "NATS_PROGRAM", ExitCode.EMBEDDED_SERVER)


def test_time_zones_that_are_missing_or_wrong_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    utc = Path(zoneinfo.TZPATH[0]) / "UTC"
    if not utc.exists():
        pytest.skip("no time zones of the system to copy one from")
    (tmp_path / "America").mkdir()
    (tmp_path / "America" / "New_York").write_bytes(utc.read_bytes())
    before = zoneinfo.TZPATH
    try:
        zoneinfo.reset_tzpath([tmp_path])
        assert_wrong(time_zones_check(), "TIME_ZONES", ExitCode.INTERNAL)
        (tmp_path / "America" / "New_York").write_bytes(b"no zone")
        assert_wrong(time_zones_check(), "TIME_ZONES", ExitCode.INTERNAL)
    finally:
        zoneinfo.reset_tzpath(before)
        zoneinfo.ZoneInfo.clear_cache()
    assert_right(time_zones_check(), "TIME_ZONES")


def test_the_calendar_knows_every_year_that_a_run_may_see() -> None:
    for year in range(2024, 2040):
        assert_right(calendar_check(dt.date(year, 7, 3)), "CALENDAR")
    assert calendar_check(dt.date(2026, 11, 28)).found.endswith("Monday, 2026-11-30")
