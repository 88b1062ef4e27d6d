"""Does a stream keep the contract? The test client: it reads everything and says how fast it comes.

What is checked of every message:

- **gaps**: stream sequences rise by one.
- **schema**: the subject is known, the message decodes to its type, and JSON has the contract's
  keys in the contract's order (further keys may follow: a newer publisher may add some).
- **order**: events of a replay come in the order of (``ts_event_ns``, ``ts_recv_ns``, ``seq``),
  trades before depth where all three tie. An event that steps back in time within its subject
  keeps its place and takes the key before it; it is counted as late, which is no violation.

A stream may hold several publications, each in order for itself. One begins where time of event and
time of receipt both step back by more than a minute, since a print that is reported late was still
received now; or where the first event of a publication comes once more.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ingestor.cli import consuming
from ingestor.cli.parser import Parser
from ingestor.client import (
    EVERYTHING,
    BadMessageError,
    From,
    Message,
    Subscription,
    connect,
    decode,
)
from ingestor.encode.packed import is_packed
from ingestor.model.blocks import Source
from ingestor.model.errors import ExitCode
from ingestor.model.events import MBP10, Event, Level
from ingestor.model.units import NS_PER_S, iso_utc
from ingestor.runtime import log as logs

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

EXAMPLES_KEPT: Final = 10
"""Violations of a kind that are kept in words; the others are only counted."""

STEP_BACK_NS: Final = 60 * NS_PER_S
"""No file steps back this far in both times."""

SCHEMA: Final = "schema"
GAP: Final = "gap"
ORDER: Final = "order"

Key = tuple[int, int, int]
First = tuple[str, Key, str]


@dataclass(slots=True)
class Publication:
    """Replayed events that were published as one: stream sequences, count, and times in ns.

    `repeats` is the number (from 1) of an earlier publication that begins with the same event.
    """

    first_seq: int
    last_seq: int
    first: First
    events: int = 0
    first_event_ns: int = 0
    last_event_ns: int = 0
    repeats: int | None = None


@dataclass(slots=True)
class Findings:
    """What has been seen so far."""

    messages: int = 0
    payload_bytes: int = 0
    events: Counter[str] = field(default_factory=Counter)
    """By subject."""
    late: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    violations: Counter[str] = field(default_factory=Counter)
    """By kind: `SCHEMA`, `GAP`, `ORDER`."""
    examples: list[str] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    """Of replayed events."""

    def violation(self, kind: str, words: str) -> None:
        """Count one, and keep the first in words."""
        self.violations[kind] += 1
        if self.violations[kind] <= EXAMPLES_KEPT:
            self.examples.append(f"{kind}: {words}")


class StreamCheck:
    """Checks messages one after the other; `whole` says that no subject is left out."""

    def __init__(self, *, whole: bool) -> None:
        self.findings = Findings()
        self._whole = whole
        self._order = _ReplayOrder(self.findings)

    def add(self, message: Message) -> None:
        """Check the next message."""
        found = self.findings
        found.messages += 1
        found.payload_bytes += len(message.payload)
        self._check_sequence(message)
        try:
            events = decode(message)
        except BadMessageError as error:
            found.violation(SCHEMA, str(error))
            return
        found.events[message.subject] += len(events)
        # Packed rows have no keys that could be missing or out of order.
        if not is_packed(message.payload):
            self._check_keys(message, events[0])
        for event in events:
            if event.source == Source.REPLAY.value:
                self._order.add(message, event)

    def _check_sequence(self, message: Message) -> None:
        found = self.findings
        if found.first_seq is None:
            found.first_seq = message.seq
        elif found.last_seq is not None:
            step = message.seq - found.last_seq
            # Behind a filter sequences jump: only who reads everything sees that one is missing.
            if step < 1 or (self._whole and step > 1):
                found.violation(GAP, f"message {message.seq} follows {found.last_seq}")
        found.last_seq = message.seq

    def _check_keys(self, message: Message, event: Event) -> None:
        # What is written again byte for byte has the keys, the order and the plain values; the
        # closer look is for rare prices that a double writes otherwise.
        if msgspec.json.encode(event) == message.payload:
            return
        problem = keys_problem(msgspec.json.decode(message.payload), event)
        if problem:
            where = f"message {message.seq} on {message.subject}"
            self.findings.violation(SCHEMA, f"{where}: {problem}")


def keys_problem(values: dict[str, Any], event: Event) -> str | None:
    """Return what is wrong with the keys of a decoded JSON event, None where nothing is."""
    problem = _order_problem(values, type(event).__struct_fields__)
    if problem is None and isinstance(event, MBP10):
        problems = (_order_problem(level, Level.__struct_fields__) for level in values["levels"])
        problem = next((problem for problem in problems if problem), None)
    return problem


def _order_problem(values: dict[str, Any], contract: tuple[str, ...]) -> str | None:
    # Keys beyond the contract are allowed: consumers ignore what they do not know.
    found = tuple(key for key in values if key in contract)
    if found == contract:
        return None
    return f"keys are {', '.join(found)}; the contract has {', '.join(contract)}"


class _ReplayOrder:
    """The order of each merge, judged from its outcome."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._key_of_subject: dict[str, Key] = {}
        self._last: tuple[Key, bool] = ((0, 0, 0), False)
        self._recv_ns = 0

    def add(self, message: Message, event: Any) -> None:
        own = (event.ts_event_ns, event.ts_recv_ns, event.seq or 0)
        self._find_publication(message, own, event)
        before = self._key_of_subject.get(message.subject, own)
        # A record that steps back is ordered by the highest key of its feed so far, as the merge
        # does.
        key = max(own, before)
        self._key_of_subject[message.subject] = key
        if own[:2] < before[:2]:
            self._findings.late += 1
        rank = (key, isinstance(event, MBP10))
        # Trades come before depth where whole keys tie: False sorts before True.
        if rank < self._last:
            self._findings.violation(
                ORDER, f"message {message.seq} on {message.subject}: {key} after {self._last[0]}"
            )
        self._last = max(rank, self._last)
        self._recv_ns = max(self._recv_ns, event.ts_recv_ns)

    def _find_publication(self, message: Message, own: Key, event: Any) -> None:
        """Note to which publication an event belongs."""
        known = self._findings.publications
        first = (message.subject, own, getattr(event, "symbol", ""))
        if not known or self._begins(known[-1], own, first):
            self._begin_anew()
            same = (number for number, one in enumerate(known, 1) if one.first == first)
            new = Publication(message.seq, message.seq, first, 0, own[0], own[0])
            new.repeats = next(same, None)
            known.append(new)
        now = known[-1]
        now.events += 1
        now.last_seq = message.seq
        now.first_event_ns = min(now.first_event_ns, own[0])
        now.last_event_ns = max(now.last_event_ns, own[0])

    def _begins(self, now: Publication, own: Key, first: First) -> bool:
        last = self._last[0]
        if own < last and first == now.first:
            return True
        # One time may step back far within a file; both do only where another replay begins.
        return own[0] < last[0] - STEP_BACK_NS and own[1] < self._recv_ns - STEP_BACK_NS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    given = parser().parse_args(arguments)
    logs.configure(PROG, "WARNING")
    check = StreamCheck(whole=given.subject in (EVERYTHING, ">"))
    exit_code = consuming.run(PROG, _read(given, check))
    # What was read before a failure or Ctrl-C still gets its report.
    if check.findings.messages or not exit_code:
        print(report(check.findings), flush=True)
    return ExitCode.INTERNAL if check.findings.violations else exit_code


def parser() -> Parser:
    """Return the parser of the test client."""
    made = Parser(f"python -m {PROG}", _ABOUT, _MORE)
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
