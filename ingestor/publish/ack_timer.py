"""When to ask what is stored, when to reconcile, and how long to bear it. No clock is read here.

The stream acknowledges every N messages by itself: the *flow* of a batch, which follows the
pace, so that acknowledgements come about as often as anybody wants to know: every message of a
quiet feed, one in hundreds of a busy one. What is left is the tail of a burst, shorter than the
flow. What was under way at a mark is due one delay later; if it is not acknowledged by then, and
nothing else was acknowledged just now, the stream's leader is asked where the stream ends. That is
a question to JetStream's API: nothing is sent that a subscriber could take for an event.

Where an acknowledgement must come without asking, the delay is the longest there is. When nothing
at all is acknowledged for that long, though it was asked for, its leader may be gone.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

ACK_DELAY_S: Final = 0.02
"""What was sent this long ago and is not acknowledged is asked for."""

MAX_ACK_DELAY_S: Final = 1.0
"""What is under way may be unacknowledged for this long however far or busy the server is."""

ROUND_TRIPS: Final = 4
"""The delay is at least this many times what the last answer took, up to `MAX_ACK_DELAY_S`."""

IDLE_S: Final = 1.0
"""A feed that sends nothing for this long rests."""

RETRY_S: Final = 0.1
"""Pause before trying again what has just failed."""

MAX_RETRY_S: Final = 2.0
"""Longest pause before a stream that was full is tried again; each attempt sends an event."""

MAX_REFUSALS: Final = 2
"""A refusal that repeats itself while nothing is stored is the stream's own."""


class AckAction(Enum):
    """What to do now."""

    REST = "rest"
    WAIT = "wait"
    ASK = "ask"
    RECONCILE = "reconcile"


class AckTimer:
    """Watches progress by two counts: messages sent, and messages acknowledged."""

    def __init__(self) -> None:
        self._ack_delay_s = ACK_DELAY_S
        self._mark = 0
        self._mark_s = 0.0
        self._acked = 0
        self._progress_s = 0.0
        self._busy_s = 0.0
        self.messages_per_s = 0.0
        """Pace between the last two marks."""

    def start(self, sent: int, acked: int, now_s: float) -> float:
        """Mark what is under way; return in how many seconds to poll."""
        self._acked = acked
        self._progress_s = self._busy_s = now_s
        return self._set_mark(sent, now_s)

    def poll(
        self, sent: int, acked: int, now_s: float, *, coming: bool = False
    ) -> tuple[AckAction, float]:
        """Return what to do, and in how many seconds to poll again.

        `coming` says that an acknowledgement is under way for which nobody has to ask.
        """
        nothing_owed = acked >= sent
        if acked != self._acked or nothing_owed:
            self._acked, self._progress_s = acked, now_s
        # A mark above what was sent is of messages that were taken back meanwhile.
        if acked < self._mark <= sent:
            still_s = now_s - self._progress_s
            if still_s >= MAX_ACK_DELAY_S:
                return AckAction.RECONCILE, self._ack_delay_s
            # Where something was acknowledged just now, the rest is probably on its way.
            ask = still_s > 0 and not coming
            return AckAction.ASK if ask else AckAction.WAIT, self._ack_delay_s
        if sent != self._mark:
            self._busy_s = now_s
        # A timer that fires early must not make a burst look like a pace without end.
        elapsed_s = max(now_s - self._mark_s, ACK_DELAY_S / 2)
        self.messages_per_s = max(sent - self._mark, 0) / elapsed_s
        idle = nothing_owed and now_s - self._busy_s >= IDLE_S
        return AckAction.REST if idle else AckAction.WAIT, self._set_mark(sent, now_s)

    def answered(self, took_s: float) -> None:
        """Note how long an answer took: a distant or busy server is given more time."""
        self._ack_delay_s = max(ACK_DELAY_S, min(ROUND_TRIPS * took_s, MAX_ACK_DELAY_S / 2))

    def _set_mark(self, sent: int, now_s: float) -> float:
        self._mark, self._mark_s = sent, now_s
        return self._ack_delay_s


class Stall:
    """Something is due and nothing is stored: since when, why, and when it is tried again."""

    def __init__(self) -> None:
        self.since_s: float | None = None
        """When it was first noticed, by the caller's clock."""
        self.reason = ""
        """Why, in the words of whoever refused last."""
        self.pause_s = 0.0
        """To be waited before the next attempt; none before the first."""
        self._refusals = 0

    def end(self) -> None:
        """Note that something has been stored."""
        self.since_s, self.reason, self.pause_s, self._refusals = None, "", 0.0, 0

    def lasts_s(self, now_s: float, *, due: bool) -> float:
        """Return for how long it has lasted; what is not due cannot be late."""
        if not due:
            self.since_s = None
            return 0.0
        if self.since_s is None:
            self.since_s = now_s
        return now_s - self.since_s

    def note_attempt(self) -> None:
        """Note that an attempt begins: the next one is not made at once."""
        self.pause_s = max(self.pause_s, RETRY_S)

    def slow_down(self) -> bool:
        """Have a full stream tried more and more rarely; True the first time."""
        first = self.pause_s <= RETRY_S
        self.pause_s = min(2 * self.pause_s, MAX_RETRY_S)
        return first

    def is_refused_again(self) -> bool:
        """Count a refusal that trying again may not help; True when it has repeated itself."""
        self._refusals += 1
        return self._refusals >= MAX_REFUSALS
