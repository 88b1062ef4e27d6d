"""Leases on a real server: who has them, and who may take them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ingestor.model.errors import StreamInUseError
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.run_records import Leases, RunRecord
from tests.nats_servers import NatsServer

SUBJECTS = ("market.stocks.trades", "market.stocks.quotes")


def record(run: str, *subjects: str) -> RunRecord:
    """The record of a run on another machine."""
    return RunRecord(
        run=run,
        kind="live",
        host=f"host of {run}",
        pid=1,
        started_ns=0,
        updated_ns=0,
        stream="S",
        subjects=subjects or SUBJECTS,
    )


def within(server: NatsServer, work: Callable[[Connection], Awaitable[None]]) -> None:
    async def run() -> None:
        connection = Connection(ConnectOptions(server.url), on_change=lambda: None)
        await connection.open()
        try:
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(run())


def test_who_has_the_leases_may_write_and_who_has_not_is_told_who_has(
    nats_server: NatsServer,
) -> None:
    async def work(connection: Connection) -> None:
        first, second = (Leases(connection, record(run)) for run in ("first", "second"))
        await first.check()
        await first.take()
        await first.check()
        for refused in (second.take(), second.check()):
            with pytest.raises(StreamInUseError, match="by run first "):
                await refused
        assert {lease.holder.run for lease in (await second.held()).values()} == {"first"}
        await first.release()
        assert await second.held() == {}
        await second.take()

    within(nats_server, work)


def test_a_lease_is_taken_over_by_who_knows_its_revision_and_then_is_not_renewed(
    nats_server: NatsServer,
) -> None:
    async def work(connection: Connection) -> None:
        first, second = (Leases(connection, record(run)) for run in ("first", "second"))
        await first.take()
        over = {key: lease.revision for key, lease in (await second.held()).items()}
        await first.renew()
        with pytest.raises(StreamInUseError):
            await second.take(over)
        assert {lease.holder.run for lease in (await second.held()).values()} == {"first"}
        over = {key: lease.revision for key, lease in (await second.held()).items()}
        await second.take(over)
        with pytest.raises(StreamInUseError, match="by run second"):
            await first.renew()
        assert {lease.holder.run for lease in (await first.held()).values()} == {"second"}

    within(nats_server, work)


def test_another_subject_is_another_lease(nats_server: NatsServer) -> None:
    async def work(connection: Connection) -> None:
        trades = Leases(connection, record("first", SUBJECTS[0]))
        quotes = Leases(connection, record("second", SUBJECTS[1]))
        await trades.take()
        await quotes.take()
        await trades.check()
        await quotes.check()

    within(nats_server, work)
