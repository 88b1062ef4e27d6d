"""Which names are wanted, what the server said to each on this socket, and what may come over it.

Before that, what a session asks its driver to do, and the few texts ever sent to the vendor.

The server acknowledges by name but refuses without one, and says nothing at all to a topic that
it does not know. So a refusal is kept until as few names are unanswered as there were refusals:
those are the ones. What is still open after `ack_limit_ns` is reported, never waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import msgspec

from ingestor.model.units import NS_PER_S

MAX_NAMES_PER_MESSAGE: Final = 100
"""Of one subscribe message, some 2 KB; the vendor publishes no limit."""

CLOSE_NORMAL: Final = 1000
SHOWN_NAMES: Final = 20


class ReportKind(StrEnum):
    """What is reported; all but the first two deserve an alarm and a counter."""

    INFO = "info"
    SETTINGS = "settings"
    NOT_GRANTED = "not_granted"
    NOT_ACKNOWLEDGED = "not_acknowledged"
    EVICTED = "evicted"
    HANDSHAKE = "handshake"
    NOT_FOLLOWED = "not_followed"
    UNKNOWN_STATUS = "unknown_status"


@dataclass(frozen=True, slots=True)
class Send:
    """Send `text` as one text message. The text may hold the key and is never shown.

    `names` are those that it asks for.
    """

    text: str = field(repr=False)
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket with this code; `Session.on_close` is still to be called."""

    code: int = CLOSE_NORMAL


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Open another socket at `at_ns`."""

    at_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class Report:
    """One sentence for the log."""

    kind: ReportKind
    text: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The vendor refuses for good: to be raised as `VendorRefusedError`."""

    text: str


Command = Send | Close | Reconnect | Report | Fail


def auth(api_key: str) -> Send:
    """Return the message that authenticates a socket."""
    return _control("auth", api_key)


def subscription(
    action: Literal["subscribe", "unsubscribe"], names: Sequence[str]
) -> tuple[Send, ...]:
    """Return the messages for these names, `MAX_NAMES_PER_MESSAGE` in each; none for none."""
    chunks = (
        names[first : first + MAX_NAMES_PER_MESSAGE]
        for first in range(0, len(names), MAX_NAMES_PER_MESSAGE)
    )
    asked = action == "subscribe"
    return tuple(
        _control(action, ",".join(chunk), tuple(chunk) if asked else ()) for chunk in chunks
    )


def channel_names(channels: Iterable[str], symbols: Iterable[str]) -> tuple[str, ...]:
    """Return every channel of every symbol, symbol by symbol.

    >>> channel_names(("T", "Q"), ("SPY",))
    ('T.SPY', 'Q.SPY')
    """
    kinds = tuple(channels)
    return tuple(f"{kind}.{symbol}" for symbol in symbols for kind in kinds)


def shown(names: Sequence[str]) -> str:
    """Return names for a sentence, the first `SHOWN_NAMES` of them."""
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _control(action: str, params: str, names: tuple[str, ...] = ()) -> Send:
    # A single object, unlike what comes back; names with commas and no blanks between.
    return Send(msgspec.json.encode({"action": action, "params": params}).decode(), names)


WILDCARD: Final = "*"

MAX_REASONS: Final = 8
"""Of refusals that are told together; further ones are only counted."""

SUBSCRIBED: Final = "subscribed to: "
UNSUBSCRIBED: Final = "unsubscribed to: "
NOT_AUTHORIZED: Final = "not authorized"
SILENCE_HINT: Final = (
    "; nothing was acknowledged since authentication, as happens to a key of the delayed tier"
    " on the real-time host (see delayed.massive.com)"
)


