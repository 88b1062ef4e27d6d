"""The connection of a consumer: nats-py for protocol, authentication, TLS and reconnects.

The client's parser (``_ps``) is replaced by one that cuts out JetStream deliveries itself
(`ingestor.client.wire` says why); besides, a subscription's number (``_id``) is used. What the
server cannot do to us is in `ingestor.nats.guarded`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error, NoRespondersError

from ingestor.client.wire import Frame, Splitter, Status
from ingestor.model.bounds import printable
from ingestor.model.errors import (
    BadDataError,
    IngestorError,
    NatsRefusedError,
    NatsUnreachableError,
    StreamError,
)
from ingestor.nats.guarded import GuardedClient, GuardedParser, NonsenseError, is_refusal
from ingestor.nats.options import Access, Login, prepare

REQUEST_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0

DEFAULTS: Final[dict[str, Any]] = {
    "name": "ingestor.client",
    "connect_timeout": 5,
    "reconnect_time_wait": 0.25,
    "max_reconnect_attempts": -1,
}
"""What differs from nats-py's own: a consumer waits for its server as long as it takes."""

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})").match
_NATS_PY_NAMES: Final = {"user_credentials": "credentials_file", "nkeys_seed": "nkey_file"}
_ACCESS: Final = frozenset(field.name for field in fields(Access)) - {"url"}

log = logging.getLogger(__name__)

T = TypeVar("T")

_NOT_WRITTEN: Final = (Error, OSError, AttributeError)
"""What writing raises while a lost connection is not noticed yet. The last is asyncio's own, from
CPython 3.12 on: a transport that is closed has no loop when lines are written to it."""


class NotConnectedError(IngestorError):
    """A client is used outside of ``async with``, where it has no connection."""


class NoAnswerError(StreamError):
    """JetStream did not answer: it is off, or just coming up."""


class NobodyListensError(NoAnswerError):
    """Nobody takes requests on this subject."""


class CutOffError(NoAnswerError):
    """The connection was lost before JetStream answered."""


class ApiError(msgspec.Struct, frozen=True):
    """What JetStream says is wrong."""

    code: int = 0
    err_code: int = 0
    description: str = "refused"


class _Answer(msgspec.Struct, frozen=True):
    error: ApiError | None = None


class ApiRefusedError(StreamError):
    """JetStream answered with an error; `err_code` is its number, `passing` means try again."""

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: {printable(error.description)}")
        self.err_code = error.err_code
        self.passing = error.code == 503


class Receiver(Protocol):
    """Takes what arrives for one inbox, in the order of arrival; must not raise."""

    def receive(self, frames: list[Frame]) -> None:
        """Take messages."""

    def status(self, status: Status) -> None:
        """Take what JetStream says about a request."""


