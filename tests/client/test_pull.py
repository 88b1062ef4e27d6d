from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ingestor.client.consumer import Opened
from ingestor.client.pull import (
    MAX_WAITING_BYTES,
    MAX_WAITING_MESSAGES,
    REQUEST_BYTES,
    REQUEST_MESSAGES,
    ConsumerLostError,
    Pull,
    stored_ns_of,
)
from ingestor.nats.answers import Frame, Status
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions

PLAIN = "$JS.ACK.S.c.1.{seq}.{number}.1765895400000000000.0"
WITH_DOMAIN = "$JS.ACK.hub.hash.S.c.1.{seq}.{number}.1765895400000000000.0.token"


class NotConnected(Connection):
    """What is published goes nowhere."""

    def __init__(self) -> None:
        super().__init__(ConnectOptions("nats://127.0.0.1:1"), on_change=lambda: None)

    @property
    def max_payload_bytes(self) -> int:
        return 2**20


def delivered(*numbers: int, reply: str = PLAIN) -> list[Frame]:
    """Messages with these numbers of delivery; stream sequences are ten times as high."""
    return [
        (b"s", reply.format(seq=number * 10, number=number).encode(), b"x") for number in numbers
    ]


def received(*parts: list[Frame], first: int = 1) -> tuple[list[int], str | None]:
    """The stream sequences handed out, and why this life ended if it did."""

    async def reading() -> tuple[list[int], str | None]:
        pull = Pull(NotConnected(), "S", Opened("c", 0, first), follow=True)
        for part in parts:
            pull.receive(part)
        seqs: list[int] = []
        try:
            while True:
                async with asyncio.timeout(0.05):
                    chunk = await pull.next()
                assert chunk is not None
                seqs += chunk.seqs
        except TimeoutError:
            return seqs, None
        except ConsumerLostError as lost:
            return seqs, str(lost)

    return asyncio.run(reading())


def ended(*statuses: Status, follow: bool) -> bool | str:
    """True at the stream's end, a sentence where this life is over, False where neither."""

    async def reading() -> bool | str:
        pull = Pull(NotConnected(), "S", Opened("c", 0, 1), follow=follow)
        for status in statuses:
            pull.status(status)
        try:
            async with asyncio.timeout(0.05):
                return await pull.next() is None
        except TimeoutError:
            return False
        except ConsumerLostError as lost:
            return str(lost)

    return asyncio.run(reading())


@pytest.mark.parametrize("reply", [PLAIN, WITH_DOMAIN])
def test_sequences_are_read_from_both_forms_of_reply(reply: str) -> None:
    assert received(delivered(1, 2, reply=reply), delivered(3, reply=reply)) == ([10, 20, 30], None)


def test_deliveries_are_numbered_on_from_where_the_consumer_stood() -> None:
    assert received(delivered(8, 9), first=8) == ([80, 90], None)


@pytest.mark.parametrize(
    ("parts", "seqs", "missing"),
    [
        ([delivered(2, 3)], [], 1),
        ([delivered(1, 2, 4, 5)], [10, 20], 3),
        ([delivered(1), delivered(3, 4)], [10], 2),
        ([delivered(1, 2), delivered(2, 3)], [10, 20], 3),
        ([delivered(1, 3, 2, 4)], [10], 2),
    ],
)
def test_from_a_gap_on_nothing_is_handed_out(
    parts: list[list[Frame]], seqs: list[int], missing: int
) -> None:
    assert received(*parts, delivered(99)) == (seqs, f"delivery {missing} is missing")


@pytest.mark.parametrize("reply", [b"", b"x", b"$JS.ACK.S.c.1.a.b.c.d"])
def test_a_message_that_is_no_delivery_ends_this_life(reply: bytes) -> None:
    seqs, why = received([(b"s", reply, b"x")])
    assert seqs == []
    assert why is not None
    assert why.startswith("a message came with the reply subject")


@pytest.mark.parametrize("code", [404, 408])
def test_no_more_messages_are_the_end_only_where_it_is_not_followed(code: int) -> None:
    status = Status("inbox.0", code, "No Messages")
    assert ended(status, follow=False) is True
    assert ended(status, follow=True) is False


def test_an_answer_to_an_older_request_means_nothing() -> None:
    assert ended(Status("inbox.7", 404, "No Messages"), follow=False) is False


@pytest.mark.parametrize(
    "text", ["Batch Completed", "Message Size Exceeds MaxBytes", "message size exceeds MaxBytes"]
)
def test_a_request_that_is_served_leads_to_the_next(text: str) -> None:
    assert ended(Status("inbox.0", 409, text), follow=False) is False


