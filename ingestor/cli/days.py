"""``ingestor days``: which days of data there are, and what of them a stream holds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
import uvloop

from ingestor.cli.command_line import (
    FILES,
    REPLAY_ENVIRONMENT,
    Flag,
    add,
    hide_secrets,
    parser_of,
    settings_of,
)
from ingestor.cli.event_text import aligned
from ingestor.config.load import show
from ingestor.config.schema import LIVE_ONLY, Config
from ingestor.feeds.databento.selection import Catalog
from ingestor.model.bounds import printable
from ingestor.model.errors import ExitCode, IngestorError, NoDataError
from ingestor.model.units import NS_PER_DAY, dates_text, iso_utc, new_york_time
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi, StreamContents
from ingestor.nats.options import DEFAULT_URL
from ingestor.runtime import log as logs
from ingestor.runtime.day_list import (
    Day,
    days_of_files,
    days_of_journal,
    holes,
    with_what_is_held,
)
from ingestor.runtime.embedded_server import DEFAULT_PORT, NotNatsError, server_info
from ingestor.runtime.publisher_factory import checked_options
from ingestor.runtime.replay_run import demo_config
from ingestor.runtime.run_keeper import connected

PROG: Final = "ingestor-days"

SHOWN_SYMBOLS: Final = 3

_ABOUT: Final = """\
List the days of data that lie in files and in a journal, by feed: how much, of which symbols, over
which time; which trading days lack; and what of it a stream holds.
"""

_MORE: Final = """\
examples:
  ingestor days                                 dbn-data, and the stream of a server that runs here
  ingestor days --data-dir /data/GLBX-20251217-ABCDEFGHIJ
  ingestor days --journal journal --nats nats://nats.example:4222
  ingestor days --json | jq -r '.days[].date'

columns:
  dates are UTC's of files and New York's of a journal; time is what a file's header says, or a
  journal's first event; in stream: all, part or none, as the records of runs tell, which hold what
  ran in the last 90 days; unknown where there is no record, or no server.

exit codes:
  0 done, 2 configuration, 3 no such folder, 4 a file that was named is no DBN file
"""

_HEAD: Final = ("date", "feed", "files", "size", "time (UTC)", "symbols", "in stream")
_JOURNAL: Final = Flag("--journal", "replay.journal_dir", "DIR", "folder that a run recorded into")
_DATA_DIR: Final = Flag("--data-dir", "replay.data_dir", "DIR", "folder of DBN files, or a file")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor days``; returns its exit code."""
    given = parser().parse_intermixed_args(arguments)
    try:
        loaded = settings_of(given, REPLAY_ENVIRONMENT, (*FILES, _DATA_DIR, _JOURNAL))
        if given.show_config:
            print(show(loaded, leave_out=LIVE_ONLY))
            return ExitCode.OK
        hide_secrets(loaded.config)
        logs.configure(PROG, "WARNING")
        config = demo_config(loaded.config) if given.demo else loaded.config
        days = _days(config)
        holds, days = _held(config, days)
    except IngestorError as error:
        logs.complain(PROG, error)
        return error.exit_code
    if given.json:
        values = {"days": days, "holes": holes(days), "stream": holds}
        sys.stdout.write(f"{msgspec.json.encode(values).decode()}\n")
    else:
        lacks = [f"{feed} lacks {dates_text(dates)}" for feed, dates in holes(days).items()]
        # Numbers stand under each other by their last digit.
        table = aligned([_HEAD, *map(_cells, days)], right={2, 3})
        found = table if days else ["there is no day of data"]
        lines = [*found, *lacks, *_stream(holds, config.nats.stream)]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    return ExitCode.OK


def _days(config: Config) -> list[Day]:
    """Return what there is. Raises NoDataError where neither files nor a journal are there."""
    replay = config.replay
    journal = [] if replay.journal_dir is None else days_of_journal(replay.journal_dir)
    try:
        files = days_of_files(Catalog(replay.files or (replay.data_dir,)))
    except NoDataError:
        # With a journal alone there need be no folder of files.
        if replay.journal_dir is None or replay.files:
            raise
        files = []
    return sorted([*files, *journal], key=lambda day: (day.date, day.feed))


def _held(config: Config, days: list[Day]) -> tuple[StreamContents | None, list[Day]]:
    """Ask the server, if one is named or runs here; its absence is no error."""
    url = config.nats.url
    try:
        if url is None:
            # Asked first, so that a machine without a server is not told of a connection that
            # failed.
            if server_info(DEFAULT_PORT) is None:
                return None, days
            url = DEFAULT_URL

        async def ask(connection: Connection) -> tuple[StreamContents | None, list[Day]]:
            stream = config.nats.stream
            holds = await JetStreamApi(connection).stream_contents(stream)
            if holds is None:
                return None, days
            return holds, await with_what_is_held(connection, stream, holds.first_seq, days)

        return uvloop.run(connected(checked_options(config.nats, url), ask, once=True))
    except (IngestorError, NotNatsError, TimeoutError, LookupError) as error:
        logs.complain(PROG, f"the stream is not asked: {error}")
        return None, days


def _cells(day: Day) -> tuple[str, ...]:
    named = ", ".join(map(printable, day.symbols[:SHOWN_SYMBOLS]))
    more = day.symbol_count - min(len(day.symbols), SHOWN_SYMBOLS)
    return (
        f"{day.date} {day.date:%a}",
        day.feed,
        f"{day.files:,}",
        _size(day.size_bytes),
        _time(day),
        (named or "-") + (f" and {more:,} more" if more > 0 else ""),
        day.held,
    )


def _size(size_bytes: int) -> str:
    """Return a size in the unit that suits it.

    >>> _size(312), _size(48_211_000)
    ('312 B', '48.2 MB')
    """
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1_000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1_000
    return f"{size:,.1f} GB"


def _time(day: Day) -> str:
    if day.first_ns is None:
        return "-"
    first = iso_utc(day.first_ns)
    if day.end_ns is None:
        return f"{first[11:19]} on"
    # A daily file of the vendor's says midnight to midnight, whatever it holds.
    if day.end_ns - day.first_ns == NS_PER_DAY and first[11:19] == "00:00:00":
        return "whole day"
    last = iso_utc(day.end_ns)
    there = " to ".join(new_york_time(ns)[:-12] for ns in (day.first_ns, day.end_ns))
    return f"{first[:16]} to {last[:16]} ({there} New York)".replace("T", " ")


def _stream(holds: StreamContents | None, name: str) -> list[str]:
    if holds is None:
        return [f"stream {name}: not there, or no server that was found"]
    if not holds.messages:
        return [f"stream {name} is empty"]
    # The server tells these times in RFC 3339, to the nanosecond.
    first, last = (text[:19].replace("T", " ") for text in (holds.first_stored, holds.last_stored))
    head = (
        f"stream {name}: {holds.messages:,} messages, {_size(holds.size_bytes)},"
        f" sequences {holds.first_seq:,} to {holds.last_seq:,}, stored {first} to {last} (UTC)"
    )
    width = max(map(len, holds.subjects), default=0)
    return [
        head,
        *(f"  {subject:<{width}}  {count:>12,}" for subject, count in holds.subjects.items()),
    ]


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor days``."""
    parser = parser_of(PROG, _ABOUT, _MORE)
    what = parser.add_argument_group("what")
    add(what, (*FILES, _DATA_DIR, _JOURNAL))
    what.add_argument(
        "--demo", action="store_true", default=False, help="the made-up day of the demos"
    )
    parser.add_argument_group("how").add_argument(
        "--json", action="store_true", default=False, help="print one JSON object"
    )
    return parser
