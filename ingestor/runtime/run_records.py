"""What runs leave beside the stream: who wrote what, how far it got, and who writes now.

A record is one JSON object in the bucket `RUNS`, under ``<job>.<run>``; it is written at the start,
about every second, and at the end. A run that is killed leaves it as it stood: its checkpoint says
how far everything was stored for certain. A lease is one entry in the bucket `LEASES` for each
subject of a stream that a run writes to; a run that does not renew it loses it after `LEASE_TTL_S`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

import msgspec

from ingestor import __version__
from ingestor.config.schema import FeedName
from ingestor.model.errors import StreamInUseError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, EVENT_TYPES, EventType, RType
from ingestor.model.units import NS_PER_S, iso_utc, now_ns
from ingestor.nats.buckets import NEW, Bucket, WrongRevisionError
from ingestor.nats.connection import REQUEST_TIMEOUT_S, Connection
from ingestor.runtime.machine import stat_of

RUNS: Final = "INGESTOR_RUNS"
LEASES: Final = "INGESTOR_LEASES"

RUNS_TTL_S: Final = 90 * 86_400.0
"""How long a record is kept after it was written last."""

LEASE_TTL_S: Final = 8.0

LOST_AFTER_S: Final = 10.0
"""A run that has written nothing for this long, and no end either, is gone."""

LIVE_JOB: Final = "live"
MAX_ERROR_CHARS: Final = 500

RTYPES: Final[Mapping[FeedName, tuple[RType, ...]]] = {
    "stocks": (RType.STOCK_TRADE, RType.STOCK_QUOTE),
    "options": (RType.OPTION_TRADE,),
    "trades": (RType.FUTURES_TRADE,),
    "mbp10": (RType.MBP10,),
}
"""What each feed publishes."""

State = Literal["running", "done", "stopped", "failed"]

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


def subjects_of(feeds: Sequence[FeedName]) -> tuple[str, ...]:
    """Return the subjects that feeds publish on."""
    return tuple(EVENT_TYPE_BY_RTYPE[rtype].subject for feed in feeds for rtype in RTYPES[feed])


def types_of(rows: Mapping[str, int]) -> dict[EventType, int]:
    """Return rows by subject as rows by event type."""
    return {kind: rows[kind.subject] for kind in EVENT_TYPES if rows.get(kind.subject)}


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a job is stored: rows by subject, all of them at or before a stream sequence."""

    seq: int = 0
    rows: dict[str, int] = {}


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run; times are ns UTC. Nothing in it is secret."""

    run: str
    kind: Literal["live", "replay"]
    host: str
    pid: int
    version: str = __version__
    started_ns: int
    updated_ns: int
    state: State = "running"
    exit_code: int | None = None
    error: str | None = None
    stream: str
    stream_id: str = ""
    """When the stream was made: one that was made anew under its name holds nothing of this run."""
    subjects: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    what: dict[str, Any] = {}
    """Of a replay its job: files, dates, filters; of a live run the names that are subscribed."""
    job: str = LIVE_JOB
    job_seq: int | None = None
    """Where the job begins in the stream, be it that an earlier run began it."""
    continues: str | None = None
    """The run that this one goes on behind."""
    first_seq: int | None = None
    last_seq: int | None = None
    published: dict[str, int] = {}
    """Rows by subject that this run has stored."""
    checkpoint: Checkpoint = Checkpoint()
    """Of a replay, what it and the runs that it continues have stored."""
    sought: bool = False
    """It was sought in, so what it has stored is not the files from their beginning on."""

    @property
    def key(self) -> str:
        """Where it stands in its bucket."""
        return f"{self.job}.{self.run}"

    def shown_state(self, now: int) -> str:
        """Return the state, ``lost`` for a run that ended without a word."""
        silent = now - self.updated_ns > LOST_AFTER_S * NS_PER_S
        return "lost" if self.state == "running" and silent else self.state


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lease; `place` and `start_ticks` tell a pid of this machine from a later one."""

    run: str
    host: str
    pid: int
    since_ns: int
    place: str = ""
    start_ticks: int = 0

    @property
    def name(self) -> tuple[str, str, int]:
        """Run, host and pid."""
        return self.run, self.host, self.pid

    @property
    def is_dead(self) -> bool:
        """Whether it was a process that this one could see, and is gone."""
        return self.place == _place() != "" and _start_ticks(self.pid) != self.start_ticks


class Lease(NamedTuple):
    """A lease as it is: it may be taken over by whoever knows its revision."""

    revision: int
    holder: Holder


def new_record(kind: Literal["live", "replay"], stream: str, **values: Any) -> RunRecord:
    """Return the record of a run of this process that begins now."""
    now, host = now_ns(), socket.gethostname()
    # The time comes first, so that names sort by age; chance at the end, since pids come again.
    began = re.sub(r"\D", "", iso_utc(now))[:14]
    run = f"{began}-{_UNSAFE.sub('_', host)}-{os.getpid()}-{uuid4().hex[:4]}"
    return RunRecord(
        run=run,
        kind=kind,
        host=host,
        pid=os.getpid(),
        started_ns=now,
        updated_ns=now,
        stream=stream,
        **values,
    )


