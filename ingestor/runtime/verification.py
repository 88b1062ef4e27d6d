"""Whether a stream holds what some files, or a journal, say it ought to hold, message by message.

What ought to be there comes from the same readers, merge and encoders as a replay; what is there
is read by the consumer library. JSON is compared payload by payload. Packed messages are compared
row by row, since how many rows share a message depends on the pace of the run that wrote them.

What a replay published is in one order over all feeds. What a live run published was in the order
of arrival, of which a journal knows each feed's own: there each feed is compared by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, repeat
from operator import itemgetter
from typing import Final

import msgspec
import numpy as np

from ingestor.client import AtSequence, Client, From, Start
from ingestor.client.pull import Chunk
from ingestor.config.schema import FeedName
from ingestor.encode import make_encoder
from ingestor.encode.packed import is_packed, read_header, take_apart
from ingestor.merge.ordering import SkipRows, WatermarkMerge
from ingestor.model.blocks import Block, Encoder, Reply, Runs, Source, whole_block
from ingestor.model.errors import BadDataError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, EventType
from ingestor.publish.reconcile import messages_of
from ingestor.runtime.comparison import Comparison, Counts, Item
from ingestor.runtime.feed_process import FeedSource
from ingestor.runtime.run_records import subjects_of

_MAX_MESSAGES: Final = 65_536
_SUBJECT_AND_PAYLOAD: Final = itemgetter(0, 2)
_NO_REPLY: Final = Reply(b"", b"")
_LIVE: Final = (Source.POLYGON_WS, Source.DIRECT_FEED)


class Opening(msgspec.Struct, frozen=True):
    """What the first message of a stream tells of all: their form, and whose they are."""

    source: Source = Source.REPLAY
    packed: bool = False


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """The first difference, for people: both sides as JSON, None where that side has ended."""

    number: int
    seq: int | None
    expected: str | None
    stored: str | None


@dataclass(slots=True)
class Verdict:
    """What became of a comparison; sequences are those of the first and last message compared."""

    unit: str = "messages"
    counts: Counts = field(default_factory=Counts)
    first: FirstDifference | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    damage: str | None = None
    """What the files themselves have wrong; what is whole of them is compared."""


class Expected:
    """What files say, in the order of a replay; `source` is the envelope's.

    A file that is damaged is read as far as a replay would, and `damage` then says so.
    """

    def __init__(
        self,
        feeds: Sequence[FeedSource],
        opening: Opening,
        skip: Mapping[EventType, int] | None = None,
    ) -> None:
        """`skip` says how many of the first rows of each type are left out."""
        self._feeds = feeds
        self._opening = opening
        self._skip = SkipRows(skip or {})
        self._encoder = make_encoder("packed" if opening.packed else "json")
        self.damage: str | None = None

    def pieces(self) -> Iterator[list[Item]]:
        """Yield the items of all feeds, in order, some thousands at a time."""
        merge = WatermarkMerge(len(self._feeds))
        blocks = [feed.blocks() for feed in self._feeds]
        while not merge.done:
            # Asked for only when the block before it is used up: a block lives until the next.
            for feed in merge.waiting_for():
                block = self._next(blocks[feed])
                if block is None:
                    merge.end(feed)
                else:
                    merge.push(replace(block, feed=feed, source=self._opening.source))
            while (runs := merge.pull()) is not None:
                yield from self._items(self._skip.rest(runs))

    def _next(self, blocks: Iterator[Block]) -> Block | None:
        try:
            return next(blocks, None)
        except BadDataError as error:
            self.damage = self.damage or str(error)
            return None

    def _items(self, runs: Runs) -> Iterator[list[Item]]:
        while len(runs):
            frames = self._encoder.encode(runs, _NO_REPLY, 1, _MAX_MESSAGES)
            if self._opening.packed:
                messages = [(one.encode(), data) for one, data in messages_of(frames.data)]
                yield [item for one, data in messages for item in items_of(one, data)]
            else:
                yield _json_items(frames.data)
            _, runs = runs.split(int(frames.rows_stop[-1]))


class _SubjectOf(dict[bytes, bytes]):
    """The first line of a command to its subject; there are as many as messages have lengths."""

    def __missing__(self, line: bytes) -> bytes:
        self[line] = subject = line[4 : line.index(b" ", 4)]
        return subject


_SUBJECT_OF: Final = _SubjectOf()


def _json_items(frames: bytes) -> list[Item]:
    # JSON escapes every control character: a line end parts a command and its payload alone.
    parts = frames.split(b"\r\n")
    return list(zip(map(_SUBJECT_OF.__getitem__, parts[0:-1:2]), parts[1::2], strict=True))


def _on(
    subjects: frozenset[bytes], messages: list[Item], seqs: list[int]
) -> tuple[list[Item], list[int]]:
    """Return the messages on some subjects, and their sequences."""
    if subjects.issuperset({message[0] for message in messages}):
        return messages, seqs
    chosen = [message[0] in subjects for message in messages]
    return list(compress(messages, chosen)), list(compress(seqs, chosen))


def items_of(subject: bytes, payload: bytes) -> list[Item]:
    """Return the rows of a packed message: subject, source, symbol, bytes; else the message.

    Ids are left out of the bytes: which one a live run gives a symbol is not in its journal.
    """
    try:
        opening, rows = take_apart(payload)
        kind, symbols, source = read_header(opening)
    except BadDataError:
        # What is no packed message of ours is compared as it is, and differs.
        return [(subject, payload)]
    width = kind.dtype.itemsize
    records = np.frombuffer(bytes(rows), kind.dtype).copy()
    ids = records["instrument_id"].tolist()
    records["instrument_id"] = 0
    data = records.tobytes()
    texts = {number: symbol.encode() for number, symbol in symbols.items()}
    return list(
        zip(
            repeat(subject),
            repeat(source.value.encode()),
            [texts.get(number, b"") for number in ids],
            [data[at : at + width] for at in range(0, len(data), width)],
            strict=False,
        )
    )


def text_of(item: Item) -> str:
    """Return a message as its subject and JSON; a packed row as the JSON of its event."""
    subject, payload = item[0].decode("utf-8", "replace"), item[-1]
    if len(item) > 2:
        payload = _json_of_row(item)
    return f"{subject} {payload.decode('utf-8', 'backslashreplace')}"


def _json_of_row(item: Item) -> bytes:
    _, source, symbol, row = item
    kind: EventType = next(
        one for one in EVENT_TYPE_BY_RTYPE.values() if one.subject.encode() == item[0]
    )
    records = np.frombuffer(row, kind.dtype)
    symbols = {int(records["instrument_id"][0]): symbol.decode()}
    encoder: Encoder = make_encoder("json")
    block = Block(0, records, symbols, Source(source.decode()))
    return _json_items(encoder.encode(whole_block(block), _NO_REPLY, 1, 1).data)[0][1]


def opening_of(payload: bytes) -> Opening:
    """Return what a message tells of those that follow it."""
    try:
        if is_packed(payload):
            return Opening(read_header(take_apart(payload)[0]).source, packed=True)
        return msgspec.json.decode(payload, type=Opening)
    except (BadDataError, msgspec.MsgspecError, ValueError):
        return Opening()


class Verification:
    """Compares what is stored on the subjects of some feeds with what their sources hold."""

    def __init__(self, sources: Mapping[FeedName, FeedSource]) -> None:
        self._sources = sources
        self._verdict = Verdict()
        self._groups: list[_Group] = []
        self._opening: Opening | None = None

    async def run(self, client: Client, *, from_seq: int, to_seq: int) -> Verdict:
        """Read the stream from a sequence up to another, and compare.

        Raises what the reading of stream and files does.
        """
        start: Start = AtSequence(from_seq) if from_seq > 1 else From.BEGINNING
        subscription = client.subscribe(start=start, follow=False)
        ours = frozenset(subject.encode() for subject in subjects_of(tuple(self._sources)))
        async for chunk in subscription.chunks():
            self._take(chunk, ours, to_seq)
            if chunk.seqs[-1] >= to_seq:
                break
        return self._finish()

    def _take(self, chunk: Chunk, ours: frozenset[bytes], to_seq: int) -> None:
        stop = bisect_right(chunk.seqs, to_seq)
        found = list(map(_SUBJECT_AND_PAYLOAD, chunk.frames[:stop]))
        found, seqs = _on(ours, found, chunk.seqs[:stop])
        if not found:
            return
        verdict = self._verdict
        verdict.first_seq = verdict.first_seq or seqs[0]
        verdict.last_seq = seqs[-1]
        if self._opening is None:
            # The first message tells for all of them: one run writes one encoding and one source.
            self._begin(opening_of(found[0][1]))
        for group in self._groups:
            group.put(found, seqs)

    def _begin(self, opening: Opening) -> None:
        self._opening = opening
        self._verdict.unit = "rows" if opening.packed else "messages"
        if opening.source in _LIVE:
            # Live feeds were ordered by arrival, which no file tells: each is compared for itself.
            parts = [{name: source} for name, source in self._sources.items()]
        else:
            parts = [dict(self._sources)]
        self._groups = [_Group(part, opening) for part in parts]

    def _finish(self) -> Verdict:
        if self._opening is None:
            # Nothing is stored: all that the files hold is missing, and is counted so.
            self._begin(Opening())
        verdict = self._verdict
        for group in self._groups:
            group.finish()
            verdict.counts.add(group.comparison.counts)
            verdict.damage = verdict.damage or group.expected.damage
        firsts = [one for group in self._groups if (one := group.comparison.first) is not None]
        if firsts:
            # What is missing at the end has no sequence: it comes after all that has one.
            first = min(firsts, key=lambda one: one.seq or np.inf)
            verdict.first = FirstDifference(
                first.number,
                first.seq,
                text_of(first.expected) if first.expected else None,
                text_of(first.stored) if first.stored else None,
            )
        return verdict


class _Group:
    """Feeds that were published in one order, and their comparison."""

    def __init__(self, sources: Mapping[FeedName, FeedSource], opening: Opening) -> None:
        self.comparison = Comparison()
        self.expected = Expected(list(sources.values()), opening)
        self._again = Expected(list(sources.values()), opening)
        self._pieces = self.expected.pieces()
        self._packed = opening.packed
        self._subjects = frozenset(subject.encode() for subject in subjects_of(tuple(sources)))

    def put(self, found: list[Item], seqs: list[int]) -> None:
        """Take stored messages, each as subject and payload, and the sequence of each."""
        mine, numbers = _on(self._subjects, found, seqs)
        if self._packed:
            for (subject, payload), seq in zip(mine, numbers, strict=True):
                items = items_of(subject, payload)
                self.comparison.put_stored(items, [seq] * len(items))
        else:
            self.comparison.put_stored(mine, numbers)
        self._compare()

    def finish(self) -> None:
        """Say that the stream has ended, and classify what is left over."""
        self.comparison.end_stored()
        self._compare()
        self.comparison.finish()
        # Only now the files are read once more: a stream that is right never needs it.
        if self.comparison.suspects:
            for items in self._again.pieces():
                self.comparison.note_repeated(items)

    def _compare(self) -> None:
        while True:
            while self.comparison.wants_expected:
                piece = next(self._pieces, None)
                if piece is None:
                    self.comparison.end_expected()
                else:
                    self.comparison.put_expected(piece)
            self.comparison.advance()
            if not self.comparison.wants_expected:
                return
