"""The real day, end to end: files, processes, rings, merge, encoder, a real server, and back.

What must be in the stream is worked out here by other means: the vendor's own decoder, one record
at a time, and Decimal arithmetic.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import databento_dbn
import pytest
import zstandard

from ingestor.encode.packed import decode_packed
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Block, whole_block
from tests.nats_servers import FIRST_THE_CURRENT, NatsServer, old_executable
from tests.replay_cli import Finished, Stored, read_stream, replay

DAY = "2023-12-25"
TRADES, DEPTH = "market.futures.trades", "market.futures.mbp10"
UNDEFINED = 2**63 - 1


def vendor_records(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    decoder = databento_dbn.DBNDecoder()
    decoder.write(data)
    return (one for one in decoder.decode() if not isinstance(one, databento_dbn.Metadata))


def decimal(price: int) -> Decimal | None:
    return None if price == UNDEFINED else Decimal(price) / 10**9


def trade_event(record: Any) -> dict[str, Any]:
    return {
        "ts_event_ns": record.ts_event,
        "ts_recv_ns": record.ts_recv,
        "source": "replay",
        "symbol": "ES.c.0",
        "price": decimal(record.price),
        "size": record.size,
        "aggressor": {"B": 1, "A": -1}.get(str(record.side), 0),
        "exchange": "CME",
        "conditions": None,
        "seq": record.sequence,
    }


def depth_event(record: Any) -> dict[str, Any]:
    return {
        "ts_event_ns": record.ts_event,
        "ts_recv_ns": record.ts_recv,
        "source": "replay",
        "symbol": "ES.c.0",
        "levels": [
            {
                "bid_px": decimal(level.bid_px),
                "bid_sz": level.bid_sz,
                "ask_px": decimal(level.ask_px),
                "ask_sz": level.ask_sz,
            }
            for level in record.levels
        ],
        "is_snapshot": bool(int(record.flags) & 32),
        "seq": record.sequence,
        "action": str(record.action),
        "side": str(record.side),
        "action_price": decimal(record.price),
        "action_size": record.size,
    }


def expected_day(real_day: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every event of the day with its subject, in the contract's order."""
    folders = (("trades", "trades", TRADES), ("MBP-10", "mbp-10", DEPTH))
    events = []
    for rank, (folder, schema, subject) in enumerate(folders):
        path = real_day / folder / f"glbx-mdp3-20231225.{schema}.dbn.zst"
        build = depth_event if subject == DEPTH else trade_event
        for place, record in enumerate(vendor_records(path)):
            key = (record.ts_event, record.ts_recv, record.sequence, rank, place)
            events.append((key, subject, build(record)))
    events.sort(key=lambda event: event[0])
    return [(subject, event) for _, subject, event in events]


def replay_day(
    real_day: Path,
    server: NatsServer,
    cwd: Path,
    *more: str,
    env: Mapping[str, str] | None = None,
) -> Finished:
    where = ("--data-dir", str(real_day), "--date", DAY, "--nats", server.url)
    return replay(*where, "--summary", "json", *more, cwd=cwd, env=env)


def unpacked(message: Stored) -> list[tuple[str, dict[str, Any]]]:
    """The events of a packed message, written as JSON by the reference encoder and read back."""
    packed = decode_packed(message.data)
    block = Block(0, packed.records, packed.symbols, packed.source)
    rows = payloads(whole_block(block))
    return [(message.subject, json.loads(data, parse_float=Decimal)) for _, data in rows]


def without_the_compiled_encoder(folder: Path) -> dict[str, str]:
    """An environment in which Python finds no compiled encoder."""
    customize = folder / "without" / "sitecustomize.py"
    customize.parent.mkdir()
    customize.write_text("import sys\nsys.modules['ingestor.encode._fast'] = None\n")
    return {"PYTHONPATH": f"{customize.parent}{os.pathsep}{Path(__file__).parents[1]}"}


