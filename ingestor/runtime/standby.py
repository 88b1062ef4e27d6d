"""A hot standby: ready to write what another run writes, as soon as that one does not any more.

A run that writes renews its leases twice a second. The standby reads them ten times a second, and
takes over those that have stood still for `TAKEOVER_S`, or that were given up. It may be wrong: the
other run may be alive, and slow. That costs a change for nothing and no more, since the other run's
next renewal is refused, and the stream refuses what it writes (see `publish.batches`). So it need
not wait for a lease to expire.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final

import uvloop

from ingestor.config.schema import Nats
from ingestor.model.errors import IngestorError, NatsRefusedError, NatsUnreachableError
from ingestor.nats.connection import Connection
from ingestor.runtime.run_keeper import ANSWER_S, connected
from ingestor.runtime.run_records import Lease, Leases, new_record

POLL_S: Final = 0.1

TAKEOVER_S: Final = 1.5
"""A lease that stands still for so long has missed two renewals, and the third is due."""

RETRY_S: Final = 1.0
"""Pause before a server that is not there is asked again."""

log = logging.getLogger(__name__)


class LeaseWatch:
    """Tells from what is read of leases, again and again, when nobody renews them any more."""

    def __init__(self) -> None:
        self._stands: dict[str, tuple[int, float]] = {}
        """By key the revision that was seen last, and since when it is that one."""

    def forget(self) -> None:
        """Begin anew: whoever could not ask does not know what was renewed meanwhile."""
        self._stands.clear()

    def is_free(self, leases: Mapping[str, Lease], now_s: float) -> bool:
        """Whether none of these leases, as they are now, is renewed by anybody."""
        for key, lease in leases.items():
            if key not in self._stands or self._stands[key][0] != lease.revision:
                self._stands[key] = lease.revision, now_s
        return all(
            lease.holder.is_dead or now_s - self._stands[key][1] >= TAKEOVER_S
            for key, lease in leases.items()
        )


def wait_for_turn(nats: Nats, subjects: tuple[str, ...]) -> dict[str, int]:
    """Wait until nobody writes to these subjects; return what leases are to be taken over.

    These are revisions by key. A server that is away is waited for. Raises NatsRefusedError.
    """
    record = new_record("live", nats.stream, subjects=subjects)

    async def watch(connection: Connection) -> dict[str, int]:
        return await _watch(connection, Leases(connection, record, timeout_s=ANSWER_S))

    while True:
        try:
            return uvloop.run(connected(nats.connect_options(nats.url or ()), watch))
        except NatsUnreachableError as error:
            log.warning("standby: %s", error)
            time.sleep(RETRY_S)


async def _watch(connection: Connection, leases: Leases) -> dict[str, int]:
    watch, told = LeaseWatch(), ""
    while True:
        try:
            held = await leases.held()
        except (NatsRefusedError, NatsUnreachableError):
            raise
        except IngestorError as error:
            log.debug("standby: the leases cannot be read: %s", error)
            watch.forget()
            # A server that is frozen keeps its socket: there may be another one.
            if not await connection.answers(ANSWER_S):
                connection.drop()
        else:
            if watch.is_free(held, time.monotonic()):
                log.info("standby: nobody writes what this run is to write: taking over")
                return {key: lease.revision for key, lease in held.items()}
            holder = next(iter(held.values())).holder
            if holder.run != told:
                told = holder.run
                log.info("standby: ready to follow run %s (host %s, pid %d)", *holder.name)
        await asyncio.sleep(POLL_S)
