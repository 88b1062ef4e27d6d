"""The connection: nats-py for protocol, authentication, TLS and reconnects; frames past it.

nats-py formats every PUB in Python, so finished frames are written to its transport directly.
These are the rules that make it safe:

- Whole commands only, in one call: the client's own commands then never fall inside a frame.
- Only while the client says it is connected and its callbacks have said so too: during a
  reconnect the new transport exists before the server has heard CONNECT and the subscriptions.
- Nothing that changes afterwards: uvloop keeps a reference to it until it is sent.
- Nothing waits for the transport to drain: the publisher's window bounds what it can hold.
- A peer that reads nothing would keep an orderly close waiting for ever: `drop` aborts.

Answers are taken in the read loop itself: nats-py completes a subscription's future for every
message without queue or task, and a future that calls back instead of completing is all it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error, NoRespondersError, SecureConnWantedError

from ingestor.model.bounds import MAX_JSON_EVENT_BYTES, MAX_PAYLOAD_BYTES, printable
from ingestor.model.errors import IngestorError, NatsRefusedError, NatsUnreachableError
from ingestor.nats.guarded import GuardedClient, is_refusal
from ingestor.nats.options import Access, Login, prepare

OPEN_TIMEOUT_S: Final = 5.0
"""How long the first connection is tried for."""

HANDSHAKE_TIMEOUT_S: Final = 2
RECONNECT_PAUSE_S: Final = 0.25
PING_INTERVAL_S: Final = 10
"""How often an idle connection is probed; two pings without an answer end it."""

CLOSE_TIMEOUT_S: Final = 2.0
MAX_FORMER: Final = 16
"""Lost connections that are remembered until the server is known to have closed them."""

_MARK_SID: Final = 1 << 62
"""Of the subscription that marks a connection; nats-py counts its own from 1."""

_FORMER_PAUSE_S: Final = 0.05
CLIENT_NAME: Final = "ingestor"

Receive = Callable[[str, bytes, str | None, str], None]
"""Takes an answer: subject, payload, status of the header where there is one, reply subject."""

Headers = dict[str, str]

_FORBIDDEN_SUBJECT: Final = re.compile(
    r'permissions violation for publish to "([^"]*)"', re.IGNORECASE
).search

log = logging.getLogger(__name__)


class _Inbox(asyncio.Future[Any]):
    """A future for `Client.subscribe` that hands every message on and never completes."""

    def __init__(self, receive: Receive) -> None:
        super().__init__()
        self._receive = receive

    def set_result(self, result: Msg, /) -> None:
        status = result.headers.get("Status") if result.headers else None
        self._receive(result.subject, result.data, status, result.reply)


class Connection:
    """One connection; `on_change` is called when it comes up, goes down or is refused.

    Raises ConfigurationError for settings that cannot work.
    """

    def __init__(self, access: Access, *, on_change: Callable[[], None]) -> None:
        self._login = prepare(access)
        self._on_change = on_change
        self._client = GuardedClient(self._login)
        self._up = False
        self._closing = False
        self._last_error: Exception | None = None
        self._refused = asyncio.Event()
        self._spared: dict[str, bool] = {}
        self._mark = ""
        self._former: deque[str] = deque(maxlen=MAX_FORMER)
        self.failure: IngestorError | None = None
        """Why the server will never take us, once that is known."""

    @property
    def up(self) -> bool:
        """Whether frames may be written."""
        return self._up and self._client.is_connected

    @property
    def servers(self) -> str:
        """The servers, without secrets."""
        return self._login.names

    @property
    def api_prefix(self) -> str:
        """What requests to JetStream begin with: ``$JS.API`` unless the access says otherwise."""
        return self._login.api_prefix

    @property
    def max_payload_bytes(self) -> int:
        """The longest message, headers included, that the server takes which we are at."""
        return min(int(self._client.max_payload), MAX_PAYLOAD_BYTES)

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made anew."""
        return int(self._client.stats["reconnects"])

    async def open(self) -> None:
        """Connect. Raises NatsUnreachableError, NatsRefusedError."""
        connecting = asyncio.create_task(self._connect())
        refused = asyncio.create_task(self._refused.wait())
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await asyncio.wait({connecting, refused}, return_when=asyncio.FIRST_COMPLETED)
                if not self.failure:
                    await connecting
        except (TimeoutError, OSError, Error) as error:
            raise self.failure or self._unreachable(error) from None
        finally:
            refused.cancel()
            connecting.cancel()
            await asyncio.wait({connecting, refused})
        self._check_payload()
        if self.failure:
            raise self.failure
        self._up = True
        self._mark_connection()

    async def close(self) -> None:
        """Close, in bounded time."""
        self._up = False
        self._closing = True
        with contextlib.suppress(TimeoutError, Error, OSError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._client.close()
        self.drop()

    def drop(self) -> None:
        """Cut the connection at once; the client then reconnects, unless it is closed."""
        self._client.abort()

    def write(self, *parts: bytes | memoryview) -> bool:
        """Send finished commands, in one or more parts.

        False, with nothing done, while there is no connection.
        """
        writer = self._client.writer
        # A transport that was closed under us may break, and the client is yet to notice.
        if writer is None or writer.is_closing() or not self.up:
            return False
        try:
            writer.writelines(parts)
        except (RuntimeError, OSError):
            return False
        return True

    async def listen(self, subject: str, receive: Receive) -> None:
        """Have every message of a subject handed to `receive`, which must not raise.

        Returns when the server knows. Raises TimeoutError.
        """
        try:
            await self._client.subscribe(subject, future=_Inbox(receive))
            await self._client.flush(HANDSHAKE_TIMEOUT_S)
        except (Error, OSError):
            raise TimeoutError(f"no answer to the subscription to {subject}") from None

    def new_inbox(self) -> str:
        """Return a subject nobody else has."""
        return self._client.new_inbox()

    async def request(
        self, subject: str, payload: bytes, timeout_s: float, headers: Headers | None = None
    ) -> bytes | None:
        """Ask, and return the answer; None when nobody listens. Raises TimeoutError."""
        try:
            message = await self._client.request(subject, payload, timeout_s, headers=headers)
        except NoRespondersError:
            return None
        except (Error, OSError):
            raise TimeoutError(f"no answer on {subject}") from None
        return message.data

    async def answers(self, timeout_s: float) -> bool:
        """Whether the server that we are at is alive: it answers a ping in time."""
        with contextlib.suppress(TimeoutError, Error, OSError):
            async with asyncio.timeout(timeout_s):
                await self._client.flush(HANDSHAKE_TIMEOUT_S)
                return True
        return False

    async def former_closed(self, timeout_s: float) -> bool:
        """Whether the server has read all that it will ever read of our lost connections.

        What a connection brings is read up to its end, which may be after the next one began. With
        it go its subscriptions, so where nobody listens to its mark any more, that is over.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self._former and self.up:
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0 or self.forbidden(self._former[0]):
                self._former.clear()  # One that is torn on the way may be kept for minutes.
                return False
            if await self._nobody_listens(self._former[0], min(left_s, _FORMER_PAUSE_S)):
                self._spared.pop(self._former.popleft(), None)
        return not self._former

    async def _nobody_listens(self, subject: str, timeout_s: float) -> bool:
        self.spare(subject)
        with contextlib.suppress(TimeoutError):
            return await self.request(subject, b"", timeout_s) is None
        return False

    def _mark_connection(self) -> None:
        """Subscribe to a subject for this connection alone: nats-py renews only its own ones."""
        if self._mark:
            self._former.append(self._mark)
        self._mark = self.new_inbox()
        self.write(f"SUB {self._mark} {_MARK_SID}\r\n".encode())

    def spare(self, subject: str) -> None:
        """Go on when the server says that we may not publish on this subject.

        On any other one that ends the connection for good.
        """
        self._spared[subject] = False

    def forbidden(self, subject: str) -> bool:
        """Whether the server has said so since the subject was last spared."""
        return self._spared.get(subject, False)

    async def _connect(self) -> None:
        await self._client.open(
            name=CLIENT_NAME,
            error_cb=self._errored,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            connect_timeout=HANDSHAKE_TIMEOUT_S,
            reconnect_time_wait=RECONNECT_PAUSE_S,
            max_reconnect_attempts=-1,
            ping_interval=PING_INTERVAL_S,
        )
        # The client also returns when the server closed on it in the middle of the handshake.
        await self._client.flush(HANDSHAKE_TIMEOUT_S)

    async def _errored(self, error: Exception) -> None:
        self._last_error = error
        log.debug("NATS client: %s", error)
        if _is_refusal(error) and not self._bears(error):
            self._refuse(error)

    def _bears(self, error: Exception) -> bool:
        named = _FORBIDDEN_SUBJECT(str(error))
        if named is None or named[1] not in self._spared:
            return False
        self._spared[named[1]] = True
        return True

    async def _disconnected(self) -> None:
        self._up = False
        if not self._closing:
            self._on_change()

    async def _reconnected(self) -> None:
        self._check_payload()
        self._up = self.failure is None
        self._mark_connection()
        self._on_change()

    async def _closed(self) -> None:
        self._up = False
        error = self._client.last_error
        if error is not None and not self._closing:
            self._refuse(error)

    def _check_payload(self) -> None:
        if self.max_payload_bytes < MAX_JSON_EVENT_BYTES:
            self._fail(
                NatsRefusedError(
                    f"the NATS server at {self.servers} takes messages of at most "
                    f"{self.max_payload_bytes} bytes (max_payload); events need "
                    f"{MAX_JSON_EVENT_BYTES}"
                )
            )

    def _refuse(self, error: Exception) -> None:
        self._fail(_refused(self._login, error))

    def _fail(self, failure: NatsRefusedError) -> None:
        if self.failure is None:
            self.failure = failure
            self._refused.set()
            self._on_change()

    def _unreachable(self, error: Exception) -> NatsUnreachableError:
        reason = self._last_error or error
        return NatsUnreachableError(
            f"no NATS server answers at {self.servers}: {_sentence(reason)}"
        )


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, ssl.SSLError):
        return isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in str(error.reason)
    return is_refusal(error)


def _refused(login: Login, error: Exception) -> NatsRefusedError:
    what = "TLS" if isinstance(error, (ssl.SSLError, SecureConnWantedError)) else "it says"
    return NatsRefusedError(
        f"the NATS server at {login.names} does not let us in or publish ({what}): "
        f"{_sentence(error)}"
    )


def _sentence(error: Exception) -> str:
    text = printable(str(error).removeprefix("nats: ").strip().strip("'"))
    return text or type(error).__name__
