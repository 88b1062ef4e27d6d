"""When to ask for an acknowledgement, and when to take silence for an end. No clock is read here.

What was under way at a mark is due one delay later. If it is acknowledged by then the mark moves
on; if not, and nothing else was acknowledged just now, the stream is asked. To ask means to let
all run dry that is under way, and at full speed that is more than is stored in one delay; so where
an acknowledgement must come without asking, the delay is the longest there is. When nothing at all
is acknowledged for long, the server is taken for gone. How much was sent between marks tells the
pace, so that acknowledgements can be had about as often as anybody wants to know: every message of
a quiet feed, one in hundreds of a busy one.
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
"""A feed that sends nothing for this long rests; the server forgets a batch after ten times it."""

SILENCE_S: Final = 10.0
"""A server that acknowledges nothing for this long while something is due is taken for gone."""


class Verdict(Enum):
    """What to do now."""

    REST = "rest"
    WAIT = "wait"
    ASK = "ask"
    GIVE_UP = "give up"


class Patience:
    """Judges progress by two counts: messages sent, and messages acknowledged."""

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._ack_delay_s = ACK_DELAY_S
        self._mark = 0
        self._mark_s = 0.0
        self._acked = 0
        self._progress_s = 0.0
        self._busy_s = 0.0
        self._asked_s: float | None = None
        self.messages_per_s = 0.0
        """Pace between the last two marks."""

    def start(self, sent: int, acked: int, now_s: float) -> float:
        """Mark what is under way; return in how many seconds to judge."""
        self._asked_s = None
        self._acked = acked
        self._progress_s = self._busy_s = now_s
        return self._set_mark(sent, now_s)

    def judge(
        self, sent: int, acked: int, now_s: float, *, coming: bool = False
    ) -> tuple[Verdict, float]:
        """Return what to do, and in how many seconds to judge again.

        `coming` says that an acknowledgement is under way for which nobody has to ask.
        """
        nothing_owed = acked == sent and self._asked_s is None
        if acked != self._acked or nothing_owed:
            self._acked, self._progress_s = acked, now_s
        left_s = self._progress_s + self._silence_s - now_s
        if left_s <= 0:
            return Verdict.GIVE_UP, 0.0
        if acked < self._mark <= sent:
            if self._asked_s is not None:
                return Verdict.WAIT, left_s
            still_s = now_s - self._progress_s
            if still_s > (MAX_ACK_DELAY_S if coming else 0.0):
                return Verdict.ASK, left_s
            return Verdict.WAIT, self._ack_delay_s
        self._measure(sent, now_s)
        idle = nothing_owed and now_s - self._busy_s >= IDLE_S
        return Verdict.REST if idle else Verdict.WAIT, self._set_mark(sent, now_s)

    def _measure(self, sent: int, now_s: float) -> None:
        if sent != self._mark:
            self._busy_s = now_s
        elapsed_s = max(now_s - self._mark_s, ACK_DELAY_S / 2)
        self.messages_per_s = max(sent - self._mark, 0) / elapsed_s

    def _set_mark(self, sent: int, now_s: float) -> float:
        self._mark, self._mark_s = sent, now_s
        return self._ack_delay_s

    def asked(self, now_s: float) -> None:
        """Note that the stream was asked."""
        self._asked_s = now_s

    def answered(self, now_s: float) -> None:
        """Note that it answered: a distant or busy server is given more time from now on."""
        if self._asked_s is not None:
            took_s = now_s - self._asked_s
            self._ack_delay_s = max(ACK_DELAY_S, min(ROUND_TRIPS * took_s, MAX_ACK_DELAY_S))
            self._asked_s = None
