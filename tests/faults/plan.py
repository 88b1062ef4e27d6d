"""Which faults come when: all of it from a seed, so that a campaign can be had again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

KILL: Final = "kill"
"""SIGKILL. A server and a whole run are started again after a while."""
STOP: Final = "stop"
"""SIGSTOP for good: the run has to notice."""
PAUSE: Final = "pause"
"""SIGSTOP, and SIGCONT after a while."""
DROP: Final = "drop"
"""The vendor cuts the connections of both markets."""
REFUSE: Final = "refuse"
"""And takes no new ones for a while."""
HALF_OPEN: Final = "half-open"
"""The vendor's connections stay, and nothing comes or is answered any more."""
SLOW: Final = "slow"
"""The vendor lets its bytes trickle for a while, slower than they come."""
FULL: Final = "disk full"
"""The server's disk has no room for a while; the server is then started again, as it asks for."""

VENDOR: Final = "vendor"
NATS: Final = "nats"
RUN: Final = "run"
"""The supervisor, and with it all processes."""

SEVERAL_SHARE: Final = 0.3
"""Of the rounds that have two or three faults at once."""
LONGEST_S: Final = {KILL: 3.0, STOP: 0.0, PAUSE: 3.0, DROP: 0.0, REFUSE: 2.0} | {
    HALF_OPEN: 0.0,
    SLOW: 2.0,
    FULL: 3.0,
}
"""A pause is shorter than the silence after which a process is given up."""
WITHIN_S: Final = 0.3
"""Faults at once begin within this time."""


@dataclass(frozen=True)
class Fault:
    """One fault; it begins `at_s` after its round has, and lasts `for_s` where it ends at all."""

    target: str
    how: str
    at_s: float = 0.0
    for_s: float = 0.0

    @property
    def label(self) -> str:
        """What it is counted as."""
        return f"{self.target} {self.how}"

    @property
    def is_death(self) -> bool:
        """Whether the process is to be another one afterwards."""
        return self.how in (KILL, STOP)


@dataclass(frozen=True)
class Round:
    """Faults at once, and how long nothing happens before."""

    pause_s: float
    faults: tuple[Fault, ...]


def rounds(
    seed: int, targets: Mapping[str, Sequence[str]], pauses_s: tuple[float, float] = (0.1, 1.5)
) -> Iterator[Round]:
    """Yield rounds for ever; `targets` says what may happen to whom."""
    rng = random.Random(seed)
    while True:
        pause_s = rng.uniform(*pauses_s)
        several = len(targets) > 1 and rng.random() < SEVERAL_SHARE
        count = min(rng.randint(2, 3), len(targets)) if several else 1
        faults = []
        for number, target in enumerate(rng.sample(list(targets), count)):
            how = rng.choice(targets[target])
            at_s = rng.uniform(0, WITHIN_S) if number else 0.0
            faults.append(Fault(target, how, at_s, rng.uniform(0, LONGEST_S[how])))
        yield Round(pause_s, tuple(faults))
