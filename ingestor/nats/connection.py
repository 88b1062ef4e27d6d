"""The connection of publisher, statuses and consumers: nats-py, and frames past it both ways.

nats-py does protocol, authentication, TLS, requests and reconnects. It formats every PUB in
Python, so finished frames are written to its transport directly. These rules make it safe:

- Whole commands only, in one call: the client's own commands then never fall inside a frame.
- Only while the client says it is connected and its callbacks have said so too: during a
  reconnect the new transport exists before the server has heard CONNECT and the subscriptions.
- Nothing that changes afterwards: uvloop keeps a reference to it until it is sent.
- Nothing waits for the transport to drain: the publisher's window bounds what it can hold.
- A peer that reads nothing would keep an orderly close waiting for ever: `drop` aborts.

Answers to frames are handed to their `Receiver` in the read loop itself, without queue or task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, NoRespondersError

from ingestor.model.bounds import printable
from ingestor.model.errors import IngestorError, NatsRefusedError
from ingestor.nats.answers import (
    UNAVAILABLE,
    ApiError,
    CutOffError,
    ForbiddenError,
    NoAnswerError,
    NobodyListensError,
    NotConnectedError,
    RefusedError,
    nonsense,
)
from ingestor.nats.guarded import GuardedClient, Receiver, is_refusal, refusal
from ingestor.nats.options import ConnectOptions, resolve

OPEN_TIMEOUT_S: Final = 5.0
"""How long a publisher tries to connect at first: its server may just be starting."""

HANDSHAKE_TIMEOUT_S: Final = 2
PING_INTERVAL_S: Final = 10
"""How often an idle connection is probed; two pings without an answer end it."""

REQUEST_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0

MAX_FORMER: Final = 16
"""Lost connections that are remembered until the server is known to have closed them."""

MAX_REMEMBERED: Final = 1_024
"""Subjects of requests that are remembered: the server's word that one is forbidden may come when
the request has timed out, but not after this many others."""

DEFAULTS: Final[dict[str, Any]] = {
    "name": "ingestor",
    "connect_timeout": HANDSHAKE_TIMEOUT_S,
    "reconnect_time_wait": 0.25,
    "max_reconnect_attempts": -1,
    "ping_interval": PING_INTERVAL_S,
}
"""What differs from nats-py's own: a server is waited for as long as it takes."""

_MARK_SID: Final = 1 << 62
"""Of the subscription that marks a connection; nats-py counts its own from 1."""

_FORMER_PAUSE_S: Final = 0.05
_NOT_ENABLED: Final = ApiError(UNAVAILABLE, description="JetStream is not enabled on the server")
_FORBIDDEN_SUBJECT: Final = re.compile(
    r'permissions violation for publish to "([^"]*)"', re.IGNORECASE
).search

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Envelope(msgspec.Struct, frozen=True):
    error: ApiError | None = None


