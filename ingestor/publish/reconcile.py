"""Reconciling: how many of the messages that were sent does the stream hold?

After a lost connection, a silence or a change of leader the fate of the messages under way is
unknown. They were sent in order and are stored in order, so the answer is one number: the stream
holds the first k of them. Nothing is ever read back message by message to find it.

1. Sequences say it where we write alone. Every message that is stored raises the stream's last
   sequence by one, and no removal lowers it: neither age, nor limits, nor a consumer of a work
   queue. So k is the last sequence minus the *floor*, the sequence of our newest acknowledged
   message. That nobody else writes is checked: a message at floor + i must be our i-th one.
2. Where others write other subjects, the newest message under our own subjects is looked up by the
   server. Its payload is one of those under way, and its place among them is k.
3. Equal payloads occur in real data. Where one payload has several places, the server counts what
   is stored under our subjects behind the *anchor*, the last message of ours whose sequence is
   known.
4. Only where others write the same subjects is what lies behind the floor read and compared.

Messages are compared by payload, since a stream may store them under other subjects than those
they were published to. The question is put to the stream's leader.

A message that still was on its way while we asked would make k too small. So the first one sent
again carries a *guard*: a header by which the server stores it only if nothing has come in between.
Where it has, the message is refused, and we reconcile again; nothing else is sent before it is
stored, for then all that was on its way has arrived.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

from ingestor.model.blocks import Encoder, Reply, Runs
from ingestor.model.errors import StreamError
from ingestor.nats.jetstream import JetStreamApi, StoredMessage, StreamEnd
from ingestor.publish.ledger import ReconcileRequest, StoredPrefix

NO_REPLY: Final = Reply(b"_", b"")

Message = tuple[str, bytes]
"""Subject and payload."""

_WILDCARD_FUNCTION: Final = re.compile(r"\{\{\s*(\w+)\s*\(([^)]*)\)\s*\}\}|\$(\d+)")

log = logging.getLogger(__name__)


class StreamLostError(StreamError):
    """The stream no longer holds what it acknowledged.

    `last_seq` is where it ends now; None says that it is gone, or is not the one it was.
    """

    def __init__(self, text: str, last_seq: int | None = None) -> None:
        super().__init__(text)
        self.last_seq = last_seq


async def find_stored(
    api: JetStreamApi, request: ReconcileRequest, encoder: Encoder
) -> StoredPrefix:
    """Ask the stream's leader.

    Raises StreamLostError, RefusedError, and TimeoutError when the server does not answer.
    """
    end = await api.stream_end(request.stream)
    _check_identity(request, end)
    assert end is not None
    # The common case, and one request: nothing was stored since.
    if end.last_seq == request.floor:
        return StoredPrefix(0, last_seq=end.last_seq, end=end.last_seq, leader=end.leader)
    return replace(await _Search(api, request, end, encoder).run(), leader=end.leader)


def _check_identity(request: ReconcileRequest, end: StreamEnd | None) -> None:
    name, floor = request.stream, request.floor
    if end is None:
        raise StreamLostError(f"stream {name} is gone")
    if end.identity != request.identity:
        raise StreamLostError(f"stream {name} was made anew while we published")
    if end.last_seq < floor:
        raise StreamLostError(
            f"stream {name} ends at sequence {end.last_seq} though it acknowledged messages up "
            f"to {floor}: they were lost with its server",
            end.last_seq,
        )


class _Search:
    """A stream that ends behind the floor, and what was sent."""

    def __init__(
        self, api: JetStreamApi, request: ReconcileRequest, end: StreamEnd, encoder: Encoder
    ) -> None:
        self._api = api
        self._request = request
        self._end = end
        # Number 0 is kept to recognise the floor itself where others write behind it.
        newest = _messages([request.newest], encoder) if request.newest is not None else []
        self._known: list[Message | None] = [newest[0] if newest else None]
        self._known += _messages(request.sent, encoder)
        """Number k is the k-th message sent; number 0 is the newest acknowledged one."""
        published = {message[0] for message in self._known if message is not None}
        self._subjects = {one: mapped_subject(one, end.transform) for one in sorted(published)}

    async def run(self) -> StoredPrefix:
        # More than we have reckoned with may be ours too, sent while the stream was asked.
        behind = min(self._end.last_seq - self._request.floor, len(self._known) - 1)
        if behind and await self._all_ours(behind):
            last = self._request.floor + behind
            end = last if last == self._end.last_seq else None
            return StoredPrefix(behind, self._request.floor + 1, last, end)
        return await self._amid_others()

    async def _all_ours(self, behind: int) -> bool:
        """Whether our first `behind` messages came behind the floor, and nothing between them."""
        floor, last = self._request.floor, self._request.floor + behind
        found = await self._message(seq=last)
        found = found or await self._message(next_by_subj=">", seq=floor + 1)
        if found is None or found.seq > last:
            return self._request.alone
        place = found.seq - floor
        places = self._places(found.payload)
        if place not in places:
            return False
        # Equal payloads: the server counts, since the message at the floor proves nothing.
        if len(places) > 1:
            ours = await self._count(self._mapped(), self._request.floor + 1)
            everything = await self._count([">"], self._request.floor + 1)
            return self._request.alone if ours is None else ours == everything
        return place == behind or self._request.alone

    async def _amid_others(self) -> StoredPrefix:
        ends = {
            one: (await self._message(last_by_subj=mapped) if mapped else None)
            for one, mapped in self._subjects.items()
        }
        newest = max((end for end in ends.values() if end), key=lambda end: end.seq, default=None)
        subject_ends = {}
        # After a transform a guard would name a subject that the message is not stored under.
        if self._end.transform is None:
            subject_ends = {one: end.seq if end else 0 for one, end in ends.items()}
        if newest is None or newest.seq <= self._request.anchor:
            if self._end.first_seq > self._request.floor + 1 or self._end.removed_amid:
                self._tell_unknown()
            return StoredPrefix(0, subject_ends=subject_ends)
        places = self._places(newest.payload)
        if len(places) > 1:
            ours = await self._count(self._mapped(), self._request.anchor + 1)
            counted = (ours or 0) - self._request.acked
            places = [counted] if counted in places else []
        count = places[0] if places else None
        if count is None:
            return await self._compare()
        first = newest.seq if count == 1 else await self._first_seq() if count else None
        return StoredPrefix(count, first, newest.seq, subject_ends=subject_ends)

    async def _compare(self) -> StoredPrefix:
        """Read what lies behind the floor: ours is in it in order, whatever lies between.

        The newest acknowledged message is looked for too: with its sequence the next search begins
        there. There is no guard where others write our subjects: they would break it again and
        again.
        """
        log.info("others write our subjects of stream %s: comparing", self._request.stream)
        place, first_seq, last_seq = 1, None, None
        async for seq, payload in self._stored():
            if place < len(self._known) and self._is(place, payload):
                place, first_seq, last_seq = place + 1, first_seq or seq, seq
            elif place == 1 and self._is(0, payload):
                last_seq = seq
        return StoredPrefix(place - 1, first_seq, last_seq)

    async def _stored(self) -> AsyncIterator[tuple[int, bytes]]:
        stream, start = self._request.stream, max(self._request.floor, 1)
        try:
            async for chunk in self._api.stored(stream, self._mapped(), start):
                for seq, payload in chunk:
                    yield seq, payload
        except LookupError:
            # One by one where no consumer may only look: a work queue.
            while (found := await self._message(next_by_subj=">", seq=start)) is not None:
                if found.seq > self._end.last_seq:
                    return
                yield found.seq, found.payload
                start = found.seq + 1

    async def _first_seq(self) -> int | None:
        first = self._known[1]
        if self._request.acked or first is None or (mapped := self._subjects[first[0]]) is None:
            return None
        found = await self._message(next_by_subj=mapped, seq=self._request.anchor + 1)
        return found.seq if found and found.payload == first[1] else None

    def _tell_unknown(self) -> None:
        log.warning(
            "stream %s has removed messages while the connection was away, and takes others "
            "than ours: up to %d events may be published twice",
            *(self._request.stream, len(self._known) - 1),
        )

    def _places(self, payload: bytes) -> list[int]:
        return [place for place in range(len(self._known)) if self._is(place, payload)]

    def _is(self, place: int, payload: bytes) -> bool:
        known = self._known[place]
        return known is not None and known[1] == payload

    def _mapped(self) -> list[str]:
        mapped = self._subjects.values()
        return [">"] if None in mapped else [one for one in mapped if one is not None]

    async def _message(self, **which: object) -> StoredMessage | None:
        return await self._api.message(self._request.stream, **which)

    async def _count(self, subjects: list[str], start: int) -> int | None:
        return await self._api.count(self._request.stream, subjects, start)


def _messages(sent: Sequence[Runs], encoder: Encoder) -> list[Message]:
    """Encode again as it was: the same rows make the same messages."""
    messages: list[Message] = []
    for runs in sent:
        rest = runs
        while len(rest):
            frames = encoder.encode(rest, NO_REPLY, 1, len(rest))
            messages += messages_of(frames.data)
            _, rest = rest.split(int(frames.rows_stop[-1]))
    return messages


def messages_of(frames: bytes) -> list[Message]:
    r"""Read ``PUB <subject> <reply> <length>\r\n<payload>\r\n`` commands back into messages."""
    messages = []
    at = 0
    while at < len(frames):
        end = frames.index(b"\r\n", at)
        _, subject, *_, length = frames[at:end].split()
        payload = frames[end + 2 : end + 2 + int(length)]
        messages.append((subject.decode(), payload))
        at = end + 2 + len(payload) + 2
    return messages


def mapped_subject(subject: str, transform: tuple[str, str] | None) -> str | None:
    """Return the subject under which a stream stores what is published to `subject`.

    `transform` is its subject transform, as source and destination. None where the destination
    holds another function than ``wildcard``: the server alone computes those.

    >>> mapped_subject("market.stocks.trades", ("market.*.>", "kept.{{wildcard(1)}}.>"))
    'kept.stocks.trades'
    """
    if transform is None:
        return subject
    source, destination, tokens = (text.split(".") for text in (*transform, subject))
    wildcards = _wildcards(source, tokens)
    if wildcards is None:
        return subject
    mapped: list[str] = []
    for part in destination:
        found = _WILDCARD_FUNCTION.fullmatch(part)
        if part == ">":
            mapped += tokens[len(source) - 1 :]
        elif found is None:
            mapped.append(part)
        else:
            index = found[3] or found[2]
            known = found[3] or found[1].lower() == "wildcard"
            if not known or not index.strip().isdecimal() or int(index) > len(wildcards):
                return None
            mapped.append(wildcards[int(index) - 1])
    return ".".join(mapped)


def _wildcards(source: list[str], tokens: list[str]) -> list[str] | None:
    """Return what each ``*`` of a source stands for, None where it does not match."""
    if source in ([""], [">"]):
        return []
    open_ended = source[-1] == ">"
    fixed = source[:-1] if open_ended else source
    if len(tokens) < len(fixed) or (len(tokens) > len(fixed)) != open_ended:
        return None
    if any(one not in ("*", token) for one, token in zip(fixed, tokens, strict=False)):
        return None
    return [token for one, token in zip(fixed, tokens, strict=False) if one == "*"]
