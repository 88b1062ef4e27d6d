"""Where a socket goes, who takes what it brings, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from ingestor.feeds.polygon.limits import SocketLimits
from ingestor.model.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: a cause for the log, and the close code where the server sent one.

    `opened` tells whether there was a WebSocket; `unreachable` that there was nobody who could open one.
    """

    cause: str
    code: int | None = None
    opened: bool = True
    unreachable: bool = False


class Receiver(Protocol):
    """Takes what a socket brings, at once; an exception ends the socket and comes out of `run`."""

    def on_open(self) -> None:
        """The WebSocket is open."""
        ...

    def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
        """Whole messages of one read, in order, and when that read was."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a socket goes, and how long it may take. Raises `ConfigurationError`."""

    url: str
    limits: SocketLimits

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        try:
            parse_uri(self.url)
        except (InvalidURI, ValueError) as error:
            raise ConfigurationError(f"not the address of a WebSocket: {error}") from None

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        uri = parse_uri(self.url)
        return f"{'wss' if uri.secure else 'ws'}://{uri.host}:{uri.port}{uri.path}"
