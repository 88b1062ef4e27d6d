"""Streams and consumers on real servers of both generations."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ingestor.model.errors import ConfigurationError, StreamError
from ingestor.model.units import NS_PER_S
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import (
    ConsumerSettings,
    StreamSettings,
    StreamState,
    set_up,
)
from tests.publish.plain import connect, raw_info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import StartNatsServer
    from tests.nats_servers import NatsServer


@asynccontextmanager
async def api_of(server: NatsServer) -> AsyncIterator[JetStreamApi]:
    link = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
    await link.open()
    try:
        yield JetStreamApi(link)
    finally:
        await link.close()


def set_up_on(server: NatsServer, settings: StreamSettings) -> StreamState:
    async def run() -> StreamState:
        async with api_of(server) as api:
            return await set_up(api, settings)

    return asyncio.run(run())


def request(server: NatsServer, subject: str, **body: Any) -> dict[str, Any]:
    """An operator's own request to the server."""

    async def run() -> dict[str, Any]:
        client = await connect(server)
        answer = await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), 5)
        await client.close()
        values: dict[str, Any] = json.loads(answer.data)
        assert "error" not in values, values
        return values

    return asyncio.run(run())


def config_of(server: NatsServer, stream: str = "MARKET_DATA") -> dict[str, Any]:
    config: dict[str, Any] = asyncio.run(raw_info(server, stream))["config"]
    return config


def test_a_missing_stream_is_made_as_the_contract_says(any_nats_server: NatsServer) -> None:
    state = set_up_on(any_nats_server, StreamSettings())
    config = config_of(any_nats_server)
    assert config["subjects"] == ["market.>"]
    assert (config["storage"], config["retention"], config["discard"]) == ("file", "limits", "old")
    assert config["max_age"] == 86_400 * NS_PER_S
    assert config["max_bytes"] == config["max_msgs"] == -1
    assert (state.name, state.last_seq) == ("MARKET_DATA", 0)


def test_fast_ingest_is_there_where_the_server_knows_it(
    nats_server: NatsServer, old_nats_server: NatsServer
) -> None:
    assert set_up_on(nats_server, StreamSettings()).fast_ingest
    assert not set_up_on(old_nats_server, StreamSettings()).fast_ingest


def test_settings_of_a_new_stream_are_taken(nats_server: NatsServer) -> None:
    settings = StreamSettings(
        name="REPLAY",
        subjects=("market.futures.>",),
        max_age_s=60.0,
        max_bytes=10_000_000,
        max_msgs=5_000,
        storage="file",
        discard="new",
        persist_mode="async",
    )
    set_up_on(nats_server, settings)
    config = config_of(nats_server, "REPLAY")
    assert config["max_age"] == 60 * NS_PER_S
    assert (config["max_bytes"], config["max_msgs"]) == (10_000_000, 5_000)
    assert (config["discard"], config["persist_mode"]) == ("new", "async")


