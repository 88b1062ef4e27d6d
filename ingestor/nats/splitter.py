r"""Cutting what a NATS server sends into messages, many at a time.

nats-py takes a message apart, wraps it in an object and hands it through a queue and a task: six
to thirty microseconds each. Here the messages of chosen subscriptions are cut out of the bytes
with one match each, and everything else is given back as whole commands, for nats-py to handle.

A command is one line, and for ``MSG`` and ``HMSG`` as many bytes of headers and payload after it
as the line's last number says; each part ends in ``\r\n``::

    MSG <subject> <sid> [reply] <payload bytes>
    HMSG <subject> <sid> [reply] <header bytes> <header and payload bytes>

A message without reply and payload whose header opens with a number, ``NATS/1.0 408 Request
Timeout``, is JetStream speaking about a request (a `Status`).
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ingestor.model.bounds import MAX_PAYLOAD_BYTES
from ingestor.model.errors import BadDataError

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line; a cluster's ``INFO`` with all its addresses, some ten KiB, is the longest."""

_MESSAGE: Final = re.compile(rb"MSG ([^ ]+) (\d+) (?:([^ ]+) )?(\d+)\r\n").match
_STATUS: Final = re.compile(rb"NATS/1\.0 +(\d{3}) *([^\r]*)").match
_END: Final = b"\r\n"
_SIZES: Final = {b"MSG": 1, b"HMSG": 2}
"""Command to how many numbers end its line."""

_MAX_WORDS: Final = 6
"""After the command; a line of more is no message."""

Frame = tuple[bytes, bytes, bytes]
"""One message: subject, reply (empty where there is none), payload."""


class Status(NamedTuple):
    """What JetStream says on the subject that a request named."""

    subject: str
    code: int
    text: str


@dataclass(slots=True)
class Cut:
    """What one piece of the stream held: by subscription what was asked for, and the rest."""

    frames: dict[bytes, list[Frame]] = field(default_factory=dict)
    statuses: list[tuple[bytes, Status]] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)


class Splitter:
    """Cuts the stream of one connection; `taps` holds the ids of the subscriptions to cut out.

    What it keeps between calls is at most one unfinished command.
    """

    def __init__(self, taps: Container[bytes]) -> None:
        self._taps = taps
        self._parts: list[bytes] = []
        self._size = 0
        self._needed = 0
        self.nonsense: BadDataError | None = None
        """Why nothing more can be cut."""

    def feed(self, data: bytes) -> Cut:
        """Return every command that `data` completes.

        Raises `BadDataError` for what makes no sense; what came before it in the same piece is
        returned first, and `nonsense` is then set.
        """
        if self.nonsense is not None:
            raise self.nonsense
        cut = Cut()
        self._parts.append(data)
        self._size += len(data)
        # A long message comes in hundreds of pieces: they are joined once, when it is whole.
        if self._size < self._needed:
            return cut
        buffer = data if len(self._parts) == 1 else b"".join(self._parts)
        try:
            rest = self._cut(buffer, cut)
        except ValueError as error:  # a number that is none or too long, a subject that is no text
            self.nonsense = BadDataError(f"the NATS server sent what is no command: {error}")
        except BadDataError as error:
            self.nonsense = error
        else:
            self._parts = [buffer[rest:]] if rest < len(buffer) else []
            self._size = len(buffer) - rest
        if self.nonsense is not None and not (cut.frames or cut.statuses or cut.others):
            raise self.nonsense
        return cut

    def _cut(self, buffer: bytes, cut: Cut) -> int:
        """Return where the first unfinished command begins, `_needed` being its known size."""
        at = 0
        size = len(buffer)
        taps, frames = self._taps, cut.frames
        while at < size:
            message = _MESSAGE(buffer, at)
            if message is None:
                stop = self._cut_other(buffer, at, cut)
            else:
                subject, sid, reply, length = message.groups(b"")
                start = message.end()
                stop = start + _bounded(int(length)) + len(_END)
                if stop <= size and sid in taps:
                    frame = (subject, reply, buffer[start : stop - 2])
                    if sid in frames:
                        frames[sid].append(frame)
                    else:
                        frames[sid] = [frame]
                elif stop <= size:
                    cut.others.append(buffer[at:stop])
            # Unfinished: looked at again once this many bytes have come.
            if stop > size:
                self._needed = stop - at
                return at
            at = stop
        self._needed = 0
        return at

    def _cut_other(self, buffer: bytes, at: int, cut: Cut) -> int:
        """Handle a command that is no plain message; return where it ends, or beyond the buffer."""
        line_end = buffer.find(_END, at, at + MAX_LINE_BYTES)
        if line_end < 0:
            if len(buffer) - at >= MAX_LINE_BYTES:
                raise BadDataError(f"the NATS server sent a line over {MAX_LINE_BYTES} bytes")
            return len(buffer) + 1
        start = line_end + len(_END)
        head = _head(buffer[at:line_end])
        if head is None:
            cut.others.append(buffer[at:start])
            return start
        stop = start + _bounded(head.payload_bytes) + len(_END)
        if stop <= len(buffer):
            if head.header_bytes is not None and head.sid in self._taps:
                body = buffer[start : stop - 2]
                header, payload = body[: head.header_bytes], body[head.header_bytes :]
                status = _STATUS(header)
                # Publishers may write such a header too; a stream's messages have a reply.
                if status is not None and not payload and not head.reply:
                    text = status[2].decode("utf-8", "replace")
                    cut.statuses.append(
                        (head.sid, Status(head.subject.decode(), int(status[1]), text))
                    )
                else:
                    cut.frames.setdefault(head.sid, []).append((head.subject, head.reply, payload))
            else:
                cut.others.append(buffer[at:stop])
        return stop


def _bounded(payload_bytes: int) -> int:
    if not 0 <= payload_bytes <= MAX_PAYLOAD_BYTES:
        raise BadDataError(f"the NATS server announced a message of {payload_bytes} bytes")
    return payload_bytes


class _Head(NamedTuple):
    """The line of a message; `payload_bytes` with its headers, which a plain one has not."""

    subject: bytes
    sid: bytes
    reply: bytes
    header_bytes: int | None
    payload_bytes: int


def _head(line: bytes) -> _Head | None:
    """Read the line of a message; None for any other. Raises ValueError for a number that is none.

    By words: a pattern that allows for blanks and a missing reply tries every way to share a line
    of blanks between them, which takes hours.
    """
    # A bound, so that a line of a megabyte of blanks makes no million words.
    command, *words = line.split(None, _MAX_WORDS) or [b""]
    sizes = _SIZES.get(command, 0)
    if not sizes or not 2 + sizes <= len(words) <= 3 + sizes:
        return None
    subject, sid, *reply = words[:-sizes]
    headers = int(words[-2]) if sizes == 2 else None
    return _Head(subject, sid, b"".join(reply), headers, int(words[-1]))
