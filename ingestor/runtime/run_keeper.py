"""Keeps a run's record and its leases: one process beside the others, with a connection of its own.

It reads the run's shared memory and nothing else, so neither a publisher that is busy nor one that
is started again matters to it. The run's parent begins the record and takes the leases before it
forks, and ends them when all processes have come to their end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
import uvloop

from ingestor.config.schema import Nats
from ingestor.model.errors import (
    ExitCode,
    IngestorError,
    JobExistsError,
    NatsUnreachableError,
    StreamInUseError,
)
from ingestor.model.records import EventType
from ingestor.model.units import now_ns
from ingestor.nats.answers import NoAnswerError, NobodyListensError
from ingestor.nats.buckets import Bucket
from ingestor.nats.connection import OPEN_TIMEOUT_S, Connection
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.ring.block_ring import Doorbell
from ingestor.runtime import log as logs
from ingestor.runtime.counters import Counter, CounterTable, Total
from ingestor.runtime.report import RunReport
from ingestor.runtime.run_records import (
    MAX_ERROR_CHARS,
    Checkpoint,
    Leases,
    RunRecord,
    runs_bucket,
    types_of,
)

KEEPER: Final = "records"
HEARTBEAT_S: Final = 0.1
KEEP_S: Final = 0.5
"""Leases are renewed, and the record is written, twice a second: a standby takes over what has
missed three renewals."""
ANSWER_S: Final = 0.5
"""A request that is lost with its server must not keep the next renewal waiting; a server that does
not answer a ping either is left for another one."""
END_TIMEOUT_S: Final = 3.0
"""What the last word may take: a server that is gone has nothing to be told."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class Keeping:
    """What a run keeps: its record, and the revisions of its leases, none if it takes none."""

    options: ConnectOptions
    record: RunRecord
    replicas: int | None = None
    leases: dict[str, int] = field(default_factory=dict)
    skip: dict[EventType, int] = field(default_factory=dict)
    """Rows that earlier runs of the job have stored."""
    bell: Doorbell = field(default_factory=Doorbell)
    """Rung where the record is to be written at once."""

    async def check_lease(self, connection: Connection) -> None:
        """Ask whether the leases are still this run's. Raises `StreamInUseError` if not."""
        await Leases(connection, self.record, revisions=self.leases).check()


@asynccontextmanager
async def connection_to(
    options: ConnectOptions, name: str, *, once: bool = True
) -> AsyncIterator[Connection]:
    """Connect for as long as the block lasts; `once` tries each server once. Raises as `open`."""
    timeout_s = None if once else OPEN_TIMEOUT_S
    connection = Connection(options, on_change=lambda: None, open_timeout_s=timeout_s, name=name)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


async def connected(
    options: ConnectOptions, work: Callable[[Connection], Awaitable[T]], *, once: bool = False
) -> T:
    """Do some work over a connection; `once` tries each server once. Raises as it does."""
    async with connection_to(options, "ingestor.records", once=once) as connection:
        return await work(connection)


Prepare = Callable[[Connection, RunRecord], Awaitable[RunRecord]]
"""Finds out what a run goes on behind, once nobody else writes; a record that comes back as done
says that there is nothing to do."""


def begin(
    options: ConnectOptions,
    record: RunRecord,
    nats: Nats,
    prepare: Prepare | None = None,
    *,
    over: Mapping[str, int] | None = None,
) -> Keeping | None:
    """Take the leases and begin the record; None, after a warning, where that is not possible.

    `over` are revisions of leases that are taken whoever holds them.
    Raises `StreamInUseError`, what `prepare` raises on purpose: `JobExistsError`, and
    `NatsUnreachableError` when no server comes in the time that a publisher waits for one, or none
    says where the stream stands, or who holds the leases.
    """
    keeping = Keeping(options, record, nats.replicas)

    async def work(connection: Connection) -> None:
        leases = Leases(connection, record, replicas=nats.replicas)
        if nats.lease:
            await leases.take(over)
            keeping.leases = leases.revisions
        last_seq = await _note_stream(connection, keeping)
        if prepare is not None:
            try:
                keeping.record = await prepare(connection, keeping.record)
            except IngestorError:
                await leases.release()
                raise
        if keeping.record.state == "done":
            await leases.release()
            return
        if last_seq and not keeping.record.checkpoint.seq:
            # What is there now is what the run begins behind.
            keeping.record = msgspec.structs.replace(
                keeping.record, checkpoint=Checkpoint(last_seq)
            )
        keeping.skip = types_of(keeping.record.checkpoint.rows)
        await _write(connection, keeping)

    try:
        # Waited for here and not by the publisher: a run that begins together with its server
        # would have no lease, and publish again what the stream holds.
        uvloop.run(connected(options, work))
    except (StreamInUseError, JobExistsError, NatsUnreachableError):
        raise
    except IngestorError as error:
        is_silent = isinstance(error, NoAnswerError) and not isinstance(error, NobodyListensError)
        # Without a lease a second run would write beside this one, and neither be fenced.
        if is_silent and (nats.lease or prepare is not None):
            what = "where the stream stands" if prepare is not None else "who writes to the stream"
            raise NatsUnreachableError(f"{what} is not known: {error}") from error
        log.warning("no record of this run is kept, and no lease: %s", error)
        return None
    return keeping


def keep(keeping: Keeping, table: CounterTable, feeds: int, row: int) -> None:
    """Write the record and renew the leases until publisher and feeds have ended.

    Raises `StreamInUseError` when another run has taken over.
    """
    uvloop.run(_keep(keeping, table, feeds, row))