def test_setting_up_twice_changes_nothing_and_says_nothing(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    # The server leaves out a persist_mode that is its default: that is no difference.
    settings = StreamSettings(
        max_age_s=3600.0, persist_mode="default", consumers=(ConsumerSettings("core"),)
    )
    set_up_on(any_nats_server, settings)
    before = config_of(any_nats_server)
    caplog.clear()
    with caplog.at_level(logging.INFO, "ingestor"):
        set_up_on(any_nats_server, settings)
    assert config_of(any_nats_server) == before
    assert caplog.messages == []


def test_what_an_operator_chose_stays_unless_the_configuration_names_it(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = {
        "name": "MARKET_DATA",
        "subjects": ["market.>", "notes.*"],
        "max_age": 7 * 86_400 * NS_PER_S,
        "max_msg_size": 500_000,
        "description": "kept for a week",
        "duplicate_window": 60 * NS_PER_S,
    }
    request(any_nats_server, "STREAM.CREATE.MARKET_DATA", **chosen)
    with caplog.at_level(logging.INFO, "ingestor"):
        set_up_on(any_nats_server, StreamSettings(max_bytes=50_000_000))
    config = config_of(any_nats_server)
    assert {key: config[key] for key in chosen} == chosen
    assert config["max_bytes"] == 50_000_000
    assert any("max_bytes changed from -1 to 50000000" in line for line in caplog.messages)


def test_fast_ingest_is_switched_on_in_a_stream_that_is_there(nats_server: NatsServer) -> None:
    request(nats_server, "STREAM.CREATE.MARKET_DATA", name="MARKET_DATA", subjects=["market.>"])
    assert set_up_on(nats_server, StreamSettings()).fast_ingest
    assert config_of(nats_server)["allow_batched"] is True


def test_what_cannot_be_changed_is_named_and_stays(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    request(
        nats_server,
        "STREAM.CREATE.MARKET_DATA",
        name="MARKET_DATA",
        subjects=["market.>"],
        storage="memory",
    )
    set_up_on(nats_server, StreamSettings(storage="file", persist_mode="async"))
    config = config_of(nats_server)
    assert config["storage"] == "memory"
    assert any("storage 'memory'" in line and "'file'" in line for line in caplog.messages)
    assert any("persist_mode" in line and "'async'" in line for line in caplog.messages)


def test_a_missing_subject_is_added_to_those_there(any_nats_server: NatsServer) -> None:
    request(any_nats_server, "STREAM.CREATE.MARKET_DATA", name="MARKET_DATA", subjects=["a.b"])
    set_up_on(any_nats_server, StreamSettings(subjects=("a.*", "market.>")))
    assert config_of(any_nats_server)["subjects"] == ["a.*", "market.>"]


def test_a_wider_subject_is_enough(any_nats_server: NatsServer) -> None:
    request(any_nats_server, "STREAM.CREATE.ALL", name="ALL", subjects=["market.>", "x"])
    set_up_on(any_nats_server, StreamSettings(name="ALL", subjects=("market.futures.mbp10",)))
    assert config_of(any_nats_server, "ALL")["subjects"] == ["market.>", "x"]


def test_a_stream_that_holds_the_subjects_already_is_named(any_nats_server: NatsServer) -> None:
    request(any_nats_server, "STREAM.CREATE.ELSE", name="ELSE", subjects=["market.stocks.*"])
    with pytest.raises(StreamError, match=r"stream ELSE already takes market\.>"):
        set_up_on(any_nats_server, StreamSettings())


def test_a_stream_without_acknowledgements_is_refused(any_nats_server: NatsServer) -> None:
    request(
        any_nats_server,
        "STREAM.CREATE.MARKET_DATA",
        name="MARKET_DATA",
        subjects=["market.>"],
        no_ack=True,
    )
    with pytest.raises(StreamError, match="no_ack"):
        set_up_on(any_nats_server, StreamSettings())


def test_what_the_server_cannot_give_is_told_in_its_words(any_nats_server: NatsServer) -> None:
    with pytest.raises(StreamError, match=r"MARKET_DATA cannot be created: .*replicas"):
        set_up_on(any_nats_server, StreamSettings(replicas=3))


def test_a_server_without_jetstream_is_told(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config="jetstream: disabled")
    with pytest.raises(StreamError, match="JetStream is not enabled on the server"):
        set_up_on(server, StreamSettings())


def test_an_account_without_jetstream_is_told(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(
        extra_config='accounts { A { users: [ { user: "jo", password: "pw" } ] } }'
    )

    async def run() -> None:
        link = Connection(
            ConnectOptions(url=server.url, user="jo", password="pw"), on_change=lambda: None
        )
        await link.open()
        try:
            await set_up(JetStreamApi(link), StreamSettings())
        finally:
            await link.close()

    with pytest.raises(StreamError, match="JetStream not enabled for account"):
        asyncio.run(run())


def test_the_end_of_the_stream_is_told(any_nats_server: NatsServer) -> None:
    set_up_on(any_nats_server, StreamSettings())

    async def run() -> None:
        client = await connect(any_nats_server)
        for _ in range(3):
            await client.jetstream().publish("market.x", b"")
        await client.jetstream().purge_stream("MARKET_DATA")
        await client.close()

    asyncio.run(run())
    assert set_up_on(any_nats_server, StreamSettings()).last_seq == 3


def test_durable_consumers_are_made_once(any_nats_server: NatsServer) -> None:
    settings = StreamSettings(
        consumers=(
            ConsumerSettings("lake", ("market.stocks.>", "market.futures.>")),
            ConsumerSettings("core", ("market.futures.mbp10",), "deliver.core", "new"),
        )
    )
    set_up_on(any_nats_server, settings)
    lake = request(any_nats_server, "CONSUMER.INFO.MARKET_DATA.lake")["config"]
    core = request(any_nats_server, "CONSUMER.INFO.MARKET_DATA.core")["config"]
    assert lake["durable_name"] == "lake"
    assert (lake["ack_policy"], lake["deliver_policy"]) == ("explicit", "all")
    assert lake["filter_subjects"] == ["market.stocks.>", "market.futures.>"]
    assert core["filter_subject"] == "market.futures.mbp10"
    assert (core["deliver_subject"], core["deliver_policy"]) == ("deliver.core", "new")


def test_a_consumer_keeps_its_place_and_what_its_operator_chose(
    any_nats_server: NatsServer,
) -> None:
    set_up_on(any_nats_server, StreamSettings())
    chosen = {"durable_name": "core", "ack_policy": "explicit", "max_ack_pending": 77}
    request(
        any_nats_server,
        "CONSUMER.CREATE.MARKET_DATA.core",
        stream_name="MARKET_DATA",
        config=chosen,
    )
    settings = StreamSettings(consumers=(ConsumerSettings("core", ("market.futures.>",)),))
    set_up_on(any_nats_server, settings)
    config = request(any_nats_server, "CONSUMER.INFO.MARKET_DATA.core")["config"]
    assert (config["max_ack_pending"], config["filter_subject"]) == (77, "market.futures.>")


def test_a_consumer_that_cannot_be_changed_is_named_and_stays(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    set_up_on(any_nats_server, StreamSettings(consumers=(ConsumerSettings("core"),)))
    changed = ConsumerSettings("core", deliver_policy="new")
    set_up_on(any_nats_server, StreamSettings(consumers=(changed,)))
    config = request(any_nats_server, "CONSUMER.INFO.MARKET_DATA.core")["config"]
    assert config["deliver_policy"] == "all"
    assert any("core" in line and "stays" in line for line in caplog.messages)


UNREACHED = StreamSettings(
    consumers=(ConsumerSettings("core"), ConsumerSettings("x", ("markt.>",)))
)


def test_a_consumer_that_no_message_can_reach_is_refused_before_anything_is_made(
    any_nats_server: NatsServer,
) -> None:
    told = r"'markt\.>' of 'x' .* none of the subjects of stream MARKET_DATA, market\.>"
    with pytest.raises(ConfigurationError, match=told):
        set_up_on(any_nats_server, UNREACHED)
    assert request(any_nats_server, "STREAM.NAMES")["total"] == 0


@pytest.mark.parametrize(
    "config",
    [
        {"subjects": ["markt.futures"]},
        {
            "subjects": ["market.>"],
            "subject_transform": {"src": "market.>", "dest": "markt.>"},
        },
    ],
    ids=["subject", "transform"],
)
def test_a_consumer_of_what_else_the_stream_holds_is_made(
    any_nats_server: NatsServer, config: dict[str, Any]
) -> None:
    request(any_nats_server, "STREAM.CREATE.MARKET_DATA", name="MARKET_DATA", **config)
    set_up_on(any_nats_server, UNREACHED)
    made = request(any_nats_server, "CONSUMER.INFO.MARKET_DATA.x")["config"]
    assert made["filter_subject"] == "markt.>"


def test_a_consumer_of_a_subject_on_which_no_event_is_published_is_warned_of(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    consumers = (
        ConsumerSettings("x", ("market.stokcs.>",)),
        ConsumerSettings("all", ("market.>",)),
    )
    set_up_on(nats_server, StreamSettings(consumers=consumers))
    told = [line for line in caplog.messages if "no event is ever published" in line]
    assert len(told) == 1
    assert "market.stokcs.>" in told[0]
