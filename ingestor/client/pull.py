"""One session of a consumer: asks for messages, keeps them in bounds, and tells what is missing.

At most one request is open. The next is made when none is and what waits here has shrunk to half
a request, so that a consumer that keeps up never waits for one, and one that does not is not sent
more than `MAX_WAITING_MESSAGES` and `MAX_WAITING_BYTES`: the rest stays in the stream.

The server numbers its deliveries in the reply subject
(``$JS.ACK[.domain.account].stream.consumer.times.seq.number.time.pending[.token]``): a gap in the
number means that a message was lost on the way, and ends this life.

What a stream dropped before it was read, its limits of age or size having overtaken a consumer,
shows elsewhere. A stream numbers its messages without a hole, so whoever reads all of its subjects
sees what is missing as a jump in the sequences. Whoever reads some of them sees jumps all the time;
there the stream is asked how far it has dropped its front, and what lies between is told as an
upper bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from nats.aio.subscription import Subscription as NatsSubscription

from ingestor.client.consumer import Opened
from ingestor.model.bounds import printable
from ingestor.model.errors import StreamError
from ingestor.model.records import covers, overlap
from ingestor.model.units import NS_PER_S
from ingestor.nats.answers import Frame, NoAnswerError, Status
from ingestor.nats.connection import Connection

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

ASK_AGAIN_S: Final = 1.0
"""How often a stream is asked, at most, where sequences jump because of a filter."""

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
        return int(tokens[_stream_seq_at(len(tokens)) + 2])
    except (ValueError, IndexError):
        return 0


def _stream_seq_at(tokens: int) -> int:
    """Where the stream's sequence stands; the consumer's and the time of storing follow it."""
    return 5 if tokens == _PLAIN_REPLY_TOKENS else 7


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
        while True:
            # Cleared before looking: what changes from here on wakes `_wait`.
            self._changed.clear()
            if self._chunks:
                break
            if self._broken is not None:
                raise ConsumerLostError(self._broken)
            if self._ended:
                return None
            await self._request()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._changed.wait()
            except TimeoutError:
                self.lose(f"nothing heard from the server for {SILENCE_S:g} s")
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
            await self._connection.request("an acknowledgement", frame[1].decode())
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
            # 409 is all of these: a request served, a consumer deleted, a server going down.
            elif code != _CONFLICT or not any(words in text for words in _ANSWERED):
                self.lose(f"the server says {code} {printable(status.text)}")
        self._changed.set()

    def _checked(self, frames: list[Frame]) -> Chunk:
        # All of one consumer have one form: one split of them together takes half the time.
        width = frames[0][1].count(b".") + 1
        tokens = b".".join([reply for _, reply, _ in frames]).split(b".")
        if width < _PLAIN_REPLY_TOKENS or len(tokens) != width * len(frames):
            raise ValueError("no reply of a delivery, or several forms of them")
        at = _stream_seq_at(width)
        numbers = list(map(int, tokens[at + 1 :: width]))
        seqs = list(map(int, tokens[at::width]))
        expected = list(range(self._number, self._number + len(numbers)))
        whole = len(numbers)
        if numbers != expected:
            pairs = zip(numbers, expected, strict=True)
            whole = next(at for at, (number, due) in enumerate(pairs) if number != due)
        self._number += whole
        kept = frames[:whole]
        return Chunk(kept, seqs[:whole], sum(len(payload) for _, _, payload in kept))

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
        # A server that is asked for less than its largest message would send nothing at all.
        max_bytes = max(REQUEST_BYTES, 2 * self._connection.max_payload_bytes)
        wanted: dict[str, Any] = {"batch": REQUEST_MESSAGES, "max_bytes": max_bytes}
        if self._follow:
            wanted["expires"] = REQUEST_EXPIRES_S * NS_PER_S
            wanted["idle_heartbeat"] = HEARTBEAT_S * NS_PER_S
        else:
            wanted["no_wait"] = True
        # The number of the request ends the subject of its answers: a late one is told by it.
        reply = f"{self._inbox[0]}.{self._requests}"
        await self._connection.publish(self._ask_at, msgspec.json.encode(wanted), reply)


@dataclass(frozen=True, slots=True)
class Gap:
    """Stream sequences that were gone before they could be read.

    All of them belong to the subscription if it is `exact`; else some or none of them may.
    """

    first_seq: int
    last_seq: int
    exact: bool

    @property
    def messages(self) -> int:
        """How many they are."""
        return self.last_seq - self.first_seq + 1

    def __str__(self) -> str:
        """Return one sentence for people."""
        most = "" if self.exact else "up to "
        return (
            f"the stream dropped {most}{self.messages:,} messages before they were read:"
            f" sequences {self.first_seq} to {self.last_seq}"
        )


OnGap = Callable[[Gap], Any]


class OvertakenError(StreamError):
    """The stream dropped messages before they were read; `gap` says which.

    The iteration that raises it is continued, after the gap, by the next one.
    """

    def __init__(self, gap: Gap) -> None:
        super().__init__(str(gap))
        self.gap = gap


def raise_overtaken(gap: Gap) -> None:
    """Raise `OvertakenError`: an `on_gap` for consumers that must not miss anything."""
    raise OvertakenError(gap)


class _Config(msgspec.Struct, frozen=True):
    subjects: list[str] = []
    mirror: Any = None
    sources: Any = None
    subject_transform: Any = None


class _State(msgspec.Struct, frozen=True):
    first_seq: int


class _Info(msgspec.Struct, frozen=True):
    config: _Config
    state: _State


class GapWatch:
    """Counts and tells what is missing; `subject` is what the subscription asks for.

    `count` is how many gaps there were, `messages` how many messages are missing at most.
    """

    def __init__(
        self, connection: Connection, stream: str, subject: str, on_gap: OnGap | None
    ) -> None:
        self.count = 0
        self.messages = 0
        self._on_gap = on_gap
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._sees_all = False
        self._asked_s = -ASK_AGAIN_S

    async def open(self) -> None:
        """Look at the stream. Raises StreamError if no subject of it can match."""
        config = (await self._info()).config
        # What these hold need not lie under the subjects that are configured.
        if config.mirror or config.sources or config.subject_transform:
            return
        if not any(overlap(self._subject, subject) for subject in config.subjects):
            raise StreamError(
                f"stream {self._stream} has the subjects {', '.join(config.subjects)}: "
                f"none of them matches {self._subject}"
            )
        self._sees_all = all(covers(self._subject, subject) for subject in config.subjects)

    async def look(self, last_seq: int | None, seqs: Sequence[int]) -> None:
        """Look between `last_seq` (None at first) and messages that arrived together."""
        # Without a hole the last one is as far away as there are messages: one subtraction a chunk.
        if last_seq is None or not seqs or seqs[-1] - last_seq == len(seqs):
            return
        for gap in await self._gaps(last_seq, seqs, asyncio.get_running_loop().time()):
            self.count += 1
            self.messages += gap.messages
            if self._on_gap is None:
                log.warning("stream %s: %s", self._stream, gap)
            else:
                self._on_gap(gap)

    async def _gaps(self, last_seq: int, seqs: Sequence[int], now_s: float) -> list[Gap]:
        if self._sees_all:
            pairs = zip([last_seq, *seqs], seqs, strict=False)
            return [Gap(one + 1, other - 1, True) for one, other in pairs if other > one + 1]
        # A stream drops its front, so what it dropped lies before the first of these.
        if seqs[0] == last_seq + 1 or now_s - self._asked_s < ASK_AGAIN_S:
            return []
        self._asked_s = now_s
        dropped = min((await self._info()).state.first_seq, seqs[0]) - 1
        return [Gap(last_seq + 1, dropped, False)] if dropped > last_seq else []

    async def _info(self) -> _Info:
        what = f"stream {self._stream}"
        return await self._connection.api(what, f"STREAM.INFO.{self._stream}", _Info)