class Connection:
    """One connection; `on_change` is called when it comes up, goes down or has failed for good."""

    def __init__(
        self,
        options: ConnectOptions,
        *,
        on_change: Callable[[], None],
        open_timeout_s: float | None = OPEN_TIMEOUT_S,
        min_payload_bytes: int = 0,
        **nats_py: Any,
    ) -> None:
        """Raises ConfigurationError for options that cannot work.

        Args:
            options: Server addresses and credentials.
            on_change: Must be quick and not raise.
            open_timeout_s: How long opening tries every server again and again; None tries each
                of them once.
            min_payload_bytes: A server that takes shorter messages only is refused.
            nats_py: Options of `nats.connect` that beat `DEFAULTS`.
        """
        self._credentials = resolve(options)
        self._on_change = on_change
        self._open_timeout_s = open_timeout_s
        self._min_payload_bytes = min_payload_bytes
        self._options = DEFAULTS | nats_py
        self.client = GuardedClient(self._credentials)
        """nats-py's client, for what is built upon it: a micro service."""
        self._settled = asyncio.Event()
        """It is up, or will never be again."""
        self._opened = self._closing = False
        self._first_errors = self._losses = 0
        self._last_error: Exception | None = None
        self._forbidden: dict[str, Exception | None] = {}
        """Subjects that were asked on, and the server's word on those that are forbidden."""
        self._asking: dict[asyncio.Timeout, str] = {}
        """What ends the wait of each request that is under way, and its subject."""
        self._mark = ""
        self._former: deque[str] = deque(maxlen=MAX_FORMER)
        self.failure: IngestorError | None = None
        """Why there will be no connection any more, once that is known."""

    @property
    def up(self) -> bool:
        """Whether frames may be written."""
        return self.failure is None and self._settled.is_set() and self.client.is_connected

    @property
    def servers(self) -> str:
        """The servers, without secrets."""
        return self._credentials.names

    @property
    def cautions(self) -> tuple[str, ...]:
        """Sentences that the operator is to read once: what works and is not safe."""
        return self._credentials.cautions

    @property
    def api_prefix(self) -> str:
        """What requests to JetStream begin with: ``$JS.API`` unless the options say otherwise."""
        return self._credentials.api_prefix

    @property
    def server_version(self) -> tuple[int, int]:
        """Major and minor version of the server that we are at; 0, 0 where it does not say."""
        return self.client.server_version

    @property
    def max_payload_bytes(self) -> int:
        """The longest message, headers included, that the server takes which we are at."""
        return int(self.client.max_payload)

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made again."""
        return int(self.client.stats["reconnects"])

    async def open(self) -> None:
        """Connect; closed again when it fails. Raises NatsUnreachableError, NatsRefusedError."""
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        self._opened = True
        self._settled.set()
        self._mark_connection()

    async def _open(self) -> None:
        connecting = asyncio.create_task(self._connect())
        settled = asyncio.create_task(self._settled.wait())
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await asyncio.wait({connecting, settled}, return_when=asyncio.FIRST_COMPLETED)
                if self.failure is None:
                    await connecting
        except (OSError, Error) as error:
            raise self.failure or refusal(self._last_error or error, self.servers) from None
        finally:
            connecting.cancel()
            # Both to their end: a task that is only cancelled would write into a closed transport.
            settled.cancel()
            await asyncio.wait({connecting, settled})
        self._check_payload()
        if self.failure is not None:
            raise self.failure

    async def _connect(self) -> None:
        await self.client.open(
            error_cb=self._errored,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            **self._options,
        )
        # The client also returns when the server closed on it in the middle of the handshake.
        await self.client.flush(HANDSHAKE_TIMEOUT_S)

    async def close(self) -> None:
        """Close, in bounded time."""
        self._closing = True
        # From here on `up` is False, so nothing is written into a connection that is being closed.
        self._settled.clear()
        with contextlib.suppress(OSError, Error):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.client.close()
        # A peer that reads nothing keeps the transport open whatever was waited for.
        self.drop()

    def drop(self) -> None:
        """Cut the connection at once; the client then reconnects, unless it is closed."""
        self.client.abort()

    async def ready(self) -> None:
        """Wait until there is a connection. Raises what `failure` says; `NotConnectedError`."""
        if self._closing or not self._opened:
            raise NotConnectedError(
                "the client is not connected: use it within `async with connect(...) as client:`"
            )
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure

    def write(self, *parts: bytes | memoryview) -> bool:
        """Send finished commands, in one or more parts.

        False, with nothing done, while there is no connection.
        """
        writer = self.client.writer
        # A transport that was closed under us may break, and the client is yet to notice.
        if writer is None or writer.is_closing() or not self.up:
            return False
        try:
            writer.writelines(parts)
        except (RuntimeError, OSError, AttributeError):
            # AttributeError: asyncio's own, from CPython 3.12 on, of a transport without a loop.
            return False
        return True

    async def tap(self, receiver: Receiver) -> tuple[str, Subscription]:
        """Deliver what comes below a new inbox to `receiver`; return the inbox.

        Raises `NoAnswerError`.
        """
        inbox = self.client.new_inbox()
        try:
            return inbox, await self.client.tap(f"{inbox}.>", receiver)
        except (OSError, Error) as error:
            raise NoAnswerError(f"no subscription at {self.servers}: {error!r}") from error

    async def untap(self, subscription: Subscription) -> None:
        """End what `tap` began."""
        with contextlib.suppress(OSError, Error):
            await self.client.untap(subscription)

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        """Send one message. Raises nothing while there is no connection: it is then not sent."""
        self._remember(subject)
        if self.client.is_connected:
            with contextlib.suppress(OSError, Error):
                await self.client.publish(subject, payload, reply=reply)

    async def request(
        self,
        what: str,
        subject: str,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Ask, and return the answer; `what` opens the sentence of an error.

        Raises `NoAnswerError` or its subclass (a TimeoutError), `ForbiddenError`, and what
        `failure` says. That the subject is forbidden ends nothing but the request.
        """
        self._remember(subject)
        losses = self._losses
        patience = asyncio.timeout(None)
        self._asking[patience] = subject
        try:
            async with patience:
                return await self.client.request(
                    subject, payload, timeout_s or REQUEST_TIMEOUT_S, headers=headers
                )
        except NoRespondersError:
            raise NobodyListensError(
                f"{what}: nobody listens on {subject} at {self.servers}"
            ) from None
        except (OSError, Error):
            # That a request is forbidden the server says in an error of the connection.
            if (said := self._forbidden.get(subject)) is not None:
                raise ForbiddenError(str(refusal(said, self.servers))) from None
            if self.failure is not None:
                raise self.failure from None
            kind = NoAnswerError if losses == self._losses else CutOffError
            raise kind(f"{what}: no answer on {subject} from {self.servers}") from None
        finally:
            self._asking.pop(patience, None)

    async def api(
        self,
        what: str,
        subject: str,
        kind: type[T],
        body: Any = None,
        *,
        timeout_s: float | None = None,
    ) -> T:
        """Ask JetStream's API for a value of `kind`; `what` opens the sentence of an error.

        Raises as `request` does, and `RefusedError` when JetStream is off, says no, or says what
        makes no sense.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        subject = f"{self.api_prefix}.{subject}"
        try:
            answer = await self.request(what, subject, payload, timeout_s=timeout_s)
        except NobodyListensError:
            raise RefusedError(what, _NOT_ENABLED) from None
        try:
            if error := msgspec.json.decode(answer.data, type=_Envelope).error:
                raise RefusedError(what, error)
            return msgspec.json.decode(answer.data, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            text = f"the answer is no JSON object of ours: {printable(answer.data)!r}"
            raise nonsense(what, text) from None

    async def answers(self, timeout_s: float) -> bool:
        """Whether the server that we are at is alive: it answers a ping in time."""
        with contextlib.suppress(OSError, Error):
            async with asyncio.timeout(timeout_s):
                await self.client.flush(HANDSHAKE_TIMEOUT_S)
                return True
        return False

    async def former_closed(self, timeout_s: float, marks: Sequence[str] = ()) -> bool:
        """Whether the server has read all that it will ever read of our lost connections.

        Of those with the `marks` as well, of a process that died.
        What a connection brings is read up to its end, which may be after the next one began. With
        it go its subscriptions, so where nobody listens to its mark any more, that is over.
        """
        self._former.extend(marks)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self._former and self.up:
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                self._former.clear()  # One that is cut on the way may be kept for minutes.
                return False
            try:
                wait_s = min(left_s, _FORMER_PAUSE_S)
                await self.request("a lost connection", self._former[0], timeout_s=wait_s)
            except NobodyListensError:
                self._former.popleft()
            except ForbiddenError:
                self._former.clear()  # Nobody can tell.
            except NoAnswerError:
                pass  # It is still there.
        return not self._former

    @property
    def marks(self) -> tuple[str, ...]:
        """Subjects on which somebody listens while the server reads from a connection of ours."""
        return (*self._former, self._mark)

    def _mark_connection(self) -> None:
        """Subscribe to a subject for this connection alone: nats-py renews only its own ones."""
        if self._mark:
            self._former.append(self._mark)
        self._mark = self.client.new_inbox()
        self.write(f"SUB {self._mark} {_MARK_SID}\r\n".encode())

    def _remember(self, subject: str) -> None:
        # A dict keeps its order: the first key is the oldest.
        if len(self._forbidden) >= MAX_REMEMBERED and subject not in self._forbidden:
            del self._forbidden[next(iter(self._forbidden))]
        self._forbidden[subject] = None

    async def _errored(self, error: Exception) -> None:
        self._last_error = error
        log.debug("NATS client: %r", error)
        if self._closing:
            return
        refused = is_refusal(error)
        if not self._opened:
            # One server of several is enough: it is over when each has been tried.
            self._first_errors += 1
            tried = self._first_errors >= len(self._credentials.servers)
            if tried and (refused or self._open_timeout_s is None):
                self.give_up(refusal(error, self.servers))
        elif refused:
            named = _FORBIDDEN_SUBJECT(str(error))
            if named is not None and named[1] in self._forbidden:
                self._forbidden[named[1]] = error
                # What waits for an answer on it waits no longer: none will come.
                for patience in [one for one, asked in self._asking.items() if asked == named[1]]:
                    del self._asking[patience]
                    patience.reschedule(asyncio.get_running_loop().time())
            else:
                self.give_up(refusal(error, self.servers))

    async def _disconnected(self) -> None:
        if self._opened and not self._closing:
            # Counted here: a request that was under way knows by it why no answer came.
            self._losses += 1
            if self.failure is None:
                self._settled.clear()
            self._on_change()

    async def _reconnected(self) -> None:
        if self._opened and not self._closing:
            # Another server of the cluster may have another bound.
            self._settled.set()
            self._check_payload()
            self._mark_connection()
            self._on_change()

    async def _closed(self) -> None:
        if not self._closing:
            error = self.client.last_error or Error("connection closed")
            self.give_up(refusal(error, self.servers))

    def _check_payload(self) -> None:
        if self.max_payload_bytes < self._min_payload_bytes:
            self.give_up(
                NatsRefusedError(
                    f"the NATS server at {self.servers} takes messages of at most "
                    f"{self.max_payload_bytes} bytes (max_payload); events need "
                    f"{self._min_payload_bytes}"
                )
            )

    def give_up(self, failure: IngestorError) -> None:
        """Have no connection any more, for the first reason given: whoever waits gets that."""
        if self.failure is None:
            self.failure = failure
            self._settled.set()
            self._on_change()