class Subscriptions:
    """The wanted names outlive sockets; everything else is forgotten with the socket."""

    def __init__(self, names: Iterable[str], ack_limit_ns: int) -> None:
        self._ack_limit_ns = ack_limit_ns
        self._wanted = dict.fromkeys(names)
        self.forget_socket()

    def forget_socket(self) -> None:
        """There is no authenticated socket any more."""
        self._live = False
        self._acknowledged = False
        self._sent: set[str] = set()
        self._granted: dict[str, None] = {}
        self._due_ns: dict[str, int] = {}
        self._leaving_due_ns: dict[str, int] = {}
        self._refusals = 0
        self._reasons: dict[str, None] = {}

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names that are, or on the next socket will be, subscribed."""
        return tuple(self._wanted)

    @property
    def granted(self) -> tuple[str, ...]:
        """Names that the server acknowledged on this socket."""
        return tuple(self._granted)

    @property
    def subscribed(self) -> int:
        """Number of names that the server acknowledged on this socket."""
        return len(self._granted)

    @property
    def answered(self) -> bool:
        """Whether some names are acknowledged on this socket, and no answer is awaited."""
        return bool(self._granted) and not self._due_ns

    def begin(self, now_ns: int) -> tuple[Send, ...]:
        """The socket is authenticated: subscribe to all that is wanted."""
        self._live = True
        return self._send(self._wanted, now_ns)

    def subscribe(self, names: Iterable[str], now_ns: int) -> tuple[Send, ...]:
        """Want these names too."""
        names = tuple(names)
        self._wanted.update(dict.fromkeys(names))
        return self._send(names, now_ns) if self._live else ()

    def unsubscribe(self, names: Iterable[str], now_ns: int) -> tuple[Send, ...]:
        """Want these names no more."""
        gone = [name for name in dict.fromkeys(names) if name in self._wanted]
        for name in gone:
            del self._wanted[name]
        # What was never sent on this socket has nothing to be taken back from.
        gone = [name for name in gone if name in self._sent]
        for name in gone:
            self._sent.remove(name)
            self._granted.pop(name, None)
            self._due_ns.pop(name, None)
            self._leaving_due_ns[name] = now_ns + self._ack_limit_ns
        return subscription("unsubscribe", gone)

    def follow(self, names: Iterable[str], now_ns: int) -> tuple[Command, ...]:
        """Want these names and no others; reports what that changes, if anything."""
        wanted = dict.fromkeys(names)
        new = [name for name in wanted if name not in self._wanted]
        old = [name for name in self._wanted if name not in wanted]
        if not new and not old:
            return ()
        # New ones first: going from some to all leaves no moment in which nothing is subscribed.
        asked = (*self.subscribe(new, now_ns), *self.unsubscribe(old, now_ns))
        parts = (("added", new), ("removed", old))
        text = "; ".join(f"{what} {shown(some)}" for what, some in parts if some)
        return (*asked, Report(ReportKind.SETTINGS, f"subscriptions {text}"))

    def on_success(self, message: str) -> tuple[Command, ...]:
        """The server acknowledges one name."""
        if message.startswith(UNSUBSCRIBED):
            self._leaving_due_ns.pop(message.removeprefix(UNSUBSCRIBED), None)
            return ()
        name = message.removeprefix(SUBSCRIBED)
        self._acknowledged = True
        self._due_ns.pop(name, None)
        # A late answer to a name that was given up meanwhile must not bring it back.
        if name in self._sent:
            self._granted[name] = None
        return self._settle()

    def on_error(self, message: str) -> tuple[Command, ...]:
        """The server refuses something, and does not say what."""
        self._refusals += 1
        if len(self._reasons) < MAX_REASONS:
            self._reasons[message] = None
        return self._settle()

    def on_tick(self, now_ns: int) -> tuple[Command, ...]:
        """Report each name once that was not answered in time."""
        unanswered = _take_due(self._due_ns, now_ns)
        left = _take_due(self._leaving_due_ns, now_ns)
        commands: list[Command] = []
        # As many refusals as open names never came together: these names are the best guess.
        if unanswered and self._refusals:
            commands += self._refused(unanswered)
        elif unanswered:
            hint = "" if self._acknowledged else SILENCE_HINT
            commands.append(self._silent("subscription", unanswered, hint))
        if left:
            commands.append(self._silent("unsubscription", left, ""))
        return tuple(commands)

    def _send(self, names: Iterable[str], now_ns: int) -> tuple[Send, ...]:
        # The vendor never answers a name that it has on this socket already.
        new = [name for name in dict.fromkeys(names) if name not in self._sent]
        self._sent.update(new)
        self._due_ns.update(dict.fromkeys(new, now_ns + self._ack_limit_ns))
        return subscription("subscribe", new)

    def _settle(self) -> tuple[Command, ...]:
        unanswered = len(self._due_ns)
        # Fewer answers are missing than were refused: others may still be under way.
        if not self._refusals or unanswered not in (0, self._refusals):
            return ()
        refused = list(self._due_ns)
        self._due_ns.clear()
        return self._refused(refused)

    def _refused(self, names: list[str]) -> tuple[Command, ...]:
        reasons = list(self._reasons)
        self._reasons.clear()
        self._refusals = 0
        text = f"the vendor does not grant {shown(names) or 'something'}: {' / '.join(reasons)}"
        report = Report(ReportKind.NOT_GRANTED, text)
        all_refused = not self._acknowledged and len(names) == len(self._sent) > 0
        # Only when nothing at all is granted: a plan without quotes still brings trades.
        if all_refused and reasons == [NOT_AUTHORIZED]:
            return (report, Fail(f"the vendor's plan holds none of {shown(names)}"))
        return (report,)

    def _silent(self, what: str, names: list[str], hint: str) -> Report:
        limit_s = self._ack_limit_ns / NS_PER_S
        text = f"{what} not acknowledged within {limit_s:g} s: {shown(names)}{hint}"
        return Report(ReportKind.NOT_ACKNOWLEDGED, text)


def _take_due(due_ns: dict[str, int], now_ns: int) -> list[str]:
    overdue = [name for name, at_ns in due_ns.items() if at_ns <= now_ns]
    for name in overdue:
        del due_ns[name]
    return overdue


class Admission:
    """What was asked for on one connection, and hence which events may come over it.

    Names are only added; one that was given up a moment ago may still bring what is under way.
    Nothing is asked for before the vendor has let us in, so what comes earlier is not covered.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._prefixes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing was asked for yet."""
        return not self._names

    def ask(self, names: Iterable[str]) -> None:
        """These channels (``T.SPY``, ``T.*``) are asked for."""
        new = set(names) - self._names
        self._names |= new
        wild = (name for name in new if name.endswith(WILDCARD))
        self._prefixes += tuple(name.removesuffix(WILDCARD) for name in wild)

    def covers(self, channel: str, symbol: str) -> bool:
        """Whether an event of this channel (``T``) and symbol was asked for."""
        name = f"{channel}.{symbol}"
        # `str.startswith` takes the tuple at once; it is asked once an instrument and connection.
        return name in self._names or name.startswith(self._prefixes)