def runs_bucket(connection: Connection, replicas: int | None = None) -> Bucket:
    """Return the bucket of records."""
    return Bucket(connection, RUNS, ttl_s=RUNS_TTL_S, replicas=replicas)


async def records(bucket: Bucket) -> list[RunRecord]:
    """Return the records of all runs, oldest first; what is none is left out."""
    found: list[RunRecord] = []
    for entry in await bucket.values(">"):
        try:
            found.append(msgspec.json.decode(entry.value, type=RunRecord))
        except (msgspec.MsgspecError, ValueError):
            continue
    return sorted(found, key=lambda record: record.started_ns)


async def holders(connection: Connection, stream: str) -> list[Holder]:
    """Return who holds the leases of a stream, each run once; dead ones are left out."""
    entries = await Bucket(connection, LEASES, ttl_s=LEASE_TTL_S).values(f"{stream}.>")
    # A run has a lease for each subject; people ask for runs.
    found = {holder.run: holder for holder in (_holder(entry.value) for entry in entries)}
    return [holder for holder in found.values() if not holder.is_dead]


class Leases:
    """The leases of one run: one for each subject that it writes to."""

    def __init__(
        self,
        connection: Connection,
        record: RunRecord,
        *,
        replicas: int | None = None,
        revisions: Mapping[str, int] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """`revisions` are those of leases that another process of the run has taken."""
        self.bucket = Bucket(
            connection, LEASES, ttl_s=LEASE_TTL_S, replicas=replicas, timeout_s=timeout_s
        )
        self._stream = record.stream
        self._subjects = record.subjects
        holder = Holder(
            record.run,
            record.host,
            record.pid,
            record.started_ns,
            _place(),
            _start_ticks(record.pid),
        )
        self._value = msgspec.json.encode(holder)
        self._run = record.run
        self.revisions: dict[str, int] = dict(revisions or {})

    async def held(self) -> dict[str, Lease]:
        """Return those that anybody holds, by key."""
        entries = {key: await self.bucket.get(key) for key in self._keys}
        return {
            key: Lease(entry.revision, _holder(entry.value))
            for key, entry in entries.items()
            if entry is not None
        }

    async def take(self, over: Mapping[str, int] | None = None) -> None:
        """Take all, or none. Raises `StreamInUseError` naming who holds one.

        `over` are revisions of leases to take whoever holds them.
        """
        # In one order for everybody, so that of two that begin at once one gets them all.
        for key in self._keys:
            await self._put(key, (over or {}).get(key, NEW))

    async def renew(self) -> None:
        """Keep them. Raises `StreamInUseError` when another run has one by now."""
        for key, revision in self.revisions.items():
            await self._put(key, revision)

    async def check(self) -> None:
        """Ask whose they are. Raises `StreamInUseError` when another run has one by now."""
        for key, lease in (await self.held()).items():
            # One that has expired is nobody's: what is written then is still fenced by the stream.
            if lease.holder.run != self._run:
                raise self._in_use(key, lease.holder)

    async def release(self) -> None:
        """Give up those that are still this run's."""
        for key in tuple(self.revisions):
            entry = await self.bucket.get(key)
            if entry is not None and _holder(entry.value).run == self._run:
                # With its revision: between look and deletion it may have been taken over.
                await self.bucket.delete(key, entry.revision)
        self.revisions.clear()

    @property
    def _keys(self) -> list[str]:
        return [f"{self._stream}.{subject}" for subject in sorted(self._subjects)]

    async def _put(self, key: str, revision: int) -> None:
        try:
            self.revisions[key] = await self.bucket.put(key, self._value, revision)
        except WrongRevisionError:
            await self._take_over(key)

    async def _take_over(self, key: str) -> None:
        """Take what has expired, what a dead process left, or what an answer that was lost took."""
        entry = await self.bucket.get(key)
        holder = None if entry is None else _holder(entry.value)
        if entry is None or holder is None or holder.is_dead or holder.run == self._run:
            await self._put(key, NEW if entry is None else entry.revision)
            return
        await self.release()
        raise self._in_use(key, holder)

    def _in_use(self, key: str, holder: Holder) -> StreamInUseError:
        subject = key.removeprefix(f"{self._stream}.")
        return StreamInUseError(
            f"{subject} of stream {self._stream} is being written by run {holder.run} (host"
            f" {holder.host}, pid {holder.pid}, since {iso_utc(holder.since_ns)}): stop it, wait"
            f" {LEASE_TTL_S:g} s if it is dead already, or write all the same with --no-lease"
        )


def _holder(value: bytes) -> Holder:
    try:
        return msgspec.json.decode(value, type=Holder)
    except (msgspec.MsgspecError, ValueError):
        return Holder("unknown", "unknown", 0, 0)


def _place() -> str:
    """Name this machine's boot and its namespace of processes; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # A container has pids of its own; the boot tells a pid from the same one before a restart.
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _start_ticks(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 where there is none."""
    fields = stat_of(pid)
    return int(fields[19]) if fields else 0
