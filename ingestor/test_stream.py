"""The manual test client: read everything, check it against the contract, say how fast it comes.

Run it as ``python -m ingestor.test_stream``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is heavy, so that signals are heard from the start
    from ingestor.runtime.signals import run_program

    run_program("ingestor.test_stream", "ingestor.test_stream", "main")

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import ingestor.runtime.blas_threads  # noqa: F401 (before NumPy)
from ingestor.cli import consuming
from ingestor.cli.stream_check import Findings, Publication, StreamCheck
from ingestor.client import EVERYTHING, From, Subscription, connect
from ingestor.model.clock import iso_utc
from ingestor.model.errors import ExitCode
from ingestor.runtime import log as logs
from ingestor.runtime.signals import EXIT_BASE, noted

PROG: Final = "ingestor.test_stream"

REPORT_EVERY_S: Final = 1.0
MAX_PUBLICATIONS_TOLD: Final = 20

_ABOUT: Final = """\
Read a stream from its beginning, check every message, print rates each second and a report at the
end: by Ctrl-C, after --count messages, when nothing comes for --idle seconds, or with --no-follow
where the stream ends.

Several replays in one stream are told apart, and a day that was published twice is named.

Checked are: stream sequences without gaps, known subjects, the schema with its keys in order, and
the order of replayed events (time of the event, time of receipt, sequence; trades before depth).
"""

_MORE: Final = """\
examples:
  python -m ingestor.test_stream --no-follow            check what a replay has published
  python -m ingestor.test_stream --new --idle 30        watch a live run until it falls silent

exit codes:
  0 nothing is wrong, 1 the contract is violated, 2 command line, 5 NATS unreachable,
  6 NATS refused, 7 no such stream, 130 Ctrl-C, 143 SIGTERM
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    given = parser().parse_args(arguments)
    logs.configure(PROG, "WARNING")
    check = StreamCheck(whole=given.subject in (EVERYTHING, ">"))
    exit_code = consuming.run(PROG, _read(given, check))
    if exit_code == ExitCode.INTERRUPTED and (heard := noted()):
        exit_code = EXIT_BASE + heard[0]
    if check.findings.messages or not exit_code:
        print(report(check.findings), flush=True)
    return ExitCode.INTERNAL if check.findings.violations else exit_code


def parser() -> consuming.Parser:
    """Return the parser of the test client."""
    made = consuming.Parser(f"python -m {PROG}", _ABOUT, _MORE)
    consuming.add_where(made)
    what = made.add_argument_group("what")
    what.add_argument("--subject", default=EVERYTHING, help="what to read (default %(default)s)")
    what.add_argument("--new", action="store_true", help="only what is stored from now on")
    what.add_argument(
        "--count", metavar="N", type=consuming.positive, help="stop after this many messages"
    )
    what.add_argument(
        "--idle",
        metavar="SECONDS",
        type=consuming.seconds,
        help="stop when nothing comes for so long",
    )
    what.add_argument(
        "--follow",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what is new, or stop where the stream ends",
    )
    return made


async def _read(given: argparse.Namespace, check: StreamCheck) -> int:
    start = From.NEW if given.new else From.BEGINNING
    async with connect(**consuming.way_in(given), stream=given.stream, name=PROG) as client:
        subscription = client.subscribe(given.subject, start=start, follow=given.follow)
        reading = asyncio.create_task(_check_all(subscription, check, given.count))
        try:
            async for line in _rates(reading, check.findings, time.monotonic, given.idle):
                print(line, flush=True)
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if not reading.cancelled():
            reading.result()
    return ExitCode.OK


async def _check_all(subscription: Subscription, check: StreamCheck, count: int | None) -> None:
    async for message in subscription.messages():
        check.add(message)
        if check.findings.messages == count:
            return


async def _rates(
    reading: asyncio.Task[None],
    findings: Findings,
    clock_s: Callable[[], float],
    idle_s: float | None,
) -> AsyncIterator[str]:
    """Yield a line about each second in which something came, until the end."""
    began_s = heard_s = last_s = clock_s()
    last = (0, 0, 0)
    while not reading.done():
        await asyncio.wait({reading}, timeout=REPORT_EVERY_S)
        now_s = clock_s()
        seen = (findings.events.total(), findings.messages, findings.payload_bytes)
        if seen != last:
            yield rate_line(now_s - began_s, now_s - last_s, seen, last)
            heard_s = now_s
        elif idle_s is not None and now_s - heard_s >= idle_s:
            return
        last, last_s = seen, now_s


def rate_line(
    at_s: float, span_s: float, seen: tuple[int, int, int], before: tuple[int, int, int]
) -> str:
    """Return the rates of events, messages and bytes between two moments."""
    events, messages, size = ((now - then) / span_s for now, then in zip(seen, before, strict=True))
    return (
        f"{at_s:7.1f} s  {events:12,.0f} events/s  {messages:12,.0f} messages/s  "
        f"{size / 1e6:8.1f} MB/s  {seen[0]:14,} events"
    )


def report(findings: Findings) -> str:
    """Return the final report."""
    lines = [f"messages   {findings.messages:,}, {findings.payload_bytes:,} bytes"]
    if findings.messages:
        lines.append(f"sequences  {findings.first_seq:,} to {findings.last_seq:,}")
    lines += [
        f"events     {count:,} on {subject}" for subject, count in sorted(findings.events.items())
    ]
    lines += _publications(findings.publications)
    lines.append(f"late       {findings.late:,} replayed events that stepped back in time")
    if findings.violations:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in findings.violations.items())
        lines += [f"violations {counts}", *(f"  {example}" for example in findings.examples)]
    else:
        lines.append("violations none")
    return "\n".join(lines)


def _publications(found: Sequence[Publication]) -> list[str]:
    """Say where each replay begins and ends, where there are several."""
    if len(found) < 2:
        return []
    lines = [f"replays    {len(found):,}, one after the other"]
    for number, one in enumerate(found[:MAX_PUBLICATIONS_TOLD], 1):
        first, last = iso_utc(one.first_event_ns), iso_utc(one.last_event_ns)
        again = f"; begins as replay {one.repeats} does: published again" if one.repeats else ""
        lines.append(
            f"  {number}: sequences {one.first_seq:,} to {one.last_seq:,},"
            f" {one.events:,} events from {first} to {last}{again}"
        )
    return lines
