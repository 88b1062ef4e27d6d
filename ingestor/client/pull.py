"""One life of a consumer: asks for messages, checks that none is missing, keeps them in bounds.

At most one request is open. The next is made when none is and what waits here has shrunk to half
a request, so that a consumer that keeps up never waits for one, and one that does not is not sent
more than `MAX_WAITING_MESSAGES` and `MAX_WAITING_BYTES`: the rest stays in the stream.

The server numbers its deliveries in the reply subject
(``$JS.ACK[.domain.account].stream.consumer.times.seq.number.time.pending[.token]``): a gap in the
number means that a message was lost on the way, and ends this life.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription

from ingestor.client.connection import Connection, NoAnswerError
from ingestor.client.consumer import Opened
from ingestor.client.wire import Frame, Status
from ingestor.model.bounds import printable
from ingestor.model.errors import StreamError
from ingestor.model.units import NS_PER_S

REQUEST_MESSAGES: Final = 8_192
REQUEST_BYTES: Final = 16 * 1024 * 1024
"""What one request asks for, at most; a stream's largest message always fits."""

MAX_WAITING_MESSAGES: Final = REQUEST_MESSAGES * 3 // 2
MAX_WAITING_BYTES: Final = REQUEST_BYTES * 3 // 2
"""What can wait here to be consumed (of messages over half `REQUEST_BYTES`, three)."""

REQUEST_EXPIRES_S: Final = 30
HEARTBEAT_S: Final = 5
SILENCE_S: Final = 12.0
"""A server that says nothing for this long, more than two heartbeats, is no longer serving us."""

_NO_MESSAGES: Final = 404
_EXPIRED: Final = 408
_CONFLICT: Final = 409
_HEARTBEAT: Final = 100
_ANSWERED: Final = ("batch completed", "maxbytes")
_PLAIN_REPLY_TOKENS: Final = 9

log = logging.getLogger(__name__)


def stored_ns_of(reply: bytes) -> int:
    """Return when a message was stored, from its acknowledgement subject: ns UTC, 0 if unsaid."""
    tokens = reply.split(b".")
    try:
        return int(tokens[_stream_seq_at(tokens) + 2])
    except (ValueError, IndexError):
        return 0


def _stream_seq_at(tokens: list[bytes]) -> int:
    """Where the stream's sequence stands; the consumer's and the time of storing follow it."""
    return 5 if len(tokens) == _PLAIN_REPLY_TOKENS else 7


class ConsumerLostError(StreamError):
    """This life is over; the subscription goes on with a new one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages that arrived together, and their stream sequences."""

    frames: list[Frame]
    seqs: list[int]
    payload_bytes: int

    def __len__(self) -> int:
        """Number of messages."""
        return len(self.frames)


