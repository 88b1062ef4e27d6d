"""How much of what was sent does a stream hold: compares frames with stored messages.

Messages of one publisher are stored in order and without holes, so those that are stored are a
prefix of those sent, though other publishers' messages may lie between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Message = tuple[str, bytes]
"""Subject and payload."""


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


@dataclass(frozen=True, slots=True)
class Stored:
    """How many of the messages are stored, and the stream sequences of the first and the last."""

    count: int
    first_seq: int | None
    last_seq: int | None


class Matcher:
    """Finds the sent messages, in order, among the stored ones."""

    def __init__(self, sent: Sequence[Message]) -> None:
        self._sent = sent
        self._count = 0
        self._first_seq: int | None = None
        self._last_seq: int | None = None
        self.strangers = 0

    @property
    def complete(self) -> bool:
        """Whether all are found."""
        return self._count == len(self._sent)

    @property
    def missing(self) -> int:
        """How many are not found yet."""
        return len(self._sent) - self._count

    @property
    def stored(self) -> Stored:
        """What has been found so far."""
        return Stored(self._count, self._first_seq, self._last_seq)

    def assume(self, first_seq: int, last_seq: int) -> None:
        """Take it that sequences which the stream no longer holds were ours."""
        self._found(first_seq)
        self._count += last_seq - first_seq
        self._last_seq = last_seq

    def look_at(self, stored: Iterable[tuple[int, Message]]) -> None:
        """Compare the next stored messages, each with its stream sequence."""
        for seq, message in stored:
            if not self.complete and message == self._sent[self._count]:
                self._found(seq)
            else:
                self.strangers += 1

    def _found(self, seq: int) -> None:
        self._count += 1
        self._last_seq = seq
        if self._first_seq is None:
            self._first_seq = seq
