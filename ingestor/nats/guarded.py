"""nats-py's client, which nothing that a server says can break, fill or talk out of a secret.

nats-py trusts its server: a line or a message of any announced length is gathered, and what it
does not expect (an ``INFO`` over 32 KiB, one that is no object, ``-ERR`` without quotes, a header
that is no header) ends a task with a traceback, after which nothing reads the connection any more.
Publisher and consumers therefore use this client. It is nats-py's, with these differences, all of
which override methods of nats-py 2.16 by their private names:

- What goes wrong while connecting or parsing is an `nats.errors.Error` or OSError: nats-py then
  connects anew. A server that hangs up in the middle of the handshake is no connection.
- A line has at most `MAX_LINE_BYTES`, a message `MAX_PAYLOAD_BYTES`.
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
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport
from nats.errors import (
    AuthorizationError,
    Error,
    ProtocolError,
    SecureConnWantedError,
    StaleConnectionError,
    UnexpectedEOF,
)
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, MAX_CONTROL_LINE_SIZE, Parser

from ingestor.model.bounds import MAX_PAYLOAD_BYTES, printable
from ingestor.nats.options import Login

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line; the ``INFO`` of a large cluster, with all its addresses, takes some ten KiB."""

MAX_POOL: Final = 256
"""Servers that are tried: those that were named, and those that these have named."""

_ERR_LINE: Final = re.compile(rb"-ERR\s+'([^\r\n]+)'\r\n").match
_PLACE: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[\w.\-]{1,255}):\d{1,5}").fullmatch
_REFUSALS: Final = ("authorization", "authentication", "permissions violation", "maximum ")
_NO_REFUSALS: Final = ("maximum payload", "authentication timeout")
_ORDINARY: Final = (Error, OSError, asyncio.TimeoutError)


def is_refusal(error: Exception) -> bool:
    """Whether an error is the server's word that we are not to come in, or not to publish."""
    if isinstance(error, (AuthorizationError, SecureConnWantedError)):
        return True
    ours = isinstance(error, NonsenseError)
    return isinstance(error, Error) and not ours and _refuses(str(error))


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
    """What the server says makes no sense; unlike its parent it says what."""

    def __str__(self) -> str:
        """Return the reason."""
        return f"nats: {self.args[0]}"


class GuardedClient(Client):
    """See the module. Made for one `Login`; `open` instead of `connect`."""

    def __init__(self, login: Login) -> None:
        super().__init__()
        self._login = login
        self._ps = GuardedParser(self)

    async def open(self, **options: Any) -> None:
        """Connect, as the login says; `options` are nats-py's own."""
        login = self._login
        secrets = login.secrets_for("")
        await self.connect(
            **{
                "servers": login.servers,
                "tls": login.tls,
                "tls_handshake_first": login.tls_first,
                "inbox_prefix": login.inbox_prefix,
                "user": secrets.user,
                "password": secrets.password,
                "token": secrets.token,
                "user_credentials": login.credentials_file,
                "nkeys_seed": login.nkey_file and str(login.nkey_file),
            }
            | options
        )

    def abort(self) -> None:
        """Cut the connection at once; the client then reconnects, unless it is closed."""
        if (writer := self.writer) is not None:
            writer.transport.abort()

    @property
    def writer(self) -> asyncio.StreamWriter | None:
        """What bytes for the server are written to, None before the first connection."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer

    async def _connect_to_server(self, s: Srv) -> None:
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
        if not self.is_connected:
            for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
                if task is not None:
                    task.cancel()
            self.abort()
            raise UnexpectedEOF

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        told = msgspec.convert(info, _ServerInfo)
        room = max(MAX_POOL - len(self._server_pool), 0)
        info["connect_urls"] = [url for url in told.connect_urls or () if _PLACE(url)][:room]
        if initial_connection and self._login.tls is not None:
            if not (told.tls_required or told.tls_available or self._login.tls_first):
                raise SecureConnWantedError
            info["tls_required"] = True
        if "max_payload" in info:
            self._max_payload = told.max_payload
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        server = self._current_server
        place = "" if server is None else server.uri.netloc
        secrets = self._login.secrets_for(place)
        self.options |= secrets._asdict()
        self._auth_configured = self._auth_configured or any(secrets)
        return bytes(super()._connect_command())

    async def _process_err(self, err_msg: str) -> None:
        """Take the server's word as it is; nats-py's parser hands it on in lower case."""
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
    """nats-py's parser within bounds. Raises ProtocolError, on which nats-py connects anew."""

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read; see nats-py."""
        try:
            await super().parse(data)
            self._check_bounds()
        except OSError:
            raise
        except Exception as error:
            reason = _nonsense(error)
            with contextlib.suppress(*_ORDINARY):
                await self.nc._error_cb(reason)
            raise reason from error

    def _check_bounds(self) -> None:
        if self.state == AWAITING_MSG_PAYLOAD:
            if not self.header_needed <= self.needed <= MAX_PAYLOAD_BYTES:
                raise NonsenseError(f"a message of {self.needed} bytes is announced")
        elif len(self.buf) > MAX_CONTROL_LINE_SIZE and b"\r\n" in self.buf:
            # nats-py refuses a short line that it does not know, and waits behind a long one.
            raise NonsenseError("a line is no command")
        elif len(self.buf) > MAX_LINE_BYTES:
            raise NonsenseError(f"a line has more than {MAX_LINE_BYTES} bytes")


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
