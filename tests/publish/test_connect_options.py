"""Servers that let in only whom they know, in the way they want, to what INTERFACES.md lists."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import nkeys  # type: ignore[import-untyped]
import pytest
from nats.errors import NoRespondersError

import ingestor
from ingestor.client import connect
from ingestor.model.errors import NatsRefusedError
from ingestor.model.feed_status import FeedStatus, What
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import ConsumerSettings, StreamSettings
from ingestor.publish.publisher import PublishReport
from tests.nats.test_options import SEED
from tests.ports import free_port
from tests.publish.certificates import make_certificates
from tests.publish.plain import PlainEncoder, publisher, trades

if TYPE_CHECKING:
    from tests.conftest import StartNatsServer
    from tests.nats_servers import NatsServer

INTERFACES = (Path(ingestor.__file__).parent / "INTERFACES.md").read_text()
PUBLISHING, MAKING = "publishing into", "making and"
CONSUMERS, STATUSES = "durable consumers", "statuses of"
READING, DURABLE = "reading with", "reading as a durable"


def permitted(*features: str, **instead: str) -> str:
    """The permissions that INTERFACES.md lists for some features, as a server's configuration."""
    rows = [
        row.split("|")[1:4]
        for feature in features
        for row in re.findall(rf"^\| {feature}.*$", INTERFACES, re.MULTILINE)
    ]
    assert len(rows) == len(features)
    publish = ", ".join(f'"{one}"' for row in rows for one in re.findall(r"`([^`]+)`", row[1]))
    subscribe = ", ".join(f'"{one}"' for row in rows for one in re.findall(r"`([^`]+)`", row[2]))
    text = f"permissions {{ publish: [ {publish} ], subscribe: [ {subscribe} ] }}"
    for old, new in instead.items():
        text = text.replace({"inbox": "_INBOX", "api": "$JS.API"}[old], new)
    return text


def user(permissions: str) -> str:
    return f"authorization {{ users: [ {{ user: u, password: p, {permissions} }} ] }}"


async def published(
    server: NatsServer, connect_options: ConnectOptions, **options: Any
) -> PublishReport:
    sender = publisher(server, connect_options=connect_options, **options)
    try:
        await sender.open()
        await sender.send(trades(0, 50))
        await sender.flush()
    finally:
        report = await sender.close()
    return report


async def read(url: str, **options: Any) -> int:
    """How many messages a consumer gets."""
    async with connect(url, **options) as client:
        subscription = client.subscribe(follow=False)
        return len([message async for message in subscription.messages()])


def test_publishing_needs_exactly_the_permissions_that_are_listed(
    start_nats_server: StartNatsServer,
) -> None:
    permissions = permitted(PUBLISHING, MAKING, CONSUMERS, STATUSES)
    server = start_nats_server(extra_config=user(permissions))

    async def check() -> None:
        consumers = (ConsumerSettings("lake", ("market.>",)),)
        stream = StreamSettings(consumers=consumers)
        connect_options = ConnectOptions(url=server.url, user="u", password="p")
        sender = publisher(server, connect_options=connect_options, stream=stream)
        await sender.open()
        sender.statuses.tell(FeedStatus(feed="stocks", what=What.STREAMING, at_ns=1, text="it"))
        await sender.send(trades(0, 50))
        await sender.flush()
        report = await sender.close()
        assert report.messages == 50
        assert sender.statuses.published == 1

    asyncio.run(check())
    assert "Violation" not in server.log()


def test_a_stream_that_is_as_it_is_wanted_is_published_to_without_leave_to_make_it(
    start_nats_server: StartNatsServer,
) -> None:
    one = user(permitted(PUBLISHING)).replace("users: [", "users: [ {user: boss, password: b},")
    server = start_nats_server(extra_config=one)

    async def check() -> None:
        boss = ConnectOptions(url=server.url, user="boss", password="b")
        assert (await published(server, boss)).messages == 50
        connect_options = ConnectOptions(url=server.url, user="u", password="p")
        assert (await published(server, connect_options)).messages == 50

    asyncio.run(check())
    assert "Violation" not in server.log()


@pytest.mark.parametrize("durable", [None, "svc"])
def test_reading_needs_exactly_the_permissions_that_are_listed(
    start_nats_server: StartNatsServer, durable: str | None
) -> None:
    features = (READING, DURABLE) if durable else (READING,)
    config = user(permitted(*features))
    server = start_nats_server(
        extra_config=config.replace("users: [", "users: [ {user: boss, password: b},")
    )

    async def check() -> None:
        boss = ConnectOptions(url=server.url, user="boss", password="b")
        await published(server, boss)
        async with connect(server.url, user="u", password="p") as client:
            subscription = client.subscribe(durable=durable, follow=False)
            assert len([message async for message in subscription.messages()]) == 50

    asyncio.run(check())
    assert "Violation" not in server.log()


