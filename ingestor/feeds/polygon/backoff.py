"""How long to wait before the next attempt to have a socket."""

from __future__ import annotations

from collections.abc import Callable

from ingestor.feeds.polygon.limits import SessionLimits


class Backoff:
    """Delays between attempts: doubling with jitter, but flat for a while where nobody listens.

    A host that is not found, does not listen or is only answered for (HTTP 503) is hardly burdened
    by another attempt, and a feed that asks often is back soon after the host is. So such attempts
    lie at most `unreachable_delay_ns` apart until `unreachable_patience_ns` have passed, and make
    no other delay longer. Whatever else fails costs the vendor something and backs off.
    `random` yields floats in [0, 1).
    """

    def __init__(self, random: Callable[[], float], limits: SessionLimits) -> None:
        self._random = random
        self._limits = limits
        self._failures = 0
        self._unreachable_since_ns: int | None = None

    def refill(self) -> None:
        """Begin again with the shortest delay."""
        self._failures = 0

    def reached(self) -> None:
        """Somebody is there: what comes later is another outage."""
        self._unreachable_since_ns = None

    def next_delay_ns(self) -> int:
        """Return a delay between half of the full one and all of it; the next is longer."""
        full_ns = min(self._limits.backoff_base_ns << self._failures, self._limits.backoff_cap_ns)
        self._failures += full_ns < self._limits.backoff_cap_ns
        return self._jittered(full_ns)

    def next_delay_unreachable_ns(self, now_ns: int) -> int:
        """As `next_delay_ns`, after an attempt that reached nobody."""
        if self._unreachable_since_ns is None:
            self._unreachable_since_ns = now_ns
        if now_ns - self._unreachable_since_ns >= self._limits.unreachable_patience_ns:
            return self.next_delay_ns()
        return self._jittered(self._limits.unreachable_delay_ns)

    def _jittered(self, full_ns: int) -> int:
        return full_ns // 2 + int(full_ns // 2 * self._random())