def decoded(message: Stored) -> tuple[str, dict[str, Any]]:
    event: dict[str, Any] = json.loads(message.data, parse_float=Decimal)
    return message.subject, event


@pytest.fixture(scope="module")
def day(real_day: Path) -> list[tuple[str, dict[str, Any]]]:
    return expected_day(real_day)


@FIRST_THE_CURRENT
def test_every_event_of_the_day_is_stored_in_order_and_equal_field_by_field(
    day: list[tuple[str, dict[str, Any]]],
    real_day: Path,
    any_nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    finished = replay_day(real_day, any_nats_server, tmp_path)
    assert finished.exit_code == 0, finished.err
    stored = read_stream(any_nats_server.url)
    assert Counter(one.subject for one in stored) == {TRADES: 2_973, DEPTH: 40_038}
    for message, (subject, event) in zip(stored, day, strict=True):
        found_subject, found = decoded(message)
        assert (found_subject, list(found), found) == (subject, list(event), event)
    identical = Counter(one.data for one in stored if one.subject == TRADES)
    assert sum(count - 1 for count in identical.values()) == 15


# The slower encoder writes all 43,011: 7 s. In the gate `ingestor verify` compares packed rows.
@pytest.mark.slow
def test_packed_messages_hold_every_event_of_the_day_in_order(
    day: list[tuple[str, dict[str, Any]]], real_day: Path, nats_server: NatsServer, tmp_path: Path
) -> None:
    finished = replay_day(real_day, nats_server, tmp_path, "--encoding", "packed")
    assert (finished.exit_code, finished.summary["published"]) == (0, 43_011)
    stored = read_stream(nats_server.url)
    assert len(stored) < 43_011 / 2
    assert [event for message in stored for event in unpacked(message)] == day


@pytest.mark.slow
def test_the_reference_encoder_publishes_the_same_bytes(
    real_day: Path, nats_server: NatsServer, tmp_path: Path
) -> None:
    pytest.importorskip("ingestor.encode._fast", reason="the extension was not built")
    plain = replay_day(real_day, nats_server, tmp_path, env=without_the_compiled_encoder(tmp_path))
    assert "the slower reference encoder serves" in plain.err
    fast = replay_day(real_day, nats_server, tmp_path, "--again")
    assert "reference encoder" not in fast.err
    stored = [(one.subject, one.data) for one in read_stream(nats_server.url)]
    assert len(stored) == 2 * 43_011
    assert stored[:43_011] == stored[43_011:]


def test_the_summary_says_what_is_in_the_stream(
    day: list[tuple[str, dict[str, Any]]],
    real_day: Path,
    any_nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    summary = replay_day(real_day, any_nats_server, tmp_path).summary
    old = any_nats_server.executable == old_executable()
    assert summary.pop("elapsed_s") > 0
    assert summary.pop("events_per_s") > 0
    stored = summary.pop("latency").pop("publish_to_stored")
    assert (stored["rows"], stored["p50_ns"] <= stored["max_ns"]) == (43_011, True)
    assert summary == {
        "published": 43_011,
        "by_subject": {TRADES: 2_973, DEPTH: 40_038},
        "not_stored": 0,
        "unknown": 0,
        "skipped": 0,
        "late": 0,
        "first_ts_event_ns": day[0][1]["ts_event_ns"],
        "last_ts_event_ns": day[-1][1]["ts_event_ns"],
        "stream": "MARKET_DATA",
        "first_seq": 1,
        "last_seq": 43_011,
        "publish_mode": "ack_window" if old else "fast_ingest",
    }


@pytest.mark.slow
def test_a_second_run_publishes_the_same_bytes_in_the_same_order(
    real_day: Path, nats_server: NatsServer, tmp_path: Path
) -> None:
    for _ in range(2):
        assert replay_day(real_day, nats_server, tmp_path, "--again").exit_code == 0
    stored = [(one.subject, one.data) for one in read_stream(nats_server.url)]
    first, second = stored[:43_011], stored[43_011:]
    assert first == second