class Connection:
    """One connection; `on_lost` is called when it breaks and when it is closed for good."""

    def __init__(
        self, url: str | Sequence[str], options: dict[str, Any], on_lost: Callable[[], None]
    ) -> None:
        """Raises ConfigurationError for a URL, a file or options that cannot work."""
        self._login, others = _login(url, options)
        self._options = DEFAULTS | others
        self._on_lost = on_lost
        self._taps: dict[bytes, Receiver] = {}
        self._client = GuardedClient(self._login)
        self._client._ps = _TappedParser(self._client, self._taps)
        self._up = asyncio.Event()
        self._first_errors = 0
        self._losses = 0
        self._violation: Exception | None = None
        self._opened = False
        self._closing = False
        self.failure: IngestorError | None = None
        """Why there will be no connection any more, once that is known."""

    @property
    def servers(self) -> str:
        """The servers without credentials, for messages."""
        return ", ".join(url.partition("://")[2] for url in self._login.servers)

    @property
    def api_prefix(self) -> str:
        """What requests to JetStream begin with: ``$JS.API`` unless the options say otherwise."""
        return self._login.api_prefix

    @property
    def server_version(self) -> tuple[int, int]:
        """Major and minor version of the server; 0, 0 where it does not say."""
        found = _VERSION(str(self._client._server_info.get("version", "")))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def max_payload_bytes(self) -> int:
        """The largest message that the server carries."""
        return int(self._client.max_payload)

    async def open(self) -> None:
        """Connect. Raises NatsUnreachableError, NatsRefusedError when no server takes us."""
        for caution in self._login.cautions:
            log.warning("%s", caution)
        try:
            await self._client.open(
                error_cb=self._errored,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._closed,
                **self._options,
            )
        except BaseException as error:
            await self.close()
            if isinstance(error, (OSError, Error)):
                raise self._reason(error) from error
            raise
        self._opened = True
        self._up.set()

    async def close(self) -> None:
        """Close, in bounded time."""
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.close()
        except (TimeoutError, *_NOT_WRITTEN) as error:
            log.debug("closing the NATS connection: %r", error)

    async def up(self) -> None:
        """Wait until there is a connection. Raises what `failure` says; `NotConnectedError`."""
        if self._closing or not self._opened:
            raise NotConnectedError(
                "the client is not connected: use it within `async with connect(...) as client:`"
            )
        await self._up.wait()
        if self.failure is not None:
            raise self.failure

    async def tap(self, receiver: Receiver) -> tuple[str, NatsSubscription]:
        """Subscribe a new inbox, one level below what is returned. Raises `NoAnswerError`."""
        inbox = self._client.new_inbox()
        try:
            subscription = await self._client.subscribe(f"{inbox}.*", cb=_ignore)
        except _NOT_WRITTEN as error:
            raise NoAnswerError(f"no subscription at {self.servers}: {error!r}") from error
        self._taps[b"%d" % subscription._id] = receiver
        return inbox, subscription

    async def untap(self, subscription: NatsSubscription) -> None:
        """End what `tap` began."""
        self._taps.pop(b"%d" % subscription._id, None)
        if not self._client.is_closed:
            with contextlib.suppress(*_NOT_WRITTEN):
                await subscription.unsubscribe()

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        """Send one message. Raises nothing while there is no connection: it is then not sent."""
        if self._client.is_connected:
            with contextlib.suppress(*_NOT_WRITTEN):
                await self._client.publish(subject, payload, reply=reply)

    async def api(
        self, what: str, subject: str, kind: type[T], body: dict[str, Any] | None = None
    ) -> T:
        """Ask JetStream's API for a struct of `kind`; `what` opens the sentence of an error.

        Raises `NoAnswerError`, `ApiRefusedError`, NatsRefusedError; StreamError for an answer
        that is none.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        try:
            answer = await self.ask(what, f"{self.api_prefix}.{subject}", payload)
        except NobodyListensError as error:
            raise NoAnswerError(f"{what}: JetStream is off at {self.servers}") from error
        try:
            if refused := msgspec.json.decode(answer.data, type=_Answer).error:
                raise ApiRefusedError(what, refused)
            return msgspec.json.decode(answer.data, type=kind)
        except (ValueError, RecursionError) as error:
            text = printable(answer.data)
            raise StreamError(f"{what}: the answer is no JSON object of ours: {text!r}") from error

    async def ask(self, what: str, subject: str, payload: bytes = b"") -> Msg:
        """Make a request; `what` opens the sentence of an error.

        Raises `NoAnswerError`, and of its kind `NobodyListensError`; NatsRefusedError.
        """
        self._violation = None
        losses = self._losses
        try:
            return await self._client.request(subject, payload, REQUEST_TIMEOUT_S)
        except NoRespondersError as error:
            raise NobodyListensError(f"{what}: nobody answers at {self.servers}") from error
        except _NOT_WRITTEN as error:
            if self._violation is not None:
                raise self._reason(self._violation) from error
            kind = NoAnswerError if losses == self._losses else CutOffError
            raise kind(f"{what}: no answer from {self.servers}") from error

    async def _errored(self, error: Exception) -> None:
        log.debug("NATS client: %r", error)
        if not (self._opened or self._closing):
            self._first_errors += 1
            if self._first_errors >= len(self._login.servers):
                raise self._reason(error)
        elif _is_refusal(error):
            self._violation = error

    async def _disconnected(self) -> None:
        if self._opened and not self._closing:
            self._up.clear()
            self._losses += 1
            log.warning("lost the NATS server at %s; connecting again", self.servers)
            self._on_lost()

    async def _reconnected(self) -> None:
        log.warning("connected to NATS again")
        self._up.set()

    async def _closed(self) -> None:
        if self._opened and not self._closing:
            self.failure = self._reason(self._client.last_error or Error("connection closed"))
            self._up.set()
            self._on_lost()

    def _reason(self, error: Exception) -> IngestorError:
        text = printable(str(error).removeprefix("nats: ").strip(" '")) or type(error).__name__
        if _is_refusal(error):
            return NatsRefusedError(f"the NATS server at {self.servers} does not let us in: {text}")
        return NatsUnreachableError(f"no NATS server answers at {self.servers}: {text}")


def _login(url: str | Sequence[str], options: dict[str, Any]) -> tuple[Login, dict[str, Any]]:
    """Return how to be let in, and the options that are nats-py's own.

    Names of `Access` and of nats-py are taken alike. Raises ConfigurationError.
    """
    named = {_NATS_PY_NAMES.get(name, name): value for name, value in options.items()}
    tls = named.pop("tls", None)
    if "tls_handshake_first" in named:
        named["tls_first"] = named.pop("tls_handshake_first")
    ours = {name: named.pop(name) for name in _ACCESS & named.keys()}
    for name, value in ours.items():
        if name.endswith("_file") and value is not None:
            ours[name] = Path(value)
    return prepare(Access(url=url, **ours), tls), named


class _TappedParser(GuardedParser):
    """nats-py's parser, past which the messages of tapped subscriptions are led."""

    def __init__(self, client: GuardedClient, taps: dict[bytes, Receiver]) -> None:
        self._taps = taps
        super().__init__(client)

    def reset(self) -> None:
        super().reset()
        self._splitter = Splitter(self._taps)

    async def parse(self, data: bytes = b"") -> None:
        try:
            cut = self._splitter.feed(data)
        except (BadDataError, ValueError) as error:
            # ValueError: a number of more digits than Python reads.
            log.warning("the NATS server makes no sense: %s", error)
            raise NonsenseError(str(error)) from error
        for sid, frames in cut.frames.items():
            self._taps[sid].receive(frames)
        for sid, status in cut.statuses:
            self._taps[sid].status(status)
        for command in cut.others:
            await super().parse(command)


async def _ignore(_: Msg) -> None:
    """nats-py wants a callback; what arrives is taken by the tap."""


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, ssl.SSLError) or is_refusal(error)
