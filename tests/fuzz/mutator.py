"""Sound samples made hostile: one input is a function of samples, seed and number alone.

Half of what breaks a parser is a number where it looks for a size, so integers are overwritten at
any offset and width by the values at the ends of types; in texts whole tokens are replaced, which
keeps the rest readable. The other half is the end coming early, and parts of another sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

MAX_INPUT_BYTES: Final = 64 * 1024
"""Longest input; what takes long here takes longer than its length allows."""

EDGES: Final = sorted(
    {
        sign * (1 << bits) + step
        for bits in (0, 3, 7, 8, 15, 16, 24, 31, 32, 51, 53, 62, 63, 64)
        for step in (-1, 0, 1)
        for sign in (1, -1)
    }
)
"""Integers around which types, doubles and sentinels end."""

NUMBERS: Final = (
    *(str(edge).encode() for edge in EDGES),
    *(
        b"-0",
        b"0.0",
        b"1e400",
        b"-1e400",
        b"1e-400",
        b"1e18",
        b"1E+9",
        b"0x10",
        b"01",
        b"1.",
        b".5",
    ),
    *(b"0.1234567891234", b"1765895400001.5", b"253402300800000", b"10000000000000", b"1e9999999"),
    *(b"NaN", b"Infinity", b"-", b"9" * 400, b"9" * 5000, b"0." + b"1" * 5000, b"1_000", b"+1"),
)
VALUES: Final = (
    *(b"null", b"true", b"[]", b"{}", b'""', b"[[1]]", b'{"a":1}', b'"\\ud800"', b'"\\u0000"'),
    *(b'"\xff"', b'"a\nb"', b'"\\u001b[2K"', b'"' + b"x" * 72 + b'"', b'"' + b"y" * 300 + b'"'),
    *(b'"\xc3\xa9' * 1 + b"\xf0\x9f\x92\xa9" * 20 + b'"', b"[" * 60, b"[" * 3000, b'{"a":' * 2000),
    *(
        b"1,1,1,1,1",
        b"'x'",
        b"1979-05-27T07:32:00Z",
        b"0001-01-01",
        b'"9999-12-31"',
        b'"0000-00-00"',
    ),
)
TEXTS: Final = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\r\n",
    b"\x1b]0;x\x07",
)

_TOKEN: Final = re.compile(rb'-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|"(?:[^"\\]|\\.)*"|true|false|null')

Step = Callable[[Random, bytes], bytes]
Span = tuple[int, int]


class Mutator:
    """Makes inputs out of samples; `text` replaces tokens of JSON and TOML too."""

    def __init__(self, samples: Sequence[bytes], *, text: bool) -> None:
        self._samples = samples
        self._tokens = [_tokens(sample) if text else [] for sample in samples]
        self._splice: Step = lambda rng, data: _spliced(rng, data, rng.choice(samples))

    def make(self, rng: Random) -> bytes:
        """Return the input that `rng`, freshly seeded, stands for."""
        at = rng.randrange(len(self._samples))
        data = self._samples[at]
        if self._tokens[at] and rng.random() < 0.8:
            data = _replaced(rng, data, self._tokens[at])
            steps = rng.choice((0, 0, 0, 1))
        else:
            steps = rng.choice((0, 1, 1, 1, 2, 4))
        for _ in range(steps):
            data = (rng.choice(_STEPS) if rng.random() < 0.9 else self._splice)(rng, data)
        return data[:MAX_INPUT_BYTES]


def _tokens(sample: bytes) -> list[Span]:
    return [found.span() for found in _TOKEN.finditer(sample)]


def _replaced(rng: Random, data: bytes, tokens: Sequence[Span]) -> bytes:
    for _ in range(rng.choice((1, 1, 2))):
        start, stop = rng.choice(tokens)
        is_number = data[start : start + 1].isdigit() or data[start : start + 1] == b"-"
        pool = NUMBERS if is_number == (rng.random() < 0.7) else VALUES
        changed = data[:start] + rng.choice(pool) + data[stop:]
        if len(changed) != len(data):
            return changed  # the other spans no longer hold
        data = changed
    return data


def _spliced(rng: Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(rng, other)
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[start:stop] + data[at:]


def _span(rng: Random, data: bytes) -> Span:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 400, 4000)))


def _flip(rng: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _edge(rng: Random, data: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 4, 8, 8))
    at = rng.randrange(len(data) + 1)
    at -= at % rng.choice((1, width))
    value = rng.choice(EDGES) & (1 << 8 * width) - 1
    order = "little" if rng.random() < 0.8 else "big"
    return data[:at] + value.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: Random, data: bytes) -> bytes:
    start, stop = _span(rng, data)
    return data[:start] + data[stop:]


def _repeat(rng: Random, data: bytes) -> bytes:
    start, stop = _span(rng, data)
    times = rng.choice((1, 1, 2, 8, 64, 1000))
    return data[:stop] + data[start:stop] * times + data[stop:]


def _insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    piece = rng.randbytes(rng.randrange(9)) if rng.random() < 0.5 else rng.choice(TEXTS)
    return data[:at] + piece + data[at:]


_STEPS: Final[Sequence[Step]] = (_flip, _edge, _edge, _cut, _drop, _repeat, _insert)
