"""Rows of phrases: thousands of JSON events written at once, without a Python object for any.

Theory. An event is a row of bytes of fixed width. Its layout is a template of literal text with
holes, and a hole is filled for all rows of a batch together: a number four digits at a time out
of a table of 10,000 four-byte words, a choice (conditions, sizes, tickers) out of a table of
texts. Whatever a row does not use is NUL, which JSON text never holds: leading zeros, trailing
zeros, an absent key, the end of a short row. Deleting the NULs (`bytes.translate`, one pass in C)
turns any run of rows into compact JSON. Everything is padded to whole words of four bytes, so a
batch is a matrix of uint32 and filling a hole is a gather and a strided store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]

WORD_BYTES: Final = 4
DIGITS_PER_WORD: Final = 4
WORD_BASE: Final = 10**DIGITS_PER_WORD
MILLS_PER_UNIT: Final = 1_000
"""Prices count thousandths, so that the midpoint of a one-cent spread is exact."""

_NUL: Final = "\0"


def words_of(texts: Sequence[str]) -> Words:
    """Return ASCII texts as a (len(texts), words) matrix, padded with NUL to the longest."""
    width = -(-max(map(len, texts)) // WORD_BYTES) * WORD_BYTES
    packed = "".join(text.ljust(width, _NUL) for text in texts).encode("ascii")
    return np.frombuffer(packed, np.uint32).reshape(len(texts), width // WORD_BYTES)


def _digit_words(zero: str) -> Words:
    """Words for 0..9999 without leading zeros, then for the same numbers with them."""
    bare = [zero, *map(str, range(1, WORD_BASE))]
    texts = [text.rjust(DIGITS_PER_WORD, _NUL) for text in bare]
    texts += [f"{number:04d}" for number in range(WORD_BASE)]
    return words_of(texts)[:, 0]


_INNER_WORDS: Final = _digit_words(zero="")
_LAST_WORDS: Final = _digit_words(zero="0")
_FRACTION_WORDS: Final = words_of(
    [f".{mills:03d}".rstrip("0").rstrip(".") for mills in range(1000)]
)


class Hole(Protocol):
    """A place in a layout: how many words it takes, and how it is filled."""

    @property
    def words(self) -> int:
        """Width in words."""

    def fill(self, target: Words, values: Ints) -> None:
        """Write one value a row into target, shape (rows, words)."""


class Number:
    """A non-negative integer of at most ``digits`` digits."""

    def __init__(self, digits: int) -> None:
        self.words = -(-digits // DIGITS_PER_WORD)

    def fill(self, target: Words, values: Ints) -> None:
        """Write decimal digits without leading zeros."""
        table = _LAST_WORDS
        for word in reversed(range(self.words)):
            high = values // WORD_BASE
            target[:, word] = table[values - high * WORD_BASE + WORD_BASE * (high > 0)]
            values, table = high, _INNER_WORDS


class Price:
    """A price in mills (thousandths), as the vendor writes it: 686, 686.1, 686.015."""

    _whole: Final = Number(8)
    words: Final = 3

    def fill(self, target: Words, values: Ints) -> None:
        """Write the shortest decimal."""
        whole = values // MILLS_PER_UNIT
        self._whole.fill(target[:, :2], whole)
        target[:, 2] = _FRACTION_WORDS[values - whole * MILLS_PER_UNIT, 0]


class Choice:
    """One of a few texts; values are their indices. An empty text leaves the hole out."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._table = words_of(texts)
        self.words = self._table.shape[1]

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._table)

    def fill(self, target: Words, values: Ints) -> None:
        """Write the chosen texts."""
        target[:] = self._table[values]


class Layout:
    """Literal text and holes in the order of the row: ``Layout('{"q":', ("q", Number(9)))``."""

    def __init__(self, *parts: str | tuple[str, Hole]) -> None:
        self._holes: dict[str, tuple[slice, Hole]] = {}
        template: list[Words] = []
        at = 0
        for part in parts:
            words = self._part_words(part, at)
            template.append(words)
            at += len(words)
        self._template = np.concatenate(template)

    def _part_words(self, part: str | tuple[str, Hole], at: int) -> Words:
        if isinstance(part, str):
            literal: Words = words_of([part])[0]
            return literal
        name, hole = part
        self._holes[name] = slice(at, at + hole.words), hole
        return np.zeros(hole.words, np.uint32)

    @property
    def width(self) -> int:
        """Words a row takes."""
        return len(self._template)

    def rows(self, values: Mapping[str, Ints]) -> Words:
        """Return filled rows, one for each value; every hole has its values, of one length."""
        count = len(next(iter(values.values())))
        rows = np.empty((count, self.width), np.uint32)
        rows[:] = self._template
        for name, (place, hole) in self._holes.items():
            hole.fill(rows[:, place], values[name])
        return rows


def interleave(count: int, parts: Sequence[tuple[Ints, Words]]) -> Words:
    """Return one matrix of ``count`` rows out of parts, each with the row numbers it goes to."""
    rows = np.zeros((count, max(part.shape[1] for _, part in parts)), np.uint32)
    for index, part in parts:
        rows[index, : part.shape[1]] = part
    return rows


def squeeze(rows: Words) -> bytes:
    """Return the text of rows without their NULs."""
    return rows.tobytes().translate(None, b"\0")