def test_an_inbox_prefix_is_used_for_every_answer(start_nats_server: StartNatsServer) -> None:
    permissions = permitted(PUBLISHING, MAKING, READING, inbox="_private.team")
    server = start_nats_server(extra_config=user(permissions))

    async def check() -> None:
        connect_options = ConnectOptions(
            url=server.url, user="u", password="p", inbox_prefix="_private.team"
        )
        assert (await published(server, connect_options)).messages == 50
        options = {"user": "u", "password": "p", "inbox_prefix": "_private.team"}
        assert await read(server.url, **options) == 50

    asyncio.run(check())
    assert "Violation" not in server.log()


@pytest.mark.parametrize("way", [{"jetstream_domain": "hub"}, {"api_prefix": "$JS.hub.API"}])
def test_a_stream_behind_a_leaf_node_is_published_to_and_read_through_its_domain(
    start_nats_server: StartNatsServer, tmp_path: Path, way: dict[str, str]
) -> None:
    port = free_port()
    domain = 'jetstream {{ store_dir: "{}", domain: {} }}\n'
    start_nats_server(
        extra_config=domain.format(tmp_path / "hub", "hub")
        + f'leafnodes {{ listen: "127.0.0.1:{port}" }}'
    )
    leaf = start_nats_server(
        extra_config=domain.format(tmp_path / "leaf", "leaf")
        + f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}\n'
        + user(permitted(PUBLISHING, MAKING, READING, api="$JS.hub.API"))
    )

    async def check() -> None:
        await hub_answers(leaf.url)
        connect_options = ConnectOptions(url=leaf.url, user="u", password="p", **way)  # type: ignore[arg-type]
        assert (await published(leaf, connect_options)).messages == 50
        assert await read(leaf.url, user="u", password="p", **way) == 50
        elsewhere = ConnectOptions(url=leaf.url, user="u", password="p")
        with pytest.raises(NatsRefusedError, match=r"\$JS\.API\.STREAM\.INFO\.MARKET_DATA"):
            await published(leaf, elsewhere)

    asyncio.run(check())


async def hub_answers(url: str) -> None:
    """Wait until the leaf's hub has told it who answers there; that is later than the link."""
    client = await nats.connect(url, user="u", password="p")
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(NoRespondersError):
                await client.request("$JS.hub.API.STREAM.INFO.MARKET_DATA")
                break
            await asyncio.sleep(0.02)
    await client.close()


def test_an_nkey_opens_a_server_that_begins_with_tls(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    files = make_certificates(tmp_path)
    public = nkeys.from_seed(bytearray(SEED.encode())).public_key.decode()
    seed = tmp_path / "user.nk"
    seed.write_text(SEED)
    seed.chmod(0o600)
    key = files.server.with_suffix(".key")
    server = start_nats_server(
        extra_config=f"authorization {{ users: [ {{ nkey: {public} }} ] }}\n"
        f'tls {{ cert_file: "{files.server}", key_file: "{key}", handshake_first: true }}'
    )
    options: dict[str, Any] = {"nkey_file": seed, "tls_ca_file": files.ca, "tls_first": True}

    async def check() -> None:
        connect_options = ConnectOptions(url=server.url, **options)
        assert (await published(server, connect_options)).messages == 50
        assert await read(server.url, **options) == 50

    asyncio.run(check())


def test_a_server_that_offers_tls_is_spoken_to_in_tls_where_that_is_wanted(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    files = make_certificates(tmp_path)
    key = files.server.with_suffix(".key")
    server = start_nats_server(
        extra_config=f'tls {{ cert_file: "{files.server}", key_file: "{key}" }}\n'
        "allow_non_tls: true"
    )

    async def check() -> None:
        options = ConnectOptions(url=server.url, tls_ca_file=files.ca)
        link = Connection(options, on_change=lambda: None)
        await link.open()
        writer = link.client.writer
        assert writer is not None
        assert writer.get_extra_info("ssl_object") is not None
        await link.close()

    asyncio.run(check())


def test_a_stream_of_interest_without_consumers_is_warned_of(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with connect(nats_server.url) as client:
            config = {"name": "MARKET_DATA", "subjects": ["market.>"], "retention": "interest"}
            await client._connection.api("stream", "STREAM.CREATE.MARKET_DATA", dict, config)
        await published(nats_server, ConnectOptions(url=nats_server.url), encoder=PlainEncoder())

    asyncio.run(check())
    assert "keeps nothing" in caplog.text
