"""nats-py's client, hardened: no server input can crash it, exhaust memory or reveal a secret.

nats-py trusts its server: a line or a message of any announced length is gathered, and what it
does not expect (an ``INFO`` over 32 KiB, one that is no object, ``-ERR`` without quotes, a header
that is no header) ends a task with a traceback, after which nothing reads the connection any more.
It also takes every message apart, at six to thirty microseconds each, and formats every PUB in
Python. Publisher, statuses and consumers therefore use this client. It is nats-py's, with these
differences, all of which override or use private names of nats-py 2.16. No other module does, and
`tests/nats/test_guarded.py` fails when one of the names is gone.

- What goes wrong while connecting or parsing is an `nats.errors.Error` or OSError: nats-py then
  connects anew. A server that hangs up in the middle of the handshake is no connection.
- A line has at most `MAX_LINE_BYTES`, a message `MAX_PAYLOAD_BYTES`.
- Messages of tapped subscriptions pass nats-py (see `ingestor.nats.answers`).
- `writer` takes finished frames.
- Each server is told its own secrets, and none without TLS where TLS is wanted.
- What the server says is kept in its own case, on one line, cut to a length.
- An ``-ERR`` that is no refusal costs the connection, not the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Protocol

import msgspec
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import (
    AuthorizationError,
    Error,
    ProtocolError,
    SecureConnWantedError,
    StaleConnectionError,
    UnexpectedEOF,
)
from nats.protocol.parser import Parser

from ingestor.model.bounds import printable
from ingestor.model.errors import IngestorError, NatsRefusedError, NatsUnreachableError
from ingestor.nats.answers import MAX_LINE_BYTES, Frame, Splitter, Status
from ingestor.nats.options import Credentials

MAX_POOL: Final = 256
"""Servers that are tried: those that were named, and those that these have named."""

_ERR_LINE: Final = re.compile(rb"-ERR\s+'([^\r\n]+)'\r\n").match
_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})").match
_PLACE: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[\w.\-]{1,255}):\d{1,5}").fullmatch
_REFUSALS: Final = ("authorization", "authentication", "permissions violation", "maximum ")
_NO_REFUSALS: Final = ("maximum payload", "authentication timeout")
_ORDINARY: Final = (Error, OSError, asyncio.TimeoutError)


class Receiver(Protocol):
    """Takes what arrives for one inbox, in the order of arrival; must not raise."""

    def receive(self, frames: list[Frame]) -> None:
        """Take messages."""

    def status(self, status: Status) -> None:
        """Take what JetStream says about a request."""


def is_refusal(error: Exception) -> bool:
    """Whether an error is the server's word that we are not to come in, or not to publish."""
    if isinstance(error, ssl.SSLError):
        # An alert is the server's own word; without one, TLS broke as any connection may.
        return isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in str(error.reason)
    if isinstance(error, (AuthorizationError, SecureConnWantedError)):
        return True
    ours = isinstance(error, NonsenseError)
    return isinstance(error, Error) and not ours and _refuses(str(error))


def refusal(error: Exception, servers: str) -> IngestorError:
    """Return why there is no connection to these servers, in a sentence without secrets."""
    text = printable(str(error).removeprefix("nats: ").strip(" '")) or type(error).__name__
    if not is_refusal(error):
        return NatsUnreachableError(f"no NATS server answers at {servers}: {text}")
    tls = isinstance(error, (ssl.SSLError, SecureConnWantedError))
    return NatsRefusedError(
        f"the NATS server at {servers} does not let us in or publish "
        f"({'TLS' if tls else 'it says'}): {text}"
    )


def _refuses(text: str) -> bool:
    lowered = text.lower()
    if any(word in lowered for word in _NO_REFUSALS):
        return False
    return any(word in lowered for word in _REFUSALS)