@pytest.mark.parametrize(
    ("code", "text"),
    [(409, "Consumer Deleted"), (409, "Server Shutdown"), (503, ""), (400, "Bad Request")],
)
def test_a_refusal_ends_this_life(code: int, text: str) -> None:
    why = ended(Status("inbox.0", code, text), follow=True)
    assert why == f"the server says {code} {text}"


class Asked(NotConnected):
    """Keeps what a pull asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []

    async def tap(self, _receiver: object) -> Any:
        return "inbox", None

    async def publish(self, _subject: str, _payload: bytes = b"", reply: str = "") -> None:
        self.requests.append(reply)


@pytest.mark.parametrize(
    ("messages", "payload_bytes", "chunks", "waiting_at_the_next"),
    [
        (REQUEST_MESSAGES // 8, 1, 8, 4),
        (1, REQUEST_BYTES // 16, 16, 8),
    ],
)
def test_the_next_request_is_made_when_half_of_one_is_left_waiting(
    messages: int, payload_bytes: int, chunks: int, waiting_at_the_next: int
) -> None:
    """Of the chunks that wait, so many are left when the next request is made, and no more."""

    async def reading() -> list[int]:
        asked = Asked()
        pull = Pull(asked, "S", Opened("c", 0, 1), follow=True)
        await pull.open()
        await pull._request()
        for first in range(1, chunks * messages + 1, messages):
            numbers = range(first, first + messages)
            pull.receive([(s, reply, bytes(payload_bytes)) for s, reply, _ in delivered(*numbers)])
        pull.status(Status("inbox.1", 409, "Batch Completed"))
        requests = []
        for _ in range(chunks):
            await pull.next()
            requests.append(len(asked.requests))
        return requests

    requests = asyncio.run(reading())
    early = chunks - waiting_at_the_next - 1
    assert requests == [1] * early + [2] * (chunks - early)


@pytest.mark.parametrize(
    ("messages", "payload_bytes"), [(REQUEST_MESSAGES, 1), (16, REQUEST_BYTES // 16)]
)
def test_no_more_waits_here_than_is_said_however_fast_the_server_is(
    messages: int, payload_bytes: int
) -> None:
    """The server sends all that is asked for at once, eight times as fast as it is consumed."""

    async def reading() -> list[tuple[int, int]]:
        asked = Asked()
        pull = Pull(asked, "S", Opened("c", 0, 1), follow=True)
        await pull.open()
        await pull._request()
        waiting, served, number = [], 0, 1
        for _ in range(40):
            while served < len(asked.requests):
                served += 1
                for _ in range(8):
                    numbers = range(number, number + messages // 8)
                    number = numbers.stop
                    pull.receive([(s, r, bytes(payload_bytes)) for s, r, _ in delivered(*numbers)])
                pull.status(Status(f"inbox.{served}", 409, "Batch Completed"))
            waiting.append((pull.waiting_messages, pull.waiting_bytes))
            await pull.next()
        return waiting

    waiting = asyncio.run(reading())
    most_messages, most_bytes = (max(column) for column in zip(*waiting, strict=True))
    assert most_messages <= MAX_WAITING_MESSAGES
    assert most_bytes <= MAX_WAITING_BYTES
    # As much as half a request is left when a whole one arrives.
    assert 1 in (most_messages / MAX_WAITING_MESSAGES, most_bytes / MAX_WAITING_BYTES)


def test_a_request_that_was_served_to_the_last_message_leads_to_the_next_without_a_word() -> None:
    async def requests_after(messages: int) -> int:
        asked = Asked()
        pull = Pull(asked, "S", Opened("c", 0, 1), follow=True)
        await pull.open()
        await pull._request()
        pull.receive(delivered(*range(1, messages + 1)))
        await pull.next()
        return len(asked.requests)

    assert asyncio.run(requests_after(REQUEST_MESSAGES - 1)) == 1
    assert asyncio.run(requests_after(REQUEST_MESSAGES)) == 2


def test_heartbeats_change_nothing() -> None:
    assert ended(Status("inbox.0", 100, "Idle Heartbeat"), follow=False) is False


@pytest.mark.parametrize("reply", [PLAIN, WITH_DOMAIN])
def test_when_a_message_was_stored_is_read_from_its_reply_subject(reply: str) -> None:
    assert stored_ns_of(reply.format(seq=10, number=1).encode()) == 1_765_895_400_000_000_000
