"""One feed's conversation with the vendor, over as many sockets as it takes, without any I/O.

The driver owns the socket and the clock. It tells the session what happened (`on_open`,
`on_statuses`, `on_close`, `on_tick`) and carries out, in order, what comes back: `Send` a text,
`Close` the socket, `Reconnect` at a time, `Report` to the log; `Fail` is the end of the feed.

    WAITING --open--> GREETING --"connected", send auth--> AUTHENTICATING
    --"auth_success", send subscriptions--> STREAMING --close, by whomever--> WAITING

Only `on_close` asks for another socket, so there are never two, and every end of a socket is
treated alike: clean, torn or never opened. The vendor replays nothing and remembers nothing:
each socket is authenticated and subscribed from the start. An eviction (`max_connections`) may
come seconds after everything was acknowledged, so the delays between attempts begin anew only
when a socket has streamed for `SessionLimits.survival_ns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.feeds.polygon.subscriptions import (
    Close,
    Command,
    Fail,
    Reconnect,
    Report,
    ReportKind,
    Subscriptions,
    auth,
)
from ingestor.model.bounds import printable, without
from ingestor.model.units import NS_PER_S

OUT_OF_TURN: Final = frozenset(("connected", "auth_success"))
"""Statuses that mean nothing but at their moment of the handshake."""

MAX_UNKNOWN_STATUSES: Final = 64
CLOSE_POLICY: Final = 1008
"""The close code of an eviction."""


class Phase(StrEnum):
    """Where the conversation stands."""

    WAITING = "waiting"
    GREETING = "greeting"
    AUTHENTICATING = "authenticating"
    STREAMING = "streaming"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How long things may take in the conversation with the vendor, and how often it is begun.

    Attributes:
        handshake_ns: From an open socket to ``auth_success``; then the socket is given up.
        ack_ns: From a subscription to its acknowledgement; then there is an alarm.
        unfollowed_ns: How long an options feed may stream in an open market and follow no
            contract; then there is an alarm.
        survival_ns: A socket that streamed this long resets the delays between attempts.
        cool_down_ns: After an eviction; two processes with one key would else evict each other
            for ever.
        backoff_base_ns: The first delay between two attempts; each further one is doubled.
        backoff_cap_ns: The longest delay between two attempts.
        unreachable_delay_ns: The delay where nobody is there, which costs the vendor nothing.
        unreachable_patience_ns: How long that delay holds; then it doubles like the others.
    """

    handshake_ns: int = 10 * NS_PER_S
    ack_ns: int = 10 * NS_PER_S
    unfollowed_ns: int = 60 * NS_PER_S
    survival_ns: int = 10 * NS_PER_S
    cool_down_ns: int = 60 * NS_PER_S
    backoff_base_ns: int = NS_PER_S // 2
    backoff_cap_ns: int = 30 * NS_PER_S
    unreachable_delay_ns: int = 3 * NS_PER_S // 4
    unreachable_patience_ns: int = 300 * NS_PER_S


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
        # The shift cannot overflow: failures stop counting at the cap.
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
        # Jitter of half the delay: many clients that were cut at once must not return at once.
        return full_ns // 2 + int(full_ns // 2 * self._random())