async def beat(table: CounterTable, feeds: int, row: int, ended: asyncio.Event) -> None:
    """Give signs of life until publisher and feeds have ended."""
    others = [table.row(index) for index in range(feeds + 1)]
    while not (table.stopping and all(other[Counter.ENDED] for other in others)):
        logs.drain()
        table.row(row)[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        await asyncio.sleep(HEARTBEAT_S)
    ended.set()


async def _keep(keeping: Keeping, table: CounterTable, feeds: int, row: int) -> None:
    ended = asyncio.Event()
    keeping.bell.listen(asyncio.get_running_loop())

    async def work(connection: Connection) -> None:
        leases = Leases(
            connection,
            keeping.record,
            replicas=keeping.replicas,
            revisions=keeping.leases,
            timeout_s=ANSWER_S,
        )
        await _grow(leases.bucket, runs_bucket(connection, keeping.replicas))
        while not ended.is_set():
            await _renew(leases, connection, keeping, table, row)
            # A run that makes the stream is to be known as its maker soon.
            await keeping.bell.wait(KEEP_S if keeping.record.stream_id else HEARTBEAT_S)

    # Before anything that waits for the server: a process that gives no sign of life is killed.
    heart = asyncio.create_task(beat(table, feeds, row, ended))
    heart.add_done_callback(lambda _: keeping.bell.ring())
    try:
        await connected(keeping.options, work)
    finally:
        heart.cancel()


async def _renew(
    leases: Leases, connection: Connection, keeping: Keeping, table: CounterTable, row: int
) -> None:
    """Renew the leases and write the record; where that fails, the next turn tries again."""
    try:
        await leases.renew()
        if not keeping.record.stream_id:
            await _note_stream(connection, keeping)
        note(keeping, table)
        await _write(connection, keeping)
        # The publisher waits for this before it sends what comes after the first seek.
        table.row(row)[Counter.SEEKS] = int(keeping.record.sought)
    except StreamInUseError:
        raise
    except IngestorError as error:
        # A server that is away is the publisher's to tell.
        log.debug("the record of this run is late: %s", error)
        # One that is frozen keeps its socket, and the leases would be lost to a standby.
        if not await connection.answers(ANSWER_S):
            connection.drop()


def end(keeping: Keeping, table: CounterTable, report: RunReport) -> None:
    """Write how the run ended, and give up its leases; a server that is gone is left alone."""
    if report.exit_code in (ExitCode.NATS_UNREACHABLE, ExitCode.EMBEDDED_SERVER):
        return
    stopped = report.exit_code in (
        ExitCode.INTERRUPTED,
        ExitCode.TERMINATED,
        ExitCode.HANDED_OVER,
    )
    state = "failed" if report.exit_code else "done"

    async def work(connection: Connection) -> None:
        if not keeping.record.stream_id:
            await _note_stream(connection, keeping)
        note(keeping, table)
        keeping.record = msgspec.structs.replace(
            keeping.record,
            state="stopped" if stopped else state,
            exit_code=int(report.exit_code),
            error=None if report.error is None else report.error[:MAX_ERROR_CHARS],
        )
        await _write(connection, keeping)
        leases = Leases(connection, keeping.record, revisions=keeping.leases)
        await leases.release()

    async def bounded() -> None:
        async with asyncio.timeout(END_TIMEOUT_S):
            await connected(keeping.options, work, once=True)

    try:
        uvloop.run(bounded())
    except (IngestorError, TimeoutError) as error:
        log.warning("the end of this run is not in its record: %s", error)


def note(keeping: Keeping, table: CounterTable) -> None:
    """Bring the record up to what the publisher has stored."""
    record = keeping.record
    stored = table.position
    published = record.published if stored is None else stored.rows
    checkpoint = record.checkpoint
    # Rows mean something only together with the stream that holds them.
    if stored is not None and record.stream_id:
        # What earlier runs of the job have stored is in the checkpoint that this one began with.
        base = {
            subject: rows - record.published.get(subject, 0)
            for subject, rows in checkpoint.rows.items()
        }
        rows = {
            subject: base.get(subject, 0) + published.get(subject, 0)
            for subject in (*base, *(one for one in published if one not in base))
        }
        checkpoint = Checkpoint(stored.seq, rows)
    keeping.record = msgspec.structs.replace(
        record,
        updated_ns=now_ns(),
        published=published,
        checkpoint=checkpoint,
        job_seq=record.job_seq or table.total(Total.FIRST_SEQ),
        sought=table.seek.number > 0,
        first_seq=table.total(Total.FIRST_SEQ),
        last_seq=table.total(Total.LAST_SEQ),
    )


async def _grow(*buckets: Bucket) -> None:
    # A lease that one server of three keeps dies with it.
    try:
        for bucket in buckets:
            await bucket.grow()
    except IngestorError as error:
        log.warning("leases and records have fewer replicas than nats.replicas: %s", error)


async def _write(connection: Connection, keeping: Keeping) -> None:
    record = keeping.record
    await runs_bucket(connection, keeping.replicas).put(record.key, msgspec.json.encode(record))


async def _note_stream(connection: Connection, keeping: Keeping) -> int:
    """Note which stream it is, once it is there; return its last sequence."""
    end = await JetStreamApi(connection).stream_end(keeping.record.stream)
    if end is None:
        return 0
    keeping.record = msgspec.structs.replace(keeping.record, stream_id=end.identity)
    return end.last_seq
