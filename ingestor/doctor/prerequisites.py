"""What a run needs to be there: what is installed, and what a replay would read.

Of the one Python, packages, compiled modules, the server's program, time zones; of the other files
and journals, their dates, and what stands in the way.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import platform
import re
import shlex
import sys
import zoneinfo
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from ingestor.config.schema import Config, Replay
from ingestor.doctor import CheckResult, failed, passed, warned
from ingestor.feeds.databento.candidates import front_of
from ingestor.feeds.databento.files import Listing
from ingestor.feeds.databento.selection import Catalog
from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.model.bounds import printable
from ingestor.model.errors import BadDataError, EmbeddedServerError, ExitCode, NoDataError
from ingestor.model.units import dates_text
from ingestor.runtime.day_list import Day, days_of_files, days_of_journal, holes
from ingestor.runtime.embedded_server import server_program
from ingestor.runtime.machine import checkout, program

FILE_FEEDS: Final = ("trades", "mbp10")
"""What a replay takes that names no feeds, and no journal."""

_ASIDE: Final = ".broken"

MAX_NAMED: Final = 3
"""Files that a finding names; the rest are counted."""

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


def data_checks(config: Config, *, needed: bool) -> Iterator[CheckResult]:
    """Yield what is found; `needed` where a replay without data is what was asked about."""
    replay = config.replay
    places = replay.files or (replay.data_dir,)
    days: list[Day] = []
    try:
        listing = Listing()
        for place in places:
            listing.add(place)
        yield files_check(listing)
        days = days_of_files(Catalog(places))
    except NoDataError as error:
        if replay.journal_dir is None:
            yield _nothing(str(error), needed=needed)
            return
    except BadDataError as error:
        yield failed("DATA", str(error), ExitCode.BAD_DATA)
        return
    if replay.journal_dir is not None:
        try:
            days += days_of_journal(replay.journal_dir)
        except NoDataError as error:
            yield failed("DATA", str(error), ExitCode.NO_DATA)
            return
    yield days_check(days, config, needed=needed)
    if days:
        yield dates_check(days, config)


def days_check(days: Sequence[Day], config: Config, *, needed: bool) -> CheckResult:
    """Judge whether there is something to replay of each feed."""
    if not days:
        where = ", ".join(map(str, config.replay.files or (config.replay.data_dir,)))
        return _nothing(f"there is no DBN file in {where} and below", needed=needed)
    feeds = sorted({day.feed for day in days})
    missing = [feed for feed in _wanted(config) if feed not in feeds]
    # Beside a journal a replay takes the files that there are.
    if missing and config.replay.journal_dir is None:
        text = f"nothing of {', '.join(missing)}; there is {', '.join(feeds)}"
        mend = _replay_of(days, max(day.date for day in days), config)
        return (
            failed("DATA", text, ExitCode.NO_DATA, mend) if needed else warned("DATA", text, mend)
        )
    size = sum(day.size_bytes for day in days) / 1e9
    dates = len({day.date for day in days})
    text = f"{', '.join(feeds)}: {dates:,} day{'' if dates == 1 else 's'}, {size:,.2f} GB"
    return passed("DATA", text)


def dates_check(days: Sequence[Day], config: Config) -> CheckResult:
    """Judge the dates that are there against those asked for, and for holes between them."""
    there = {day.date for day in days}
    lacking = sorted(set(config.replay.dates) - there)
    if lacking:
        text = f"nothing of {dates_text(lacking)}; there is {dates_text(sorted(there))}"
        mend = _replay_of(days, max(there), config)
        return failed("DATA_DATES", text, ExitCode.NO_DATA, mend)
    missing = holes(days)
    if missing:
        told = "; ".join(f"{feed} lacks {dates_text(dates)}" for feed, dates in missing.items())
        return warned("DATA_DATES", told)
    return passed("DATA_DATES", dates_text(sorted(there)))


def files_check(listing: Listing) -> CheckResult:
    """Judge whether every file that lies there can be read by its front, and is of use."""
    problems: list[tuple[Path, str]] = []
    unread = 0
    for listed in listing.files:
        if listed.problem is not None:
            problems.append((listed.path, f"{listed.path} {listed.problem}"))
            unread += 1
            continue
        try:
            front_of(listed.path)
        except (BadDataError, NoDataError) as error:
            problems.append((listed.path, printable(str(error))))
            unread += isinstance(error, NoDataError)
    if problems:
        named = "; ".join(text for _, text in problems[:MAX_NAMED])
        more = len(problems) - MAX_NAMED
        paths = " ".join(shlex.quote(str(path)) for path, _ in problems)
        # Moved aside, not removed: a file of that name is passed over.
        aside = f'for file in {paths}; do mv -n "$file" "$file{_ASIDE}"; done'
        mend = f"chmod u+r {paths}" if unread == len(problems) else aside
        code = ExitCode.NO_DATA if unread == len(problems) else ExitCode.BAD_DATA
        text = named + (f"; and {more} more" if more > 0 else "")
        return failed("DATA_FILES", text, code, mend)
    others = [other for other in listing.others if not other[0].name.endswith(_ASIDE)]
    if others:
        path, reason = others[0]
        text = f"{len(others)} passed over, such as {printable(str(path))}, which {reason}"
        return warned("DATA_FILES", text)
    return passed("DATA_FILES", f"{len(listing.files)} files can be read")


def _wanted(config: Config) -> Sequence[str]:
    return config.replay.feeds or FILE_FEEDS


def _replay_of(days: Sequence[Day], date: dt.date, config: Config) -> str:
    """Return the command that replays what there is of a date."""
    feeds = {day.feed for day in days if day.date == date}
    there = [feed for feed in _wanted(config) if feed in feeds]
    words = ["--date", str(date)]
    if there != list(FILE_FEEDS):
        words += ["--feeds", ",".join(there)]
    if config.replay.data_dir != Replay().data_dir:
        words += ["--data-dir", str(config.replay.data_dir)]
    return f"{program()} replay {shlex.join([*words, *map(str, config.replay.files)])}"


def _nothing(text: str, *, needed: bool) -> CheckResult:
    # The sample day is data enough to see the program run.
    mend = f"{program()} replay --demo"
    if needed:
        return failed("DATA", text, ExitCode.NO_DATA, mend)
    return warned("DATA", f"{text}; only a replay needs it", mend)