class Session:
    """The state machine. `names` are channels such as ``T.SPY``.

    Attributes:
        subscriptions: What is wanted and what was granted; more may be wanted at any time.
    """

    def __init__(
        self,
        api_key: str,
        names: Iterable[str],
        *,
        random: Callable[[], float],
        limits: SessionLimits | None = None,
    ) -> None:
        self._api_key = api_key
        self._limits = limits or SessionLimits()
        self.subscriptions = Subscriptions(names, self._limits.ack_ns)
        self._backoff = Backoff(random, self._limits)
        self.phase = Phase.WAITING
        """Where the conversation stands."""
        self._opened_ns = 0
        self._streaming_ns: int | None = None
        self._evicted = False
        self._unknown: set[str] = set()

    def on_open(self, now_ns: int) -> tuple[Command, ...]:
        """A socket is open; the server is to greet first."""
        # Stopped while a socket was being opened: it is not needed any more.
        if self.phase is Phase.ENDED:
            return (Close(),)
        self.phase, self._opened_ns = Phase.GREETING, now_ns
        self._backoff.reached()
        return ()

    def on_statuses(self, statuses: Sequence[StatusMessage], now_ns: int) -> tuple[Command, ...]:
        """Status elements arrived, alone or inside a data frame.

        What they say is made fit to be shown here, once: on one line, cut, and without the key.
        """
        commands: list[Command] = []
        # The vendor may echo what it was sent, and what it was sent first is the key.
        for status in statuses:
            said = StatusMessage(self._shown(status.status), self._shown(status.text))
            commands += self._ended_if_failed(self._on_status(said, now_ns))
        return tuple(commands)

    def on_close(self, now_ns: int, cause: str, code: int | None = None) -> tuple[Command, ...]:
        """The socket is gone, by whomever and however, or a reached host did not open one."""
        if self.phase is Phase.ENDED:
            return ()
        survived = self._streaming_ns is not None and (
            now_ns - self._streaming_ns >= self._limits.survival_ns
        )
        # Not on ``auth_success``: an eviction comes 1 to 2 s after it.
        if survived:
            self._backoff.refill()
        self._backoff.reached()
        evicted = self._evicted or code == CLOSE_POLICY
        # The close code alone tells an eviction whose status was lost with the socket.
        cool_down_ns = self._limits.cool_down_ns if evicted else 0
        self.phase, self._streaming_ns, self._evicted = Phase.WAITING, None, False
        self.subscriptions.forget_socket()
        return (Reconnect(now_ns + self._backoff.next_delay_ns() + cool_down_ns, cause),)

    def on_unreachable(self, now_ns: int, cause: str) -> tuple[Command, ...]:
        """There was no socket, since there was nobody to open one."""
        if self.phase is Phase.ENDED:
            return ()
        return (Reconnect(now_ns + self._backoff.next_delay_unreachable_ns(now_ns), cause),)

    def on_tick(self, now_ns: int) -> tuple[Command, ...]:
        """Time has passed; once a second is often enough."""
        if self.phase is Phase.STREAMING:
            return self._ended_if_failed(self.subscriptions.on_tick(now_ns))
        shaking_hands = self.phase in (Phase.GREETING, Phase.AUTHENTICATING)
        if shaking_hands and now_ns - self._opened_ns >= self._limits.handshake_ns:
            limit_s = self._limits.handshake_ns / NS_PER_S
            text = f"no handshake within {limit_s:g} s ({self.phase})"
            return self._give_up(ReportKind.HANDSHAKE, text)
        return ()

    def stop(self) -> tuple[Command, ...]:
        """End the feed; a close frame tells the server that the connection's place is free."""
        has_socket = self.phase not in (Phase.WAITING, Phase.ENDED)
        self.phase = Phase.ENDED
        self.subscriptions.forget_socket()
        return (Close(),) if has_socket else ()

    def _on_status(self, status: StatusMessage, now_ns: int) -> tuple[Command, ...]:
        # What comes after our close frame answers a conversation that is over.
        if self.phase in (Phase.WAITING, Phase.CLOSING, Phase.ENDED):
            return ()
        commands: tuple[Command, ...] = ()
        match status.status:
            case "connected" if self.phase is Phase.GREETING:
                self.phase = Phase.AUTHENTICATING
                commands = (auth(self._api_key),)
            case "auth_success" if self.phase is Phase.AUTHENTICATING:
                self.phase, self._streaming_ns = Phase.STREAMING, now_ns
                commands = self.subscriptions.begin(now_ns)
            # One per name; answers to names may come in any order, several in one frame.
            case "success":
                commands = self.subscriptions.on_success(status.text)
            case "error":
                commands = self.subscriptions.on_error(status.text)
            # A wrong key stays wrong: nothing is gained by another attempt.
            case "auth_failed":
                commands = (Fail(f"the vendor refuses the API key: {status.text}"),)
            case "auth_timeout":
                commands = self._give_up(ReportKind.HANDSHAKE, status.text)
            case "max_connections":
                self._evicted = True
                commands = self._give_up(ReportKind.EVICTED, status.text)
            case unknown if unknown not in OUT_OF_TURN:
                commands = self._on_unknown(status)
        return commands

    def _ended_if_failed(self, commands: tuple[Command, ...]) -> tuple[Command, ...]:
        # The phase ends here, before the driver has closed anything: nothing more is sent.
        failed = any(isinstance(command, Fail) for command in commands)
        return (*commands, *self.stop()) if failed else commands

    def _give_up(self, kind: ReportKind, text: str) -> tuple[Command, ...]:
        self.phase = Phase.CLOSING
        self.subscriptions.forget_socket()
        return (Report(kind, text), Close())

    def _shown(self, text: str) -> str:
        return printable(without(text, self._api_key))

    def _on_unknown(self, status: StatusMessage) -> tuple[Command, ...]:
        known = status.status in self._unknown
        # Bounded, since the vendor chooses the words.
        if known or len(self._unknown) >= MAX_UNKNOWN_STATUSES:
            return ()
        self._unknown.add(status.status)
        text = f"unknown status {status.status!r}: {status.text}"
        return (Report(ReportKind.UNKNOWN_STATUS, text),)
