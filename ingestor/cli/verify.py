"""``ingestor verify``: a stream against the files or the journal that it came from."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

import msgspec

from ingestor.cli import consuming
from ingestor.cli.command_line import (
    FILES,
    LOG,
    REPLAY_ENVIRONMENT,
    REPLAY_HOW,
    REPLAY_WHAT,
    add,
    add_summary,
    configure_log,
    hide_secrets,
    parser_of,
    settings_of,
)
from ingestor.client import connect
from ingestor.config.load import show
from ingestor.config.schema import LIVE_ONLY, Config, FeedName
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.model.units import INT64_MAX
from ingestor.runtime import log as logs
from ingestor.runtime.feed_process import FeedSource
from ingestor.runtime.publisher_factory import checked_options, server_of
from ingestor.runtime.replay_feeds import feed_sources
from ingestor.runtime.replay_run import demo_config
from ingestor.runtime.verification import Verdict, Verification

PROG: Final = "ingestor-verify"

_ABOUT: Final = """\
Compare what a stream holds with the files, or the journal, that it came from: message by message,
JSON or packed, with the options of the replay that published them. Nothing is written.
"""

_MORE: Final = """\
examples:
  ingestor verify --demo                            the sample day that ingestor replay --demo sent
  ingestor verify --date 2025-12-16                 one day of dbn-data
  ingestor verify --date 2025-12-16 --start 09:30 --end 16:00 --feeds trades
  ingestor verify --journal journal                 what a live run recorded, against what it sent
  ingestor verify --from-seq 50000 --summary json   only what is stored from there on

what is told:
  43,011 messages equal; or the first difference with both sides, and how many are missing, extra,
  repeated, changed (another one stands in the place), and in wrong order. Packed messages are
  compared row by row. A stream that a live run wrote is compared feed by feed, in each one's order.

exit codes:
  0 equal, 2 configuration, 3 no such data, 4 they differ, or a file is damaged, 5 NATS unreachable,
  6 NATS refused, 7 no such stream, 10 embedded server, 130 Ctrl-C
"""

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor verify``; returns its exit code."""
    given = parser().parse_intermixed_args(arguments)
    try:
        flags = (*FILES, *REPLAY_WHAT, *REPLAY_HOW, *LOG)
        loaded = settings_of(given, REPLAY_ENVIRONMENT, flags)
        if given.show_config:
            print(show(loaded, leave_out=LIVE_ONLY))
            return ExitCode.OK
        hide_secrets(loaded.config)
        configure_log(PROG, loaded.config)
        for caution in loaded.cautions:
            log.warning("%s", caution)
        config = demo_config(loaded.config) if given.demo else loaded.config
        sources = feed_sources(config, config.replay.data_dir)
        with server_of(config, demo=given.demo) as server:
            return consuming.run(PROG, _verify(config, server.url, sources, given))
    except IngestorError as error:
        logs.complain(PROG, error)
        return error.exit_code


async def _verify(
    config: Config,
    url: str | Sequence[str],
    sources: Mapping[FeedName, FeedSource],
    given: argparse.Namespace,
) -> int:
    ways = asdict(checked_options(config.nats, url))
    stream = config.nats.stream
    async with connect(**ways, stream=stream, name=PROG) as client:
        verdict = await Verification(sources).run(
            client, from_seq=given.from_seq, to_seq=given.to_seq
        )
    as_json = given.summary == "json"
    text = msgspec.json.encode(verdict).decode() if as_json else _as_text(verdict, stream)
    sys.stdout.write(f"{text}\n")
    if verdict.damage:
        logs.complain(PROG, verdict.damage)
    same = not verdict.counts.differences and verdict.damage is None
    return ExitCode.OK if same else ExitCode.BAD_DATA


def _as_text(verdict: Verdict, stream: str) -> str:
    counts, unit = verdict.counts, verdict.unit
    where = f"stream {stream}"
    if verdict.first_seq is not None:
        where += f", sequences {verdict.first_seq:,} to {verdict.last_seq:,}"
    if not counts.differences:
        return f"{counts.equal:,} {unit} equal ({where})"
    lines = []
    if (first := verdict.first) is not None:
        at = "" if first.seq is None else f", sequence {first.seq:,}"
        lines = [
            f"first difference at number {first.number:,}{at}",
            f"  files   {first.expected or 'nothing more'}",
            f"  stream  {first.stored or 'nothing more'}",
        ]
    lines.append(
        f"{counts.equal:,} {unit} equal, {counts.missing:,} missing, {counts.extra:,} extra,"
        f" {counts.repeated:,} repeated, {counts.changed:,} changed,"
        f" {counts.wrong_order:,} in wrong order ({where})"
    )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor verify``."""
    parser = parser_of(PROG, _ABOUT, _MORE)
    what = parser.add_argument_group("what it ought to hold: the options of the replay")
    add(what, FILES)
    add(what, (*REPLAY_WHAT, *REPLAY_HOW))
    add(parser.add_argument_group("log"), LOG)
    what.add_argument(
        "--demo", action="store_true", default=False, help="the sample day, in the demos' store"
    )
    which = parser.add_argument_group("which part of the stream")
    for name, default, help_text in (
        ("--from-seq", 1, "from this stream sequence on (default: the first)"),
        ("--to-seq", INT64_MAX, "up to this one (default: the last)"),
    ):
        which.add_argument(
            name, metavar="N", type=consuming.positive, default=default, help=help_text
        )
    add_summary(parser.add_argument_group("how"))
    return parser
