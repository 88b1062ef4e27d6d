"""What is installed: Python, packages, compiled modules, the server's program, time zones."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import platform
import re
import shlex
import sys
import zoneinfo
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from ingestor.doctor.check_result import CheckResult, failed, passed, warned
from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.model.errors import EmbeddedServerError, ExitCode
from ingestor.runtime.embedded_server import server_program
from ingestor.runtime.machine import checkout, program

COMPILED: Final = ("ingestor.encode._fast", "ingestor.encode._parse", "ingestor.model._keys")
_OLDEST: Final = (3, 11)
_NEWEST: Final = (3, 13)
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?")


def installation_checks(*, needs_server: bool) -> Iterator[CheckResult]:
    """Yield what is found; `needs_server` where a run would start a server of its own."""
    yield python_check(sys.version_info[:2], platform.system(), sys.maxsize > 2**32)
    yield packages_check()
    yield compiled_check()
    if needs_server:
        yield server_program_check()
    yield time_zones_check()
    yield calendar_check(dt.datetime.now(dt.UTC).date())


def python_check(version: tuple[int, int], system: str, is_64_bit: bool) -> CheckResult:
    """Judge the interpreter that runs this."""
    text = f"Python {platform.python_version()} ({platform.machine()}, {system})"
    if _OLDEST <= version <= _NEWEST and system == "Linux" and is_64_bit:
        return passed("PYTHON", text)
    mend = f"INGESTOR_PYTHON=python3.13 {program()} doctor" if checkout() else ""
    return failed("PYTHON", text, ExitCode.CONFIGURATION, mend)


def packages_check() -> CheckResult:
    """Look for every package that the installed project says it needs."""
    try:
        lines = metadata.requires("ingestor") or []
    except metadata.PackageNotFoundError:
        return warned("PACKAGES", "the project itself is not installed here", _install_again())
    own = [_REQUIREMENT.match(line) for line in lines if "extra ==" not in line]
    needed = [found[1] for found in own if found]
    missing = [name for name in needed if not _is_installed(name)]
    if missing:
        text = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        return failed("PACKAGES", text, ExitCode.INTERNAL, _install_again())
    return passed("PACKAGES", f"{len(needed)} packages are installed")


def missing_compiled() -> list[str]:
    """Return the modules that are not compiled here, none of which a run needs."""
    return [name for name in COMPILED if importlib.util.find_spec(name) is None]


def compiled_check() -> CheckResult:
    """Look for the compiled modules."""
    missing = missing_compiled()
    if not missing:
        return passed("COMPILED", "the compiled modules are there")
    short = ", ".join(name.rpartition(".")[2] for name in missing)
    slower = "plain Python does the work, some ten times slower"
    text = f"without {short}; {slower}; once there is a compiler: {_install_again()}"
    return warned("COMPILED", text, "apt-get install -y gcc libc6-dev python3-dev", as_root=True)


def server_program_check() -> CheckResult:
    """Look for nats-server beside the interpreter, then on PATH."""
    try:
        return passed("NATS_PROGRAM", server_program())
    except EmbeddedServerError as error:
        return failed("NATS_PROGRAM", str(error), ExitCode.EMBEDDED_SERVER, _install_again())


def time_zones_check() -> CheckResult:
    """See whether New York has a summer time here."""
    zoneinfo.ZoneInfo.clear_cache()
    try:
        zone = zoneinfo.ZoneInfo("America/New_York")
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        text = f"the zone America/New_York cannot be read: {error}"
        return _wrong_zone(text)
    hours = [
        offset.total_seconds() / 3600
        for month in (1, 7)
        if (offset := dt.datetime(2026, month, 1, tzinfo=zone).utcoffset()) is not None
    ]
    if hours != [-5, -4]:
        text = f"New York is {hours[0]:+g} h in January 2026 and {hours[-1]:+g} h in July"
        return _wrong_zone(text)
    return passed("TIME_ZONES", "New York is 5 h behind UTC in winter, 4 h in summer")


def _wrong_zone(text: str) -> CheckResult:
    # What is found first is read: a path that somebody has set, the system's zones, our package's.
    if os.environ.get("PYTHONTZPATH"):
        text += ", from PYTHONTZPATH"
        return failed("TIME_ZONES", text, ExitCode.INTERNAL, "unset PYTHONTZPATH")
    if any(Path(folder, "America/New_York").exists() for folder in zoneinfo.TZPATH):
        mend = "apt-get install -y --reinstall tzdata"
        return failed("TIME_ZONES", text, ExitCode.INTERNAL, mend, as_root=True)
    return failed("TIME_ZONES", text, ExitCode.INTERNAL, _install_again())


def calendar_check(today: dt.date) -> CheckResult:
    """See whether the calendar closes on Christmas and opens on a plain Tuesday of this year."""
    hours = MarketHours(OPTIONS)
    christmas = dt.date(today.year, 12, 25)
    # The second Tuesday in March has never been a holiday.
    march = dt.date(today.year, 3, 8)
    tuesday = march + dt.timedelta(days=(1 - march.weekday()) % 7)
    if hours.is_trading_day(christmas) or not hours.is_trading_day(tuesday):
        text = f"the calendar does not know the holidays of {today.year}"
        return failed("CALENDAR", text, ExitCode.INTERNAL, _install_again())
    day = hours.trading_days_from(today, 1)[0]
    return passed("CALENDAR", f"the next trading day is {day:%A}, {day}")


def _install_again() -> str:
    root = checkout()
    if root is None:
        return f"{shlex.quote(sys.executable)} -m pip install --force-reinstall ingestor"
    # Without its stamp an environment counts as unfinished, and is made anew by the next call.
    stamp = shlex.quote(f"{sys.prefix}/.ingestor-run")
    return f"rm -f {stamp} && {program()} --version"


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
