"""Every target by its name, and four that misbehave, so that the kit is seen to notice."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.fuzz import consumers, feeds, journals, servers
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Callable[[Path], Target]]] = {
    make.__name__: make
    for make in (
        *(feeds.dbn_header, feeds.dbn_trades, feeds.dbn_depth, feeds.symbology),
        *(feeds.stock_frames, feeds.option_frames, feeds.session, feeds.ticker),
        *(journals.journal, consumers.packed, consumers.json_events, consumers.statuses),
        *(consumers.wire, servers.answers, servers.ledger, servers.ring),
        *(servers.configuration, servers.url),
    )
}

_kept: list[bytes] = []


def crashing(_folder: Path) -> Target:
    """Ends its process on every third input."""
    return _evil(lambda data: signal.raise_signal(signal.SIGKILL) if len(data) % 3 == 0 else None)


def hanging(_folder: Path) -> Target:
    """Never ends, in Python."""

    def run(_data: bytes) -> None:
        while True:
            pass

    return _evil(run)


def stuck(_folder: Path) -> Target:
    """Never ends, in a call that no signal interrupts."""

    def run(_data: bytes) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
        ctypes.CDLL(None).pause()

    return _evil(run)


def growing(_folder: Path) -> Target:
    """Keeps ten megabytes of every input."""
    return _evil(lambda _data: _kept.append(bytes(range(250)) * 40_000))


def _evil(run: Callable[[bytes], None]) -> Target:
    return Target(samples=[b""], run=run, finish=lambda rng, _: bytes(rng.randrange(9)))


EVIL: Final[dict[str, Callable[[Path], Target]]] = {
    make.__name__: make for make in (crashing, hanging, stuck, growing)
}