class _ServerInfo(msgspec.Struct):
    """What is used of ``INFO``, with the types that it must have."""

    version: str = ""
    max_payload: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    connect_urls: list[str] | None = None
    nonce: str = ""
    headers: bool = False
    auth_required: bool = False
    tls_required: bool = False
    tls_available: bool = False


class NonsenseError(ProtocolError):
    """The server broke the protocol; unlike its parent this error says how."""

    def __str__(self) -> str:
        """Return the reason."""
        return f"nats: {self.args[0]}"


class GuardedClient(Client):
    """See the module. Made for one `Credentials`; `open` instead of `connect`."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials
        self._taps: dict[bytes, Receiver] = {}
        self._ps = GuardedParser(self, self._taps)

    async def open(self, **options: Any) -> None:
        """Connect, as the credentials say; `options` are nats-py's own."""
        credentials = self._credentials
        secrets = credentials.secrets_for("")
        await self.connect(
            **{
                "servers": credentials.servers,
                "tls": credentials.tls,
                "tls_handshake_first": credentials.tls_first,
                "inbox_prefix": credentials.inbox_prefix,
                "user": secrets.user,
                "password": secrets.password,
                "token": secrets.token,
                "user_credentials": credentials.credentials_file,
                "nkeys_seed": credentials.nkey_file and str(credentials.nkey_file),
            }
            | options
        )

    def abort(self) -> None:
        """Cut the connection at once; the client then reconnects, unless it is closed."""
        if (writer := self.writer) is not None:
            writer.transport.abort()

    async def tap(self, subject: str, receiver: Receiver) -> Subscription:
        """Subscribe; what arrives passes nats-py and is handed on in the read loop itself."""
        subscription: Subscription = await self.subscribe(subject, cb=_ignore)
        self._taps[b"%d" % subscription._id] = receiver
        # Else it waits for nats-py's flusher, and a frame written past that overtakes it.
        await self._flush_pending(force_flush=True)
        return subscription

    async def untap(self, subscription: Subscription) -> None:
        """End what `tap` began."""
        self._taps.pop(b"%d" % subscription._id, None)
        if not self.is_closed:
            await subscription.unsubscribe()

    @property
    def server_version(self) -> tuple[int, int]:
        """Major and minor version of the server; 0, 0 where it does not say."""
        found = _VERSION(str(self._server_info.get("version", "")))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def writer(self) -> asyncio.StreamWriter | None:
        """What bytes for the server are written to, None before the first connection."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer

    async def _connect_to_server(self, s: Srv) -> None:
        # As nats-py does it, but for the transport and the limit of its reader.
        s.last_attempt = time.monotonic()
        if self._transport is None:
            self._transport = GuardedTransport()  # type: ignore[no-untyped-call]
        await self._transport.connect(
            s.uri, buffer_size=MAX_LINE_BYTES, connect_timeout=self.options["connect_timeout"]
        )

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except _ORDINARY:
            self.abort()
            raise
        except Exception as error:
            self.abort()
            raise _nonsense(error) from error
        # nats-py takes a server that hangs up here for connected, and starts its tasks.
        if not self.is_connected:
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            self.abort()
            raise UnexpectedEOF

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        told = msgspec.convert(info, _ServerInfo)
        # Addresses that a server names are tried later, so they are bounded and checked like ours.
        room = max(MAX_POOL - len(self._server_pool), 0)
        info["connect_urls"] = [url for url in told.connect_urls or () if _PLACE(url)][:room]
        if initial_connection and self._credentials.tls is not None:
            # Credentials are sent next: a server that offers no TLS would be told them in plain
            # text.
            if not (told.tls_required or told.tls_available or self._credentials.tls_first):
                raise SecureConnWantedError
            info["tls_required"] = True
        if "max_payload" in info:
            self._max_payload = told.max_payload
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        server = self._current_server
        place = "" if server is None else server.uri.netloc
        secrets = self._credentials.secrets_for(place)
        # nats-py reads user, password and token from here when it writes CONNECT.
        self.options |= secrets._asdict()
        self._auth_configured = self._auth_configured or any(secrets)
        return bytes(super()._connect_command())

    async def _process_err(self, err_msg: str) -> None:
        """Take the server's word as it is; nats-py's parser hands it on in lower case."""
        # Subjects have case, and a permission is told by subject.
        line = _ERR_LINE(self._ps.buf)
        text = printable(line[1]) if line else printable(err_msg.strip("'"))
        lowered = text.lower()
        if "authorization violation" in lowered:
            self._err = AuthorizationError()
        else:
            self._err = Error(f"nats: {text}")
        if "permissions violation" in lowered:
            await self._error_cb(self._err)
        elif _refuses(text):
            # A task of its own, as nats-py has it: closing cancels the one that reads.
            self._closing_task = asyncio.create_task(
                self._close(Client.CLOSED, not self.is_connecting)
            )
        else:
            await self._error_cb(self._err)
            stale = "stale connection" in lowered
            await self._process_op_err(StaleConnectionError() if stale else self._err)


class GuardedParser(Parser):
    """Hands tapped subscriptions their messages, and nats-py's parser whole commands of the rest.

    Raises ProtocolError, on which nats-py connects anew.
    """

    def __init__(self, client: Any, taps: Mapping[bytes, Receiver]) -> None:
        self._taps = taps
        super().__init__(client)

    def reset(self) -> None:
        """Forget what is unfinished: a new connection begins; see nats-py."""
        super().reset()
        # What was left of the old connection must not be glued to the new one.
        self._splitter = Splitter(self._taps)

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read; see nats-py."""
        try:
            await self._parse(data)
        except OSError:
            raise
        except Exception as error:
            reason = _nonsense(error)
            # The callback may raise to end a first attempt; the reason below does that too.
            with contextlib.suppress(*_ORDINARY):
                await self.nc._error_cb(reason)
            raise reason from error

    async def _parse(self, data: bytes) -> None:
        splitter = self._splitter
        cut = splitter.feed(data)
        for sid, frames in cut.frames.items():
            self._taps[sid].receive(frames)
        for sid, status in cut.statuses:
            self._taps[sid].status(status)
        for command in cut.others:
            await super().parse(command)
            if self.buf:
                # Of a long line that it does not know nats-py thinks that more is to come.
                raise NonsenseError("a line is no command")
        if splitter.nonsense is not None:
            raise splitter.nonsense


