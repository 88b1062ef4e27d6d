"""Opening a stream behind a publisher that died."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ingestor.model.errors import NatsUnreachableError, StreamInUseError
from tests.publish.plain import publisher, stored, trades

if TYPE_CHECKING:
    from ingestor.nats.connection import Connection
    from tests.nats_servers import NatsServer


async def settled(_: Connection) -> None:
    """Nothing is on its way."""


def test_it_is_asked_first_whether_the_subjects_are_still_ours(nats_server: NatsServer) -> None:
    async def lost(_: Connection) -> None:
        raise StreamInUseError("a standby writes")

    async def work() -> None:
        publishing = publisher(nats_server, check_lease=lost)
        with pytest.raises(StreamInUseError, match="a standby writes"):
            await publishing.open(settled)
        await publishing.close()

    asyncio.run(work())


def test_what_is_on_its_way_arrives_before_counting_begins(nats_server: NatsServer) -> None:
    async def work() -> int | None:
        former = publisher(nats_server)
        await former.open()

        async def settle(_: Connection) -> None:
            await former.send(trades(0, 3))
            await former.close()

        publishing = publisher(nats_server)
        await publishing.open(settle)
        assert publishing.place is not None
        assert publishing.place.certain_seq == 3
        await publishing.send(trades(3, 2))
        await publishing.flush()
        return (await publishing.close()).first_seq

    assert asyncio.run(work()) == 4
    assert asyncio.run(stored(nats_server)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("patience_s", "asked"), [(5.0, 3), (0.0, 1)])
def test_a_server_that_does_not_answer_is_asked_again_for_as_long_as_was_said(
    nats_server: NatsServer, patience_s: float, asked: int
) -> None:
    questions = 0

    async def settle(_: Connection) -> None:
        nonlocal questions
        questions += 1
        if questions < 3:
            raise TimeoutError("no answer")

    async def work() -> None:
        publishing = publisher(nats_server, open_timeout_s=5.0)
        publishing._link._open_timeout_s = patience_s
        if asked == 1:
            with pytest.raises(NatsUnreachableError, match="does not answer"):
                await publishing.open(settle)
        else:
            await publishing.open(settle)
        await publishing.close()

    asyncio.run(work())
    assert questions == asked
