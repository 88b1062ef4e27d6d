"""Whoever sees our messages knows where we wait for answers: what comes from there is not trusted.

A second client answers each event that it sees, in place of the stream. The run goes on to its end,
and nothing is taken for stored that the stream does not hold.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.publish.plain import connect, publisher, stored, trades, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from ingestor.publish.publisher import Publisher
    from tests.nats_servers import NatsServer

ROWS = 200
AT_A_TIME = 20
FAR = 1_000
"""More than are under way."""

Lie = tuple[str, bytes]
"""Reply subject and payload."""


def _number(reply: str) -> int:
    """Number of a message in its batch, whichever way it is published."""
    return int(reply.split(".")[-3] if reply.endswith("$FI") else reply.rpartition(".")[2])


def _renumbered(reply: str, number: int) -> str:
    parts = reply.split(".")
    parts[-3 if reply.endswith("$FI") else -1] = f"{number:012d}"
    return ".".join(parts)


def _batch(reply: str) -> str:
    return reply.split(".")[-6] if reply.endswith("$FI") else ""


def _json(**values: Any) -> bytes:
    return json.dumps(values).encode()


def rubbish(reply: str) -> list[Lie]:
    texts = [b"", b"\xff", b"{", b"[" * 5_000, b"null", b"{}", b"-ERR", b"x" * 20_000]
    texts += [b'{"type":"ack","seq":"1"}', b'{"type":"what","seq":1}', b'{"error":{"code":"x"}}']
    return [(reply, text) for text in texts] + [(f"{reply}.x", b"{}"), (reply[:-1], b"{}")]


def absurd(reply: str) -> list[Lie]:
    numbers = [-1, 0, 2**53, 2**63, 2**64, 10**400]
    lies = [_json(type="ack", seq=one, msgs=one) for one in numbers]
    lies += [_json(stream="S", seq=one, batch=_batch(reply), count=one) for one in numbers]
    return [(reply, lie) for lie in lies] + [(_renumbered(reply, 10**11), _json(seq=1))]


def beyond_what_was_sent(reply: str) -> list[Lie]:
    number, batch = _number(reply), _batch(reply)
    later = _renumbered(reply, number + FAR)
    return [
        (reply, _json(type="ack", seq=number + FAR, msgs=500)),
        (reply, _json(stream="MARKET_DATA", seq=number + FAR, batch=batch, count=number + FAR)),
        (later, _json(stream="MARKET_DATA", seq=number + FAR)),
    ]


def far_sequences(reply: str) -> list[Lie]:
    number, batch = _number(reply), _batch(reply)
    far = [10**6, 2**40, 2**53 - 1]
    return [(reply, _json(stream="S", seq=seq, batch=batch, count=number)) for seq in far]


def refusals(reply: str) -> list[Lie]:
    later = _renumbered(reply, _number(reply) + 1)
    errors = [(400, 10054), (503, 10077), (400, 10208), (503, 0), (400, 10071), (400, 10205)]
    lies = [_json(error={"code": code, "err_code": own}) for code, own in errors]
    return [(one, lie) for lie in lies for one in (reply, later)]


def gaps(reply: str) -> list[Lie]:
    gap = _json(type="gap", last_seq=1, seq=2)
    return [(reply, gap), (reply, _json(type="err", seq=1, error={"code": 400, "err_code": 10060}))]


LIES = [rubbish, absurd, beyond_what_was_sent, far_sequences, refusals, gaps]


async def _lie_about_all(client: Client, lies: Callable[[str], list[Lie]], told: list[int]) -> None:
    async def answer(message: Msg) -> None:
        for subject, payload in lies(message.reply):
            await client.publish(subject, payload)
        told[0] += 1

    await client.subscribe("market.>", cb=answer)
    await client.flush()


async def _never_more_than_is_stored(
    server: NatsServer, publishing: Publisher, over: asyncio.Event
) -> None:
    client = await connect(server)
    while not over.is_set():
        acked = publishing.acked_rows
        answer = await client.request("$JS.API.STREAM.INFO.MARKET_DATA", b"", 5)
        assert json.loads(answer.data)["state"]["last_seq"] >= acked
        await asyncio.sleep(0.02)
    await client.close()


@pytest.mark.parametrize("lies", LIES)
def test_what_others_answer_ends_no_run_and_makes_nothing_stored(
    any_nats_server: NatsServer, lies: Callable[[str], list[Lie]]
) -> None:
    async def check() -> None:
        client, told, over = await connect(any_nats_server), [0], asyncio.Event()
        await _lie_about_all(client, lies, told)
        publishing = publisher(any_nats_server)
        await publishing.open()
        checking = asyncio.create_task(
            _never_more_than_is_stored(any_nats_server, publishing, over)
        )
        for row in range(0, ROWS, AT_A_TIME):
            await publishing.send(trades(row, AT_A_TIME))
            await asyncio.sleep(0.001)
        await publishing.flush()
        over.set()
        await checking
        await until(lambda: told[0] >= ROWS)
        report = await publishing.close()
        assert publishing.failure is None
        assert (report.messages, report.last_seq, report.lost_messages) == (ROWS, ROWS, 0)
        assert await stored(any_nats_server) == list(range(ROWS))
        await client.close()

    asyncio.run(check())
