"""How fast frames of the live vendor are decoded: ``python -m ingestor.bench.polygon_decode``.

Elements per second of one process, best of several passes, for frames of several lengths: one
trade to three quotes, trades only, option trades, and frames that each hold one element of an
unknown kind and are therefore read element by element.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ingestor.feeds.polygon.decode import Decoded, OptionDecoder, StockDecoder

ELEMENTS: Final = 20_000
PASSES: Final = 5
FRAME_ELEMENTS: Final = (1, 5, 20, 100)
START_MS: Final = 1_786_649_956_459
RECV_NS: Final = START_MS * 1_000_000

Element = dict[str, Any]
Decode = Callable[[bytes, int], Decoded]


class Tape:
    """Elements as the vendor sends them, with all their keys."""

    def __init__(self) -> None:
        self._random = random.Random(1)  # noqa: S311
        self._number = 0

    def _common(self, ev: str, symbol: str) -> Element:
        self._number += 1
        ms = START_MS + self._number
        return {"ev": ev, "sym": symbol, "t": ms, "pt": ms - 1, "q": 9_059_424 + self._number}

    def trade(self) -> Element:
        """Return a stock trade."""
        size = self._random.randint(1, 400)
        more: Element = {"i": str(52_983_500_000 + self._number), "x": 11, "z": 2, "c": [14, 41]}
        price = round(680 + self._random.random(), self._random.choice((2, 2, 4)))
        return self._common("T", "SPY") | more | {"p": price, "s": size, "ds": f"{size}.0"}

    def quote(self) -> Element:
        """Return a stock quote."""
        bid = round(680 + self._random.random(), 2)
        more: Element = {"i": [604], "bx": 10, "ax": 15, "z": 2, "bs": 120, "as": 520}
        return self._common("Q", "SPY") | more | {"bp": bid, "ap": bid + 0.01}

    def option_trade(self) -> Element:
        """Return an option trade."""
        strike = self._random.randint(677, 683)
        plain = self._common("T", f"O:SPY251216C00{strike}000") | {"x": 302, "p": 5.5, "s": 1}
        return plain | {"c": [236]}


def frames_of(make: Callable[[int], Element], elements: int) -> list[bytes]:
    """Return frames of `elements` elements each, `ELEMENTS` in all."""
    return [
        msgspec.json.encode([make(number) for number in range(elements)])
        for _ in range(ELEMENTS // elements)
    ]


def rate_of(decode: Decode, frames: list[bytes], elements: int) -> float:
    """Return elements per second."""
    best_s = float("inf")
    for _ in range(PASSES):
        start = time.perf_counter()
        for frame in frames:
            decode(frame, RECV_NS)
        best_s = min(best_s, time.perf_counter() - start)
    return len(frames) * elements / best_s


def main() -> None:
    """Print one line for each kind of frame and each length."""
    tape = Tape()
    kinds: dict[str, tuple[Callable[[int], Element], Decode]] = {
        "stocks, 1 trade to 3 quotes": (
            lambda number: tape.quote() if number % 4 else tape.trade(),
            StockDecoder().decode,
        ),
        "stocks, trades": (lambda _: tape.trade(), StockDecoder().decode),
        "options, trades": (lambda _: tape.option_trade(), OptionDecoder(("SPY",)).decode),
        "stocks, one unknown a frame": (
            lambda number: tape.trade() if number else {"ev": "A"},
            StockDecoder().decode,
        ),
    }
    for name, (make, decode) in kinds.items():
        for elements in FRAME_ELEMENTS:
            rate = rate_of(decode, frames_of(make, elements), elements)
            print(f"{name:28} {elements:4} a frame {rate:12,.0f} elements/s")


if __name__ == "__main__":
    main()
