from __future__ import annotations

import msgspec
import numpy as np
import pytest

from ingestor.cli.stream_check import EXAMPLES_KEPT, GAP, ORDER, SCHEMA, Findings, StreamCheck
from ingestor.client import Message
from ingestor.model.blocks import Source
from ingestor.model.records import Records, RType
from tests.client.streams import DEPTH, TRADES, Published, as_json, depth, packed, trades
from tests.encode import examples
from tests.encode.examples import record

FUTURES_TRADE = examples.CONTRACT[3].payload


def check(*messages: Published, first_seq: int = 1) -> Findings:
    checker = StreamCheck(whole=True)
    for seq, message in enumerate(messages, first_seq):
        checker.add(Message(message[0], seq, message[1]))
    return checker.findings


def moved(records: Records, *steps: tuple[int, int, int]) -> list[Published]:
    """The records with (ts_event, ts_recv, sequence) as said, as JSON."""
    for name, values in zip(
        ("ts_event_ns", "ts_recv_ns", "sequence"), zip(*steps, strict=True), strict=True
    ):
        records[name] = values
    return as_json(records)


def violations(findings: Findings) -> dict[str, int]:
    return dict(findings.violations)


def test_the_contracts_own_messages_violate_nothing() -> None:
    found = check(*((example.subject, example.payload) for example in examples.CONTRACT))
    assert violations(found) == {}
    assert found.messages == found.events.total() == 5
    assert found.payload_bytes == sum(len(example.payload) for example in examples.CONTRACT)


def test_packed_rows_are_counted_as_events() -> None:
    found = check(*packed(trades(3)), *packed(depth(4, first=3)), first_seq=9)
    assert violations(found) == {}
    assert found.events == {TRADES: 3, DEPTH: 4}
    assert (found.messages, found.first_seq, found.last_seq) == (2, 9, 10)


@pytest.mark.parametrize("price_e9", [1, 10_000, 5_123_456_789_012_345_679, -1])
def test_a_price_that_a_double_writes_otherwise_is_no_violation(price_e9: int) -> None:
    found = check(*as_json(record(RType.STOCK_TRADE, price_e9=price_e9), Source.SIM))
    assert violations(found) == {}


def test_a_hole_in_the_sequences_is_a_gap() -> None:
    checker = StreamCheck(whole=True)
    for seq in (1, 2, 5, 4):
        checker.add(Message(TRADES, seq, FUTURES_TRADE))
    assert violations(checker.findings) == {GAP: 2}
    assert checker.findings.examples == ["gap: message 5 follows 2", "gap: message 4 follows 5"]


def test_holes_are_expected_where_subjects_are_left_out() -> None:
    checker = StreamCheck(whole=False)
    for seq in (1, 5, 9):
        checker.add(Message(TRADES, seq, FUTURES_TRADE))
    assert violations(checker.findings) == {}


def test_unknown_subjects_and_bad_messages_are_violations_of_the_schema() -> None:
    found = check(("market.bonds", b"{}"), (TRADES, b"{}"), (TRADES, FUTURES_TRADE))
    assert violations(found) == {SCHEMA: 2}
    assert "message 1 on market.bonds" in found.examples[0]
    assert found.events.total() == 1


def test_keys_in_another_order_are_a_violation() -> None:
    values = msgspec.json.decode(FUTURES_TRADE)
    turned = dict(reversed(values.items()))
    found = check((TRADES, msgspec.json.encode(turned)))
    assert violations(found) == {SCHEMA: 1}
    assert "keys are seq, conditions" in found.examples[0]


def test_keys_of_a_level_in_another_order_are_a_violation() -> None:
    values = msgspec.json.decode(examples.CONTRACT[4].payload)
    values["levels"][9] = dict(reversed(values["levels"][9].items()))
    assert violations(check((DEPTH, msgspec.json.encode(values)))) == {SCHEMA: 1}


def test_a_key_that_a_newer_publisher_adds_is_no_violation() -> None:
    values = msgspec.json.decode(FUTURES_TRADE) | {"venue_note": "x"}
    assert violations(check((TRADES, msgspec.json.encode(values)))) == {}


def test_trades_come_before_depth_where_keys_tie() -> None:
    trade, book = as_json(trades(1)), as_json(depth(1))
    assert violations(check(*trade, *book)) == {}
    found = check(*book, *trade)
    assert violations(found) == {ORDER: 1}
    assert found.late == 0


def test_replayed_events_of_two_subjects_out_of_order_are_a_violation() -> None:
    found = check(*as_json(trades(1, first=5)), *as_json(depth(1, first=4)))
    assert violations(found) == {ORDER: 1}
    assert f"on {DEPTH}" in found.examples[0]


def test_an_event_that_steps_back_in_its_own_subject_is_late_and_no_violation() -> None:
    found = check(*moved(trades(3), (10, 10, 1), (5, 5, 2), (11, 11, 3)))
    assert violations(found) == {}
    assert found.late == 1


def test_a_late_event_holds_its_place_among_other_subjects() -> None:
    late = moved(depth(2), (10, 10, 1), (5, 5, 2))
    (trade,) = moved(trades(1), (10, 10, 0))
    assert violations(check(trade, *late)) == {}
    assert violations(check(*late, trade)) == {ORDER: 1}


def test_a_smaller_vendor_sequence_at_equal_times_is_not_late() -> None:
    found = check(*moved(trades(2), (10, 10, 7), (10, 10, 3)))
    assert violations(found) == {}
    assert found.late == 0


def test_live_events_come_in_order_of_arrival() -> None:
    backwards = np.flip(trades(3)).copy()
    assert violations(check(*as_json(backwards, Source.POLYGON_WS))) == {}


def test_only_the_first_violations_are_kept_in_words() -> None:
    found = check(*[(TRADES, b"{}")] * (EXAMPLES_KEPT + 5))
    assert violations(found) == {SCHEMA: EXAMPLES_KEPT + 5}
    assert len(found.examples) == EXAMPLES_KEPT


HOUR = 3_600 * 10**9


def day(hour: int, events: int = 3) -> list[Published]:
    times = [(hour * HOUR + n, hour * HOUR + n + 5, n) for n in range(events)]
    return moved(trades(events), *times)


def test_replays_one_after_the_other_are_publications_each_in_order() -> None:
    found = check(*day(30), *day(6, events=2), *day(7))
    assert violations(found) == {}
    assert found.late == 0
    assert [(one.first_seq, one.last_seq, one.events) for one in found.publications] == [
        (1, 3, 3),
        (4, 8, 5),
    ]
    assert [one.repeats for one in found.publications] == [None, None]


def test_a_day_that_is_published_twice_is_seen_however_short_it_is() -> None:
    found = check(*day(6), *day(30), *day(6), *day(6))
    assert violations(found) == {}
    assert [(one.first_seq, one.repeats) for one in found.publications] == [
        (1, None),
        (7, 1),
        (10, 1),
    ]


def test_a_print_that_is_reported_hours_late_begins_nothing() -> None:
    found = check(*moved(trades(2), (9 * HOUR, 9 * HOUR, 1), (2 * HOUR, 9 * HOUR + 1, 2)))
    assert len(found.publications) == 1
    assert found.late == 1


def test_equal_rows_at_the_beginning_are_real_and_begin_nothing() -> None:
    (one,) = day(6, events=1)
    assert len(check(one, one, *day(7)).publications) == 1


def test_an_order_that_is_broken_inside_a_publication_is_still_seen() -> None:
    broken = [*as_json(trades(1, first=5)), *as_json(depth(1, first=4))]
    assert violations(check(*day(30), *broken)) == {ORDER: 1}
