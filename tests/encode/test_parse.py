"""The compiled reader against the one on msgspec: what it takes, that one takes as the same."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestor.encode.json_records import Frame, JsonFound, read_rows, symbol_read
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Block, Runs, Source, whole_block
from ingestor.model.records import EVENT_TYPES, RType
from ingestor.model.units import UNDEF_PRICE
from tests import strategies
from tests.client.streams import DEPTH, TRADES, as_json, as_packed, depth, trades
from tests.encode import examples
from tests.encode.examples import block_of, record

if TYPE_CHECKING:
    from ingestor.encode import _parse
else:
    _parse = pytest.importorskip("ingestor.encode._parse", reason="the extension was not built")

MESSAGES = {message.subject: message.payload for message in examples.CONTRACT}
PIECES = (b"null", b"0", b"-", b".", b'"', b",", b"}", b"]", b" ", b"\\", b"1e5", b"9" * 20, b"\0")


def frames_of(messages: Sequence[tuple[str, bytes]]) -> list[Frame]:
    return [(subject.encode(), b"", payload) for subject, payload in messages]


def as_told(found: JsonFound) -> tuple[object, ...]:
    """What was read, in values that can be compared; records name their symbol, not its number."""
    rows = {}
    for one in found.rows:
        records = one.records.copy()
        symbols = [one.symbols[number] for number in records["instrument_id"].tolist()]
        records["instrument_id"] = 0
        rows[one.event_type.name, one.source] = (
            records.tobytes(),
            symbols,
            one.messages.tolist(),
        )
    return rows, found.packed, sorted((index, str(error)) for index, error in found.bad)


def parsed(*frames: Frame) -> list[int]:
    """The indexes of those that the compiled reader takes."""
    _, left = _parse.Parser(symbol_read, {"CME": 1}).parse(frames)
    return [index for index in range(len(frames)) if index not in left]


def check_both(frames: Sequence[Frame]) -> None:
    assert as_told(read_rows(frames)) == as_told(read_rows(frames, parser=None))


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(strategies.sound_runs())
def test_both_readers_read_the_same_records(runs: Runs) -> None:
    check_both(frames_of(list(payloads(runs))))


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(strategies.runs())
def test_both_readers_refuse_the_same_for_the_same_reasons(runs: Runs) -> None:
    check_both(frames_of(list(payloads(runs))))


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(strategies.sound_runs(max_size=4), st.randoms(use_true_random=False))
def test_both_readers_say_the_same_of_mutated_messages(runs: Runs, random: Random) -> None:
    frames = frames_of(list(payloads(runs)))
    check_both([(*frame[:2], mutated(frame[2], random)) for frame in frames for _ in range(8)])


def mutated(payload: bytes, random: Random) -> bytes:
    """One or two bytes changed, left out, doubled or put in; or cut anywhere."""
    for _ in range(random.choice((1, 1, 2))):
        at, stop = sorted(random.randrange(len(payload) + 1) for _ in range(2))
        stop = min(stop, at + random.choice((1, 1, 2, 9)))
        digits = bytes([random.choice(b"0123456789")])
        other = random.choice((b"", digits, random.randbytes(1), random.choice(PIECES)))
        kept = payload[at:stop] if random.random() < 0.3 else b""
        payload = payload[:at] + kept + other + payload[stop:]
    return payload if random.random() < 0.8 else payload[: random.randrange(len(payload) + 1)]


@pytest.mark.parametrize("subject", MESSAGES)
def test_every_cut_and_every_changed_byte_is_judged_alike(subject: str) -> None:
    payload = MESSAGES[subject]
    changed = [payload[:at] for at in range(len(payload))]
    for at in range(len(payload)):
        changed += [payload[:at] + byte + payload[at + 1 :] for byte in (b"0", b"9", b" ", b'"')]
        changed.append(payload[:at] + b"0" + payload[at:])
    check_both(frames_of([(subject, one) for one in changed]))


@pytest.mark.parametrize("subject", MESSAGES)
def test_what_the_encoders_write_is_taken(subject: str) -> None:
    payload = MESSAGES[subject]
    frame = frames_of([(subject, payload)])[0]
    assert parsed(frame, (*frame[:2], payload + b" "), (*frame[:2], payload[:-1]), frame) == [0, 3]


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.name)
def test_all_types_of_all_sources_are_taken(kind: object, source: Source) -> None:
    (message,) = (one for one in examples.CONTRACT if one.subject == kind.subject)  # type: ignore[attr-defined]
    block = block_of(message.record, source)
    assert parsed(*frames_of(list(payloads(whole_block(block))))) == [0]


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [
        (b'"price":686.01', b'"price":999999999.999999999', True),
        (b'"price":686.01', b'"price":-999999999.999999999', True),
        (b'"price":686.01', b'"price":-0.0', True),
        (b'"price":686.01', b'"price":1000000000.0', False),
        (b'"price":686.01', b'"price":0.0000000001', False),
        (b'"price":686.01', b'"price":00.5', False),
        (b'"price":686.01', b'"price":686', False),
        (b'"price":686.01', b'"price":.5', False),
        (b'"price":686.01', b'"price":5.', False),
        (b'"price":686.01', b'"price":null', False),
        (b'"price":686.01', b'"price":6.8e2', False),
        (b'"size":100', b'"size":4294967295', True),
        (b'"size":100', b'"size":4294967296', False),
        (b'"size":100', b'"size":-1', False),
        (b'"size":100', b'"size":00', False),
        (b'"size":100', b'"size":18446744073709551617', False),
        (b'"exchange":4', b'"exchange":-32768', True),
        (b'"exchange":4', b'"exchange":-32769', False),
        (b'"exchange":4', b'"exchange":32767', True),
        (b'"exchange":4', b'"exchange":32768', False),
        (b'"exchange":4', b'"exchange":-1', True),
        (b'"exchange":4', b'"exchange":-0', False),
        (b"[14,41]", b"[]", True),
        (b"[14,41]", b"[1,2,3,4,5,6,7,65535]", True),
        (b"[14,41]", b"[1,2,3,4,5,6,7,8,9]", False),
        (b"[14,41]", b"[65536]", False),
        (b"[14,41]", b"[1,]", False),
        (b"[14,41]", b"[,1]", False),
        (b'"seq":2', b'"seq":9999999999999999999', True),
        (b'"seq":2', b'"seq":18446744073709551615', False),
        (b'"aggressor":1', b'"aggressor":-0', False),
        (b'"aggressor":1', b'"aggressor":2', False),
        (b"1765895400001000000", b"9223372036854775807", True),
        (b"1765895400001000000", b"9223372036854775808", False),
        (b'"SPY"', b'"\\u0041"', False),
        (b'"SPY"', b'"\xc3\xa9"', True),
        (b'"SPY"', b'"\xff"', False),
        (b'"SPY"', b'""', False),
        (b'"SPY"', b'"' + b"x" * 71 + b'"', True),
        (b'"SPY"', b'"' + b"x" * 72 + b'"', False),
        (b'"SPY"', b'"' + b"x" * 600 + b'"', False),
        (b'"SPY"', b"5", False),
        (b'"SPY"', b'"SPY","symbol":"SPY"', False),
        (b'"polygon_ws"', b'"rumour"', False),
    ],
)
def test_bounds_are_those_of_the_other_reader(old: bytes, new: bytes, taken: bool) -> None:
    payload = MESSAGES["market.stocks.trades"]
    assert payload.count(old) == 1
    frame = (b"market.stocks.trades", b"", payload.replace(old, new))
    assert parsed(frame) == ([0] if taken else [])
    check_both([frame])


@given(st.integers(-(10**18) + 1, 10**18 - 1))
@example(10**18 - 1)
@example(-1)
def test_every_price_is_exact(price_e9: int) -> None:
    block = block_of(record(RType.STOCK_TRADE, price_e9=price_e9))
    found = read_rows(frames_of(list(payloads(whole_block(block)))))
    assert found.rows[0].records["price_e9"].tolist() == [price_e9]


def test_a_level_is_copied_only_from_the_message_before_of_its_own_source() -> None:
    rows = np.repeat(examples.MBP10, 40)
    levels = rows["levels"]
    random = np.random.default_rng(1)
    for row in range(1, len(rows)):
        levels[row] = levels[row - 1]
        level = random.integers(10)
        levels[row]["bid_px_e9"][level] = random.choice([UNDEF_PRICE, 5_000_000_000, 7])
        levels[row]["ask_sz"][level] = random.integers(1, 3)
    other = [(subject, payload.replace(b"replay", b"sim")) for subject, payload in as_json(rows)]
    messages = as_json(rows)
    mixed = [one for pair in zip(messages, reversed(other), strict=True) for one in pair]
    # Those that are left behind their levels must leave nothing for the next.
    mixed[20] = (DEPTH, mixed[20][1][:-3])
    mixed[30] = (DEPTH, mixed[30][1][:-1])
    mixed[41] = (DEPTH, mixed[41][1] + b" ")
    frames = frames_of(mixed)
    assert len(parsed(*frames)) == len(frames) - 3
    check_both(frames)


def test_messages_of_both_readers_are_one_array_in_their_order() -> None:
    messages = as_json(trades(6))
    # Blanks and an unknown key are for the other reader.
    for at in (1, 4):
        messages[at] = (TRADES, messages[at][1].replace(b'{"ts', b'{ "ts'))
    messages[3] = (TRADES, messages[3][1][:-1] + b',"later":1}')
    messages[4] = (TRADES, messages[4][1].replace(b"ES.c.0", b"NQ.c.0"))
    frames = frames_of([*messages, ("market.unknown", b"{}"), (TRADES, b"")])
    frames.insert(2, frames_of(as_packed(whole_block(block_of(depth(1)))))[0])
    assert parsed(*frames) == [0, 3, 6]
    found = read_rows(frames)
    (rows,) = found.rows
    assert rows.messages.tolist() == [0, 1, 3, 4, 5, 6]
    assert rows.records["sequence"].tolist() == list(range(6))
    assert [rows.symbols[number] for number in rows.records["instrument_id"].tolist()] == (
        ["ES.c.0"] * 4 + ["NQ.c.0"] + ["ES.c.0"]
    )
    assert (found.packed, [index for index, _ in found.bad]) == ([2], [7, 8])
    check_both(frames)


def test_many_symbols_are_numbered_in_the_order_they_come() -> None:
    rows = np.repeat(examples.STOCK_TRADE, 300)
    rows["instrument_id"] = np.arange(300) % 100
    block = Block(0, rows, {number: f"S{number}" for number in range(100)}, Source.SIM)
    (found,) = read_rows(frames_of(list(payloads(whole_block(block))))).rows
    assert list(found.symbols.values()) == [f"S{number}" for number in range(100)]
    assert found.records["instrument_id"].tolist() == (np.arange(300) % 100 + 1).tolist()


def test_records_are_whole_and_can_be_written() -> None:
    (found,) = read_rows(frames_of(as_json(depth(3)))).rows
    assert found.records.flags.owndata
    assert found.records.flags.writeable
    assert len(found.records) == len(found.messages) == 3


def test_what_is_no_frame_is_an_error_and_nothing_worse() -> None:
    parser = _parse.Parser(symbol_read, {})
    for frames in ([()], [(b"", b"")], [5], [(TRADES.encode(), b"", "text")]):
        with pytest.raises((TypeError, ValueError)):
            parser.parse(frames)  # type: ignore[arg-type]
    assert parser.parse([]) == ([], [])


def test_a_publisher_beyond_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="publisher 256 of X"):
        _parse.Parser(symbol_read, {"X": 256})
