"""Every bound on what comes from outside, in one place, and how foreign text is shown.

What a vendor, a server, a file or an operator sends is checked against these where it comes in, so
that records, ring, encoders and publisher never meet what does not fit them. Bounds that only one
format can have stand beside its reader; whatever two readers share stands here.

A value out of bounds is dropped by itself, never with its frame, file or run. It is counted by
cause and logged once.
"""

from __future__ import annotations

import re
from typing import Final

from ingestor.model.units import INT64_MAX

MAX_SYMBOL_BYTES: Final = 71
"""DBN's own bound: `SYMBOL_CSTR_LEN` is 71 with its final zero in version 2 and later. In UTF-8."""

MAX_TIME_NS: Final = INT64_MAX
"""The last int64 nanosecond, in the year 2262, where every consumer's int64 ends."""

MAX_LINE_CHARS: Final = 1_000
"""A line of the log is cut here."""

MAX_TEXT_CHARS: Final = 240
"""Foreign text in our messages is cut to this length: a server's reason, a sample of a message."""

MAX_JSON_EVENT_BYTES: Final = 4_096
"""No event as JSON is longer: at most 2 KiB of numbers, and its symbol, escaped, up to twice."""

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
"""Largest payload that a NATS server can be configured to carry."""

_UNPRINTABLE: Final = re.compile(
    r"[^\S ]|[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_HIDDEN: Final = "(hidden)"
_TELLTALE_CHARS: Final = 4
"""Shortest prefix of a secret that is hidden as well, in case the rest was cut off."""

_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"


def is_symbol(text: str) -> bool:
    """Whether it can be a symbol: 1 to `MAX_SYMBOL_BYTES` bytes of UTF-8, none of them zero."""
    try:
        return 0 < len(text.encode()) <= MAX_SYMBOL_BYTES and "\0" not in text
    except UnicodeEncodeError:
        return False


def printable(text: str | bytes, limit: int = MAX_TEXT_CHARS) -> str:
    r"""Return foreign text as it may stand in a line: one line, no control characters, cut.

    Characters that move a cursor, break a line or turn its direction are shown as escapes. What is
    longer than `limit` characters ends with an ellipsis.

    >>> printable("a\nb\x1b[2K"), printable("abcdef", 4)
    ('a\\nb\\x1b[2K', 'abc…')
    """
    if isinstance(text, bytes):
        # A character has at most four bytes in UTF-8; a vendor's frame may have a megabyte.
        text = text[: 4 * limit].decode(errors="replace")
    shown = _UNPRINTABLE.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}{_ELLIPSIS}"


def without(text: str, secret: str) -> str:
    """Return text in which a secret, also one that was cut by `printable`, is not shown.

    >>> without("key abcdefgh, again abcdef…", "abcdefgh")
    'key (hidden), again (hidden)…'
    """
    if not secret:
        return text
    text = text.replace(secret, _HIDDEN)
    if _ELLIPSIS not in text:
        return text
    # Longest first, else a short beginning would leave the rest of it standing.
    for chars in range(len(secret) - 1, _TELLTALE_CHARS - 1, -1):
        text = text.replace(f"{secret[:chars]}{_ELLIPSIS}", f"{_HIDDEN}{_ELLIPSIS}")
    return text


def without_logins(text: str) -> str:
    """Return text in which no word shows what stands before an ``@``, as secrets do in a URL.

    >>> without_logins("unrecognized arguments: --natss nats://me:secret@host")
    'unrecognized arguments: --natss (hidden)@host'
    """
    # Up to the last @ of a word: a password may hold one too.
    return re.sub(r"\S*@", f"{_HIDDEN}@", printable(text, MAX_LINE_CHARS))
