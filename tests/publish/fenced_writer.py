"""A program that publishes under a lease until the lease is another's; it then ends with 11.

``python -m tests.publish.fenced_writer URL NAME PAUSE_S``: sends a few futures trades at a time,
with sizes from 0 on, and rests in between.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from ingestor.model.blocks import Encoder
from ingestor.model.errors import StreamInUseError
from ingestor.nats.buckets import Bucket
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from ingestor.publish.link import CheckLease
from ingestor.publish.publisher import Publisher
from tests.publish.plain import PlainEncoder, trades

LEASES = "LEASES"
KEY = "writer"
ROWS = 50


def lease(connection: Connection) -> Bucket:
    return Bucket(connection, LEASES, ttl_s=60.0)


def lease_of(name: str) -> CheckLease:
    async def check(connection: Connection) -> None:
        entry = await lease(connection).get(KEY)
        if entry is not None and entry.value != name.encode():
            raise StreamInUseError(f"{entry.value!r} writes")

    return check


def fenced(url: str, name: str, encoder: Encoder | None = None) -> Publisher:
    return Publisher(
        encoder or PlainEncoder(),
        connect_options=ConnectOptions(url=url),
        stream=StreamSettings(),
        check_lease=lease_of(name),
    )


async def _write(publishing: Publisher, pause_s: float) -> None:
    await publishing.open()
    rows = 0
    while True:
        await publishing.send(trades(rows, ROWS))
        rows += ROWS
        await asyncio.sleep(pause_s)


def _main(url: str, name: str, pause_s: str) -> None:
    try:
        uvloop.run(_write(fenced(url, name), float(pause_s)))
    except StreamInUseError as error:
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    _main(*sys.argv[1:])
