"""The consumer library: what the ingestor publishes, as typed events or NumPy arrays.

    async with connect("nats://localhost:4222") as client:
        async for event in client.subscribe("market.futures.trades").events():
            print(event.symbol, event.price, event.size)

    async with connect("nats://localhost:4222") as client:
        book = client.subscribe("market.futures.mbp10", start=From.NEW, durable="my-service")
        async for batch in book.batches():
            best = batch.records["levels"][:, 0]
            spread_e9 = best["ask_px_e9"] - best["bid_px_e9"]

    async with connect("nats://localhost:4222") as client:
        print(await client.last_status("stocks"))
        async for status in client.statuses():
            print(status.feed, status.what, status.text)

JSON and packed messages are read alike. Prices of events are doubles, those of batches exact
integers of 1e-9. Batches are the fast way: packed, millions of records a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from ingestor.client.consumer import AtSequence, Durable, Ephemeral, From, Since, Start, check_start
from ingestor.client.payloads import (
    SUBJECTS,
    BadMessageError,
    Batch,
    Cause,
    Message,
    Skips,
    UnknownSubjectError,
    decode,
)
from ingestor.client.pull import Gap, OnGap, OvertakenError, raise_overtaken
from ingestor.client.subscription import Subscription
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError, NatsUnreachableError, StreamError
from ingestor.model.feed_status import (
    ALL_SUBJECTS,
    STATUS_STREAM,
    FeedStatus,
    What,
    decode_status,
    status_subject,
)
from ingestor.model.records import overlap
from ingestor.nats.answers import CutOffError, NobodyListensError, NotConnectedError
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi, StreamContents
from ingestor.nats.options import ConnectOptions

__all__ = [
    "DEFAULT_STREAM",
    "DEFAULT_URL",
    "EVERYTHING",
    "STATUS_STREAM",
    "AtSequence",
    "BadMessageError",
    "Batch",
    "Cause",
    "Client",
    "FeedStatus",
    "From",
    "Gap",
    "Message",
    "NotConnectedError",
    "OvertakenError",
    "Since",
    "Start",
    "StreamContents",
    "Subscription",
    "UnknownSubjectError",
    "What",
    "connect",
    "decode",
    "raise_overtaken",
]

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
DEFAULT_STREAM: Final = "MARKET_DATA"
EVERYTHING: Final = "market.>"

LOOK_AGAIN_S: Final = 1.0
"""How often it is asked whether the stream of statuses has been made."""

_NOT_FOUND: Final = "404"

log = logging.getLogger(__name__)


class Client:
    """A connection to the stream; an asynchronous context manager. Made by `connect`."""

    def __init__(
        self,
        url: str | Sequence[str],
        streams: tuple[str, str],
        options: dict[str, Any],
        give_up_after_s: float | None = None,
    ) -> None:
        """`streams` are that of the market's data and that of statuses."""
        reach, others = ConnectOptions.from_keywords(url, options)
        self._connection = Connection(
            reach,
            on_change=self._connection_changed,
            # Each server is tried once: who starts a consumer wants to hear at once that none
            # answers.
            open_timeout_s=None,
            **{"name": "ingestor.client"} | others,
        )
        self._stream, self._status_stream = streams
        self._skips = Skips()
        self._subscriptions: list[Subscription] = []
        self._give_up_after_s = give_up_after_s
        self._giving_up: asyncio.TimerHandle | None = None

    @property
    def skipped(self) -> Mapping[Cause, int]:
        """Messages that all subscriptions passed over, by cause (`Subscription.skipped`)."""
        return dict(self._skips.counts)

    def subscribe(
        self,
        subject: str = EVERYTHING,
        *,
        start: Start = From.BEGINNING,
        durable: str | None = None,
        follow: bool = True,
        on_gap: OnGap | None = None,
        from_event_ns: int = 0,
        to_event_ns: int = MAX_TIME_NS + 1,
    ) -> Subscription:
        """Return a subscription to a subject, which may hold the wildcards ``*`` and ``>``.

        With `durable`, a name, the server remembers what was acknowledged under it, and `start`
        only counts the first time; a durable serves one subscription at a time. Without `follow`
        the iteration ends where the stream does. The server is first asked when it is iterated.

        `on_gap` is called with a `Gap` where the stream dropped messages before they were read,
        before what follows it is handed out; `raise_overtaken` is one that raises. Without it a
        line in the log says so. Of events, only those from `from_event_ns` on and before
        `to_event_ns` (``ts_event_ns``, int ns UTC) are handed out; all are read, since a stream is
        in the order of publishing. Raises ConfigurationError for a `start` that means nothing.
        """
        check_start(start)
        if subject not in SUBJECTS and not any(overlap(subject, ours) for ours in SUBJECTS):
            known = ", ".join(SUBJECTS)
            log.warning("no event is ever published on %s: known are %s", subject, known)
        place = (self._connection, self._stream, subject)
        consumer = Durable(*place, start, name=durable) if durable else Ephemeral(*place, start)
        subscription = Subscription(
            self._connection,
            self._stream,
            consumer,
            self._skips,
            follow=follow,
            on_gap=on_gap,
            from_event_ns=from_event_ns,
            to_event_ns=to_event_ns,
        )
        self._subscriptions.append(subscription)
        return subscription

    async def contents(self) -> StreamContents:
        """Return what the stream holds: sequences, sizes, messages by subject.

        Raises StreamError, also when there is no such stream; as `last_status` otherwise.
        """
        await self._connection.ready()
        found = await JetStreamApi(self._connection).stream_contents(self._stream)
        if found is None:
            raise StreamError(f"stream {self._stream}: stream not found")
        return found

    async def last_status(self, feed: str) -> FeedStatus | None:
        """Return what a live feed (``stocks``, ``options``) told last, None when it never did.

        Raises StreamError, BadDataError, NatsUnreachableError, NatsRefusedError.
        """
        connection, stream, subject = self._connection, self._status_stream, status_subject(feed)
        await connection.ready()
        what = f"the last message on {subject}"
        # A direct get is answered by any replica, without the stream's leader.
        get = f"{connection.api_prefix}.DIRECT.GET.{stream}.{subject}"
        try:
            answer = await connection.request(what, get)
        except NobodyListensError:
            # No such stream, or one that is not read directly.
            api = JetStreamApi(connection)
            stored = await api.last_message(stream, subject)
            return None if stored is None else decode_status(stored.payload)
        code = (answer.headers or {}).get("Status")
        if code == _NOT_FOUND:
            return None
        if code is not None:
            raise StreamError(f"{what}: the server answers {code}")
        return decode_status(answer.data)

    async def statuses(
        self, feed: str | None = None, *, start: Start = From.LAST_PER_SUBJECT, follow: bool = True
    ) -> AsyncIterator[FeedStatus]:
        """Yield what one feed or every feed tells: by default the last of each, then what is new.

        Without `follow` it ends where the stream does. What is no status is passed over and
        counted (`skipped`). Raises StreamError, NatsUnreachableError, NatsRefusedError.
        """
        # The stream is made with the first status ever: to find none is no error here.
        while not await self._has_statuses():
            if not follow:
                return
            # All that the new stream will hold was told since: from its beginning nothing is
            # missed.
            await asyncio.sleep(LOOK_AGAIN_S)
            start = From.BEGINNING
        subject = status_subject(feed) if feed else ALL_SUBJECTS
        place = (self._connection, self._status_stream, subject)
        consumer = Ephemeral(*place, start)
        subscription = Subscription(*place[:2], consumer, self._skips, follow=follow)
        self._subscriptions.append(subscription)
        try:
            async for message in subscription.messages():
                try:
                    status = decode_status(message.payload)
                except BadDataError as error:
                    bad = BadMessageError(message.subject, message.seq, str(error), Cause.NO_STATUS)
                    subscription.skips.add(bad)
                    continue
                yield status
        finally:
            self._subscriptions.remove(subscription)
            await subscription.close()

    async def _has_statuses(self) -> bool:
        """Whether their stream is there. Raises as `last_status`."""
        await self._connection.ready()
        try:
            info = await JetStreamApi(self._connection).stream_info(self._status_stream)
        # The connection broke meanwhile; the caller asks again.
        except CutOffError:
            return False
        return info is not None

    async def __aenter__(self) -> Self:
        for caution in self._connection.cautions:
            log.warning("%s", caution)
        await self._connection.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error nothing is acknowledged: a durable delivers again what led to it.
        for subscription in tuple(self._subscriptions):
            await subscription.close(in_order=kind is None)
        if self._giving_up is not None:
            self._giving_up.cancel()
        await self._connection.close()

    def _connection_changed(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        if self._connection.up:
            log.warning("connected to NATS again")
            return
        if self._connection.failure is None:
            self._tell_lost()
        # A restarted server has forgotten its ephemeral consumers: each is made again.
        for subscription in self._subscriptions:
            subscription.lose("the connection was lost")

    def _tell_lost(self) -> None:
        servers, limit_s = self._connection.servers, self._give_up_after_s
        if limit_s is None:
            log.warning("lost the NATS server at %s; connecting again", servers)
            return
        log.warning(
            "lost the NATS server at %s; connecting again, for %g s at most", servers, limit_s
        )
        sentence = f"the NATS server at {servers} stayed away for {limit_s:g} s"
        give_up = self._connection.give_up
        loop = asyncio.get_running_loop()
        self._giving_up = loop.call_later(limit_s, give_up, NatsUnreachableError(sentence))


def connect(
    url: str | Sequence[str] = DEFAULT_URL,
    *,
    stream: str = DEFAULT_STREAM,
    status_stream: str = STATUS_STREAM,
    give_up_after_s: float | None = None,
    **options: Any,
) -> Client:
    """Return a client of a stream, to be used in ``async with``, which connects.

    `url` may be several, parted by commas or in a list, each with a user of its own. `options` say
    how to be let in: `user` and `password`, `token`, `credentials_file`, `nkey_file`, `tls` (an
    ``ssl.SSLContext``) or `tls_ca_file`, `tls_cert_file`, `tls_key_file`; `tls_first`,
    `inbox_prefix`, `jetstream_domain`, `api_prefix`; what is left, such as `name`, goes to
    ``nats.connect``. Raises ConfigurationError for what cannot work.

    Entering raises NatsUnreachableError, NatsRefusedError; afterwards a lost connection is made
    again, however long that takes, unless `give_up_after_s` says otherwise: what is iterated over
    then raises NatsUnreachableError.
    """
    return Client(url, (stream, status_stream), options, give_up_after_s)
