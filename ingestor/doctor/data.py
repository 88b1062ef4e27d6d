"""What a replay would read: files and journals, their dates, and what stands in the way."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ingestor.config.schema import Config, Replay
from ingestor.doctor.check_result import CheckResult, failed, passed, warned
from ingestor.feeds.databento.candidates import front_of
from ingestor.feeds.databento.files import Listing
from ingestor.feeds.databento.selection import Catalog
from ingestor.model.bounds import printable
from ingestor.model.clock import dates_text
from ingestor.model.errors import BadDataError, ExitCode, NoDataError
from ingestor.runtime.day_list import Day, days_of_files, days_of_journal, holes
from ingestor.runtime.machine import program

FILE_FEEDS: Final = ("trades", "mbp10")
"""What a replay takes that names no feeds, and no journal."""

_ASIDE: Final = ".broken"

MAX_NAMED: Final = 3
"""Files that a finding names; the rest are counted."""


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
