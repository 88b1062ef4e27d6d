"""The vendor's side of a session: what is said, and what answers what. A state machine without I/O.

It says what was seen on the wire: an acknowledgement per parameter, silence for an unknown topic
and for what is already subscribed, an acknowledgement but no data for an unknown ticker, one
unnamed error for what the plan does not hold. Where the vendor's answer is not known it keeps
silent (anything before authentication, unreadable messages, unsubscribing what is not subscribed).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec


class SimMarket(StrEnum):
    """An asset class: a path of the server, a connection quota, a plan of its own."""

    STOCKS = "stocks"
    OPTIONS = "options"


TOPICS: Final = {
    SimMarket.STOCKS: frozenset({"T", "Q", "A", "AM", "LULD", "FMV", "NOI"}),
    SimMarket.OPTIONS: frozenset({"T", "Q", "A", "AM", "FMV"}),
}
"""Topics the vendor knows; any other is met with silence."""

API_KEY: Final = "simulator"
"""The key that is accepted unless another is set."""

OPTION_QUOTE_LIMIT: Final = 1_000
"""Contracts whose quotes one connection may subscribe to (vendor's documentation)."""


class StatusElement(msgspec.Struct, frozen=True):
    """A status element as it stands in a frame."""

    status: str
    message: str
    ev: str = "status"

    @property
    def text(self) -> bytes:
        """JSON, keys in the vendor's order."""
        return msgspec.json.encode({"ev": self.ev, "status": self.status, "message": self.message})


CONNECTED: Final = StatusElement("connected", "Connected Successfully")
AUTH_SUCCESS: Final = StatusElement("auth_success", "authenticated")
AUTH_FAILED: Final = StatusElement("auth_failed", "authentication failed")
NO_ACCESS: Final = StatusElement("auth_failed", "Your plan doesn't include websocket access.")
AUTH_TIMEOUT: Final = StatusElement("auth_timeout", "No authentication request received.")
NOT_AUTHORIZED: Final = StatusElement("error", "not authorized")
QUOTE_LIMIT: Final = StatusElement(
    "error", "Subscription limit reached for feed. Please remove some subscriptions and try again."
)
MAX_CONNECTIONS: Final = StatusElement(
    "max_connections",
    "Maximum number of websocket connections exceeded. You have reached the connection limit for "
    "your account. Please contact support at https://polygon.io/contact to increase your limit.",
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the account may do on one market.

    Attributes:
        api_keys: The keys that are accepted, each of an account with a quota of its own.
        topics: Topics of the plan; none means no WebSocket access at all.
        delayed_tier: Authentication succeeds, then nothing is ever answered or sent.
    """

    api_keys: frozenset[str]
    topics: frozenset[str]
    delayed_tier: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Statuses to send (possibly none), and whether the connection is then dropped."""

    statuses: tuple[StatusElement, ...] = ()
    hang_up: bool = False


SILENCE: Final = Answer()


class Request(msgspec.Struct, frozen=True):
    """A client's message."""

    action: str
    params: str


_DECODER: Final = msgspec.json.Decoder(Request)


def read_request(text: bytes) -> Request | None:
    """Read a client's message, or None when it is not one."""
    try:
        return _DECODER.decode(text)
    except msgspec.DecodeError:
        return None


class ServerSession:
    """One connection's authentication and subscriptions."""

    def __init__(self, market: SimMarket, rules: Rules) -> None:
        self._market = market
        self._rules = rules
        self.authenticated = False
        self.account = ""
        """The key by which it was let in."""
        self.subscriptions: dict[str, None] = {}
        """Parameters as they were sent; a dict, because their order is worth keeping."""
        self.key: tuple[str, ...] = ()
        """The same parameters sorted: sessions with equal keys are sent equal events."""

    def wants(self, channel: str) -> bool:
        """Whether events of ``T.SPY`` and the like go to this session."""
        topic = channel.partition(".")[0]
        return channel in self.subscriptions or f"{topic}.*" in self.subscriptions

    def answer(self, request: Request) -> Answer:
        """Take a client's message."""
        if request.action == "auth":
            if request.params not in self._rules.api_keys:
                return Answer((AUTH_FAILED,), hang_up=True)
            if not self._rules.topics:
                return Answer((NO_ACCESS,), hang_up=True)
            self.authenticated, self.account = True, request.params
            return Answer((AUTH_SUCCESS,))
        if not self.authenticated or self._rules.delayed_tier:
            return SILENCE
        change = {"subscribe": self._subscribe, "unsubscribe": self._unsubscribe}
        if request.action not in change:
            return SILENCE
        # The vendor refuses a list of names with one unnamed error, however many it refuses.
        answers = map(change[request.action], request.params.split(","))
        statuses = tuple(dict.fromkeys(status for status in answers if status is not None))
        self.key = tuple(sorted(self.subscriptions))
        return Answer(statuses)

    def _subscribe(self, param: str) -> StatusElement | None:
        topic, _, ticker = param.partition(".")
        if topic not in TOPICS[self._market] or not ticker or param in self.subscriptions:
            return None
        if topic not in self._rules.topics:
            return NOT_AUTHORIZED
        if self._over_quote_limit(topic, ticker):
            return QUOTE_LIMIT
        self.subscriptions[param] = None
        return StatusElement("success", f"subscribed to: {param}")

    def _over_quote_limit(self, topic: str, ticker: str) -> bool:
        if self._market is not SimMarket.OPTIONS or topic != "Q":
            return False
        held = sum(name.startswith("Q.") for name in self.subscriptions)
        return ticker == "*" or held >= OPTION_QUOTE_LIMIT

    def _unsubscribe(self, param: str) -> StatusElement | None:
        if param not in self.subscriptions:
            return None
        del self.subscriptions[param]
        return StatusElement("success", f"unsubscribed to: {param}")
