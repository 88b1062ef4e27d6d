"""``ingestor runs``: what runs have left beside a stream, the newest last."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from ingestor.cli import consuming
from ingestor.cli.command_line import hide_secrets, parser_of, settings_of
from ingestor.cli.event_text import aligned
from ingestor.config.load import show
from ingestor.config.schema import Config
from ingestor.model.bounds import printable
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.model.units import iso_utc, now_ns
from ingestor.runtime import log as logs
from ingestor.runtime.publisher_factory import checked_options, server_of
from ingestor.runtime.run_keeper import connected
from ingestor.runtime.run_records import RunRecord, records, runs_bucket

PROG: Final = "ingestor-runs"

_ABOUT: Final = """\
List the runs that have written to the streams of a server: who, what, where, and how it ended.
"""

_MORE: Final = """\
examples:
  ingestor runs                       the last twenty
  ingestor runs --last 1000 --json    a JSON object a line, with all that is known of each

states:
  running; done (exit code 0); stopped (by a signal); failed; lost (ended without a word: killed, or
  the machine went down). A replay that did not come to its end goes on where it is started again.

exit codes:
  0 done, 2 configuration, 5 NATS unreachable, 6 NATS refused, 7 JetStream is off,
  10 embedded server, 130 Ctrl-C
"""

_HEAD: Final = ("started (UTC)", "kind", "state", "host", "pid", "stream", "sequences", "events")

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor runs``; returns its exit code."""
    given = parser().parse_args(arguments)
    try:
        loaded = settings_of(given, {"NATS_URL": "nats.url"}, ())
        if given.show_config:
            print(show(loaded))
            return ExitCode.OK
        hide_secrets(loaded.config)
        logs.configure(PROG, "WARNING")
        with server_of(loaded.config, demo=False) as server:
            return consuming.run(PROG, _list(loaded.config, server.url, given))
    except IngestorError as error:
        logs.complain(PROG, error)
        return error.exit_code


async def _list(config: Config, url: str | Sequence[str], given: argparse.Namespace) -> int:
    options = checked_options(config.nats, url)
    found = await connected(options, lambda connection: records(runs_bucket(connection)))
    wanted = found[-given.last :]
    if given.json:
        lines = [msgspec.json.encode(record).decode() for record in wanted]
    else:
        lines = ["no run has left a record here"]
        if wanted:
            lines = aligned([_HEAD, *map(_cells, wanted)], right=())
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return ExitCode.OK


def _cells(record: RunRecord) -> tuple[str, ...]:
    some = record.first_seq is not None and record.last_seq is not None
    return (
        iso_utc(record.started_ns)[:19].replace("T", " "),
        record.kind,
        record.shown_state(now_ns()),
        printable(record.host),
        str(record.pid),
        printable(record.stream),
        f"{record.first_seq:,} to {record.last_seq:,}" if some else "-",
        f"{sum(record.published.values()):,}",
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor runs``."""
    parser = parser_of(PROG, _ABOUT, _MORE)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--last",
        metavar="N",
        type=consuming.positive,
        default=20,
        help="so many (default %(default)s)",
    )
    how.add_argument(
        "--json", action="store_true", default=False, help="print each record as JSON instead"
    )
    return parser
