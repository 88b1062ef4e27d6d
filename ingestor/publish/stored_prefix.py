"""The question what a stream holds of what was sent, its answer, and what both are made of.

Pure: see `reconcile` for how the answer is found, and why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ingestor.model.blocks import Runs

Message = tuple[str, bytes]
"""Subject and payload."""


@dataclass(frozen=True, slots=True)
class ReconcileRequest:
    """How many messages of `sent` does the stream of this identity hold?

    `acked` of ours are stored behind sequence `anchor`, `newest` being the last of them; each of
    the runs was encoded by itself. `alone` says that no message of others was seen of late.
    """

    stream: str
    identity: str
    anchor: int
    acked: int
    newest: Runs | None
    sent: Sequence[Runs]
    alone: bool = True

    @property
    def floor(self) -> int:
        """Our newest acknowledged message has this sequence or, where others write, a later one."""
        return self.anchor + self.acked


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """The stream holds the first `count` messages; sequences where they are known.

    `end` is the stream's last sequence if all behind the anchor is ours, else None;
    `subject_ends` are the last sequences of our subjects where others write too.
    """

    count: int
    first_seq: int | None = None
    last_seq: int | None = None
    end: int | None = None
    subject_ends: dict[str, int] = field(default_factory=dict)
    leader: str = field(default="", compare=False)
    """The server that said so."""

    def guard(self, subject: str) -> tuple[str, str] | None:
        """Return the header with which nothing is stored that we have not reckoned with."""
        if self.end is not None:
            return "Nats-Expected-Last-Sequence", str(self.end)
        if subject in self.subject_ends:
            return "Nats-Expected-Last-Subject-Sequence", str(self.subject_ends[subject])
        return None

    def is_next(self, seq: int) -> bool:
        """Whether a guarded message may have been stored at this sequence."""
        if self.end is not None:
            return seq == self.end + 1
        return seq > max(self.subject_ends.values(), default=0)


_FUNCTION: Final = re.compile(r"\{\{\s*(\w+)\s*\(([^)]*)\)\s*\}\}|\$(\d+)")


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
        found = _FUNCTION.fullmatch(part)
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