class Pull:
    """Delivers what follows `opened.last_seq`; without `follow` it ends where the stream does."""

    def __init__(
        self, connection: Connection, stream: str, opened: Opened, *, follow: bool
    ) -> None:
        self._connection = connection
        self._ask_at = f"{connection.api_prefix}.CONSUMER.MSG.NEXT.{stream}.{opened.name}"
        self._follow = follow
        self._number = opened.next_number
        self._chunks: deque[Chunk] = deque()
        self.waiting_messages = 0
        self.waiting_bytes = 0
        self._inbox: tuple[str, NatsSubscription] | None = None
        self._requests = 0
        self._left = 0
        self._ended = False
        self._broken: str | None = None
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Begin to listen."""
        self._inbox = await self._connection.tap(self)

    async def close(self) -> None:
        """Stop listening."""
        self.lose("closed")
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await self._connection.untap(inbox[1])

    def lose(self, why: str) -> None:
        """End this life; what has arrived is still handed out."""
        self._broken = self._broken or why
        self._changed.set()

    @property
    def ready(self) -> bool:
        """Whether messages wait here."""
        return bool(self._chunks)

    async def next(self) -> Chunk | None:
        """Return what arrived next, None at the stream's end. Raises `ConsumerLostError`."""
        while not self._take_stock():
            if self._broken is not None:
                raise ConsumerLostError(self._broken)
            if self._ended:
                return None
            await self._request()
            await self._wait()
        chunk = self._chunks.popleft()
        self.waiting_messages -= len(chunk)
        self.waiting_bytes -= chunk.payload_bytes
        await self._request()
        return chunk

    async def ack(self, frame: Frame) -> None:
        """Acknowledge a message and all before it; nothing happens once this life is over."""
        if self._broken is None:
            await self._connection.publish(frame[1].decode())

    async def confirm(self, frame: Frame) -> bool:
        """Acknowledge as `ack` does, and tell whether the server has said that it has it."""
        if self._broken is not None:
            return False
        try:
            await self._connection.ask("an acknowledgement", frame[1].decode())
        except NoAnswerError as error:
            log.warning("%s", error)
            return False
        return True

    def receive(self, frames: list[Frame]) -> None:
        """Take messages; those from a gap on are dropped, and come again in the next life."""
        if self._broken is not None:
            return
        try:
            chunk = self._checked(frames)
        except (ValueError, IndexError):
            self.lose(f"a message came with the reply subject {printable(frames[0][1])}")
            return
        if len(chunk) < len(frames):
            self.lose(f"delivery {self._number} is missing")
        self._left -= len(frames)
        if chunk.frames:
            self._chunks.append(chunk)
            self.waiting_messages += len(chunk)
            self.waiting_bytes += chunk.payload_bytes
            self._changed.set()

    def status(self, status: Status) -> None:
        """Take the server's word on a request."""
        code, text = status.code, status.text.lower()
        if code != _HEARTBEAT and status.subject.endswith(f".{self._requests}"):
            self._left = 0
            if code in (_NO_MESSAGES, _EXPIRED):
                self._ended = not self._follow
            elif code != _CONFLICT or not any(words in text for words in _ANSWERED):
                self.lose(f"the server says {code} {printable(status.text)}")
        self._changed.set()

    def _checked(self, frames: list[Frame]) -> Chunk:
        tokens = [reply.split(b".") for _, reply, _ in frames]
        at = _stream_seq_at(tokens[0])
        numbers = [int(token[at + 1]) for token in tokens]
        seqs = [int(token[at]) for token in tokens]
        expected = list(range(self._number, self._number + len(numbers)))
        whole = len(numbers)
        if numbers != expected:
            pairs = zip(numbers, expected, strict=True)
            whole = next(at for at, (number, due) in enumerate(pairs) if number != due)
        self._number += whole
        kept = frames[:whole]
        return Chunk(kept, seqs[:whole], sum(len(payload) for _, _, payload in kept))

    def _take_stock(self) -> bool:
        """Return whether messages wait here; what changes from now on will wake `_wait`."""
        self._changed.clear()
        return bool(self._chunks)

    async def _request(self) -> None:
        """Ask for more if nothing is asked for and there is room."""
        room = (
            self.waiting_messages <= REQUEST_MESSAGES // 2
            and self.waiting_bytes <= REQUEST_BYTES // 2
        )
        if self._left > 0 or not room or self._broken or self._ended or self._inbox is None:
            return
        self._requests += 1
        self._left = REQUEST_MESSAGES
        payload = msgspec.json.encode(self._wanted())
        await self._connection.publish(self._ask_at, payload, f"{self._inbox[0]}.{self._requests}")

    def _wanted(self) -> dict[str, Any]:
        max_bytes = max(REQUEST_BYTES, 2 * self._connection.max_payload_bytes)
        wanted: dict[str, Any] = {"batch": REQUEST_MESSAGES, "max_bytes": max_bytes}
        if not self._follow:
            return wanted | {"no_wait": True}
        return wanted | {
            "expires": REQUEST_EXPIRES_S * NS_PER_S,
            "idle_heartbeat": HEARTBEAT_S * NS_PER_S,
        }

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._changed.wait()
        except TimeoutError:
            self.lose(f"nothing heard from the server for {SILENCE_S:g} s")