class GuardedTransport(TcpTransport):
    """nats-py's transport, whose faults are OSErrors, and which reads long lines over TLS too."""

    async def connect_tls(
        self, uri: Any, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """Go on in TLS; see nats-py."""
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        # nats-py makes this reader without the limit that it was told.
        self._io_reader._limit = MAX_LINE_BYTES  # type: ignore[union-attr]

    def write(self, payload: bytes) -> None:
        """Send bytes. Raises ConnectionResetError."""
        with _closed_is_reset():
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: list[bytes]) -> None:
        """Send several. Raises ConnectionResetError."""
        with _closed_is_reset():
            super().writelines(payload)  # type: ignore[no-untyped-call]

    async def drain(self) -> None:
        """Wait until it is sent. Raises ConnectionResetError."""
        with _closed_is_reset():
            await super().drain()  # type: ignore[no-untyped-call]


async def _ignore(_: Msg) -> None:
    """nats-py wants a callback; what arrives is taken by the tap."""


@contextlib.contextmanager
def _closed_is_reset() -> Iterator[None]:
    """A transport that was closed under us raises what its event loop pleases."""
    try:
        yield
    except (AttributeError, RuntimeError) as error:
        raise ConnectionResetError("the connection is closed") from error


def _nonsense(error: Exception) -> Error:
    if isinstance(error, NonsenseError):
        return error
    reason = printable(str(error)) or type(error).__name__
    return NonsenseError(f"what the server says makes no sense ({reason})")
