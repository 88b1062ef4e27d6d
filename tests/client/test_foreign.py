"""Messages that are not ours, or not whole, cost themselves and nothing else."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestor.cli import tail
from ingestor.client import Cause, Client, From, Message, decode
from ingestor.client import connect as connect_client
from ingestor.client.payloads import BadMessageError, batches_of
from ingestor.encode.packed import MAGIC
from ingestor.model.errors import BadDataError, ExitCode
from ingestor.model.feed_status import decode_status, encode_status
from ingestor.nats.answers import Splitter
from tests.client.streams import DEPTH, STREAM, TRADES, Published, as_json, depth, packed, trades
from tests.client.test_statuses import all_of, status
from tests.client.test_statuses import store as store_statuses
from tests.encode import examples

if TYPE_CHECKING:
    from tests.nats_servers import NatsServer

TRADE: Final = examples.CONTRACT[3].payload
BOOK: Final = examples.CONTRACT[4].payload
PACKED: Final = packed(trades(2))[0][1]
HEADERS: Final = {"Nats-Msg-Id": "1"}

FOREIGN: Final[list[tuple[str, bytes, Cause]]] = [
    (TRADES, TRADE.replace(b"ES.c.0", b"\xff"), Cause.MALFORMED),
    (TRADES, TRADE[:-1] + b',"more":"\xff"}', Cause.MALFORMED),
    (TRADES, b"[" * 5_000, Cause.INVALID),
    (TRADES, b'{"more":' + b"[" * 5_000, Cause.MALFORMED),
    (TRADES, TRADE.replace(b"6870.0", b"9223372036854775808"), Cause.INVALID),
    (TRADES, TRADE.replace(b"6870.0", b"1e400"), Cause.INVALID),
    (TRADES, TRADE.replace(b"27", b"9" * 5_000), Cause.INVALID),
    (TRADES, TRADE.replace(b"27", b"27.5"), Cause.INVALID),
    (TRADES, TRADE.replace(b'"symbol":"ES.c.0",', b""), Cause.INVALID),
    (TRADES, TRADE.replace(b"1765895400017150864", b"18446744073709551616"), Cause.INVALID),
    (TRADES, TRADE.replace(b"ES.c.0", b"\\ud800"), Cause.MALFORMED),
    (TRADES, TRADE[:-1], Cause.MALFORMED),
    (TRADES, b"", Cause.MALFORMED),
    (TRADES, b"\xef\xbb\xbf" + TRADE, Cause.MALFORMED),
    (DEPTH, BOOK.replace(b'"action":"A"', b'"action":"abc"'), Cause.INVALID),
    (DEPTH, BOOK.replace(b'"levels":[', b'"levels":[{},'), Cause.INVALID),
    (DEPTH, BOOK.replace(b'"levels":[', b'"levels":null,"l":['), Cause.INVALID),
    (TRADES, PACKED[:-1], Cause.MALFORMED),
    (TRADES, PACKED[:4] + b"\x02" + PACKED[5:], Cause.UNKNOWN_VERSION),
    (TRADES, PACKED[:5] + b"\x55" + PACKED[6:], Cause.UNKNOWN_VERSION),
    (TRADES, PACKED.replace(b"trades.v1", b"trades.v2"), Cause.UNKNOWN_VERSION),
    (TRADES, PACKED[:8] + b"\xff" * 4 + PACKED[12:], Cause.MALFORMED),
    (TRADES, PACKED[:16] + b"\xff" * 4 + PACKED[20:], Cause.MALFORMED),
    (TRADES, PACKED.replace(b"ES.c.0", b"ES\xff.c0"), Cause.MALFORMED),
    (TRADES, PACKED.replace(b"ES.c.0", b"ES\0.c0"), Cause.MALFORMED),
    (DEPTH, PACKED, Cause.MALFORMED),
    ("market.flow", b'{"net":1}', Cause.UNKNOWN_SUBJECT),
    ("market.futures.trades.v2", TRADE, Cause.UNKNOWN_SUBJECT),
    ("market.futures.trades.v2", PACKED, Cause.UNKNOWN_SUBJECT),
    ("market.\xfe", b"", Cause.UNKNOWN_SUBJECT),
]
COUNTS: Final = {
    cause: [bad for *_, bad in FOREIGN].count(cause) for cause in {bad for *_, bad in FOREIGN}
}


def among(encode: Any) -> list[Published]:
    """Every foreign message, each with one of ours before it, and ours in the end."""
    messages: list[Published] = []
    for number, (subject, payload, _) in enumerate(FOREIGN):
        messages += [*encode(trades(1, first=number)), (subject, payload)]
    return [*messages, *encode(trades(1, first=len(FOREIGN)))]


ALL: Final = list(range(len(FOREIGN) + 1))


async def store(server: NatsServer, messages: list[Published]) -> None:
    """Publish, and after each message one that holds nothing but headers."""
    async with await nats.connect(server.url) as client:
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=["market.>"])
        for subject, payload in messages:
            await stream.publish(subject, payload)
        for line in (b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 408 Request Timeout\r\n\r\n"):
            # What JetStream itself says about a request looks like this.
            for subject in ("market.flow.1", TRADES):
                command = f"HPUB {subject} {len(line)} {len(line)}\r\n".encode()
                await client._send_command(command + line + b"\r\n")
        await stream.publish(TRADES, b"", headers=HEADERS)
        for subject, payload in as_json(trades(1, first=ALL[-1] + 1)):
            await stream.publish(subject, payload)


EXPECTED: Final = [*ALL, ALL[-1] + 1]
EXPECTED_COUNTS: Final = COUNTS | {
    Cause.UNKNOWN_SUBJECT: COUNTS[Cause.UNKNOWN_SUBJECT] + 2,
    Cause.MALFORMED: COUNTS[Cause.MALFORMED] + 3,
}


async def read(client: Client, how: str, **options: Any) -> tuple[list[int], dict[Cause, int]]:
    subscription = client.subscribe(follow=False, **options)
    found: list[int] = []
    if how == "events":
        found = [event.seq async for event in subscription.events()]  # type: ignore[attr-defined]
    else:
        async for batch in subscription.batches():
            found += batch.records["sequence"].tolist()
    return sorted(found), dict(subscription.skipped)


@pytest.mark.parametrize("how", ["events", "batches"])
@pytest.mark.parametrize("encode", [as_json, packed])
def test_foreign_messages_are_skipped_counted_and_told_once_and_ours_all_arrive(
    nats_server: NatsServer, how: str, encode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def check() -> None:
        await store(nats_server, among(encode))
        async with asyncio.timeout(20), connect_client(nats_server.url) as client:
            assert await read(client, how) == (EXPECTED, EXPECTED_COUNTS)
            assert client.skipped == EXPECTED_COUNTS
            # A durable acknowledges what it skips: nothing comes a second time.
            assert await read(client, how, durable="core") == (EXPECTED, EXPECTED_COUNTS)
            assert await read(client, how, durable="core") == ([], {})

    asyncio.run(check())
    told = [record.getMessage() for record in caplog.records if "is skipped" in record.message]
    assert len(told) == 2 * len(EXPECTED_COUNTS)
    assert all(line.isprintable() for line in told)


def test_a_tail_goes_on_past_foreign_messages(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(store(nats_server, among(as_json)))
    for flags in ([], ["--json"]):
        command = ["--nats", nats_server.url, "--no-follow", *flags]
        assert tail.main(command) == ExitCode.BAD_DATA
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == len(EXPECTED)
        assert f"unknown_subject {EXPECTED_COUNTS[Cause.UNKNOWN_SUBJECT]}" in err


def test_a_tail_of_subjects_that_are_not_ours_is_no_failure(
    nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(store(nats_server, [("market.flow", b"{}")]))
    command = ["--nats", nats_server.url, "--no-follow", "--subject", "market.flow.>"]
    assert tail.main(command) == ExitCode.OK
    assert "unknown_subject 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[" * 5_000,
        b'{"feed":"\xff"}',
        encode_status(status(1)).replace(b'"at_ns":1', b'"at_ns":9223372036854775808'),
        encode_status(status(1)).replace(b'"gap"', b'"a word of later"'),
    ],
)
def test_what_is_no_status_is_skipped_and_counted(
    nats_server: NatsServer, payload: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    async def check() -> None:
        await store_statuses(
            nats_server, encode_status(status(1)), payload, encode_status(status(3)), payload
        )
        async with asyncio.timeout(20), connect_client(nats_server.url) as client:
            assert await all_of(client, start=From.BEGINNING) == [status(1), status(3)]
            assert client.skipped == {Cause.NO_STATUS: 2}
            with pytest.raises(BadDataError):
                await client.last_status("stocks")

    asyncio.run(check())
    flags = ["--nats", nats_server.url, "--status", "--no-follow", "--since", "1h"]
    assert tail.main(flags) == ExitCode.BAD_DATA
    assert len(capsys.readouterr().out.splitlines()) == 2


MESSAGES: Final = [
    *((one.subject, one.payload) for one in examples.CONTRACT),
    *packed(trades(2)),
    *packed(depth(2)),
]


@st.composite
def mutated(draw: st.DrawFn) -> Published:
    """A message of ours with bytes changed, put in, cut out."""
    subject, payload = draw(st.sampled_from(MESSAGES))
    changed = bytearray(payload)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        stop = at + draw(st.sampled_from([0, 1, 1, 1, 2, 8, 2_000]))
        changed[at:stop] = draw(
            st.binary(max_size=8)
            | st.sampled_from([b"9" * 400, b"[" * 2_000, b"null", b"-1", b"1e9", b'"', b"\xff" * 4])
        )
    return subject, bytes(changed)


anything: Final = (
    mutated()
    | st.tuples(st.sampled_from([TRADES, DEPTH, "market.flow"]), st.binary(max_size=200))
    | st.tuples(st.just(TRADES), st.binary(max_size=200).map((MAGIC + b"\1").__add__))
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(anything, max_size=5))
@example([(TRADES, TRADE.replace(b"6870.0", b"3000000")), (TRADES, TRADE[:-1])])
def test_any_bytes_are_events_and_records_alike_or_neither(foreign: list[Published]) -> None:
    check_any(foreign)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(20))
def test_a_million_mutated_messages_are_events_and_records_alike_or_neither(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5_000):
        check_any([by_chance(chance) for _ in range(10)])


def by_chance(chance: random.Random) -> Published:
    subject, payload = chance.choice(MESSAGES)
    changed = bytearray(payload)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed) + 1)
        put = chance.choice([chance.randbytes(1), chance.randbytes(4), b"", b"9" * 30, b"[", b'"'])
        changed[at : at + chance.choice([0, 1, 1, 4])] = put
    return subject, bytes(changed)


def check_any(foreign: list[Published]) -> None:
    ours = [*as_json(trades(1)), *packed(depth(3))]
    messages = [*ours, *foreign, *ours]
    frames = [(subject.encode(), b"", payload) for subject, payload in messages]
    batches, bad = batches_of(frames, range(len(frames)))
    rows: dict[int, int] = {}
    for batch in batches:
        for seq in batch.seqs.tolist():
            rows[seq] = rows.get(seq, 0) + 1
    causes = {error.seq: error.cause for error in bad}
    assert rows.keys() | causes.keys() == set(range(len(frames)))
    assert not rows.keys() & causes.keys()
    for seq, (subject, payload) in enumerate(messages):
        events, cause = events_or_cause(Message(subject, seq, payload))
        assert causes.get(seq) in (cause, Cause.NO_RECORD)
        assert cause or events == rows.get(seq, 1)
    assert [rows[seq] for seq in (0, 1, len(frames) - 2, len(frames) - 1)] == [1, 3, 1, 3]


def events_or_cause(message: Message) -> tuple[int, Cause | None]:
    try:
        return len(decode(message)), None
    except BadMessageError as error:
        return 0, error.cause


@given(st.binary(max_size=200) | mutated().map(lambda message: message[1]))
def test_any_bytes_are_a_status_or_bad_data(payload: bytes) -> None:
    try:
        decode_status(payload)
    except BadDataError:
        return
    assert msgspec.json.decode(payload)["feed"]


LINES: Final = [
    b"MSG a 1 $JS.ACK.s.c.1.1.1.1.0 3\r\nabc\r\n",
    b"HMSG a 1 r 12 15\r\nNATS/1.0\r\n\r\nabc\r\n",
    b"HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    b"INFO {}\r\n",
    b"PING\r\n",
]


@given(
    st.lists(st.sampled_from(LINES) | st.binary(max_size=40), max_size=6),
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=3),
)
@example([b"MSG a 1 r " + b"9" * 5_000 + b"\r\n"], [])
@example([b"HMSG a 1 r 9\r\n123456789\r\n"], [])
@example([b"HMSG \xff 1 12 12\r\nNATS/1.0 503\r\n\r\n"], [])
def test_any_bytes_of_a_server_are_cut_or_bad_data(
    lines: list[bytes], edits: list[tuple[int, bytes]]
) -> None:
    data = bytearray(b"".join(lines))
    for at, change in edits:
        data[at : at + len(change)] = change
    try:
        cut = Splitter({b"1"}).feed(bytes(data))
    except BadDataError:
        return
    sizes = [len(payload) for frames in cut.frames.values() for *_, payload in frames]
    assert sum(sizes) + sum(map(len, cut.others)) <= len(data)
