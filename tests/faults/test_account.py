"""The account finds what is wrong: missing, untold, doubled, in a wrong order, never sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from ingestor.journal.format import NOTE, Entry, entry_head, pack_header, pack_note, seed_of
from tests.faults.account import (
    OPTION_TRADES,
    STOCK_QUOTES,
    STOCK_TRADES,
    Account,
    Verdict,
    recorded_frames,
)
from tests.journal.tapes import HEADER

T_MS = 1_765_895_400_000
CALL = "O:SPY251216C00686000"


def element(number: int, **changes: Any) -> dict[str, Any]:
    trade = {"ev": "T", "sym": "SPY", "x": 4, "p": 686, "s": 100, "c": [14], "q": number}
    return trade | {"t": T_MS + number} | changes


def message(number: int, **changes: Any) -> bytes:
    event = {"ts_event_ns": (T_MS + number) * 10**6, "ts_recv_ns": 1, "symbol": "SPY"}
    event |= {"price": 686.0, "size": 100, "exchange": 4, "conditions": [14], "seq": number}
    return json.dumps(event | {"aggressor": 1} | changes).encode()


def gap(before: int, after: int, feed: str = "stocks", what: str = "gap") -> bytes:
    span = {"from_event_ns": (T_MS + before) * 10**6, "to_event_ns": (T_MS + after) * 10**6}
    return json.dumps({"feed": feed, "what": what, **span}).encode()


def verdict(
    folder: Path, stored: Sequence[bytes], told: Sequence[bytes] = (), sent: int = 6
) -> Verdict:
    """What is said of so many trades, numbered from 0, of which these messages are stored."""
    log = folder / "vendor.log"
    status = b'1 [{"ev":"status","status":"connected"}]\n'
    frames = (b"1 %b\n" % json.dumps([element(number)]).encode() for number in range(sent))
    log.write_bytes(status + b"".join(frames))
    account = Account()
    account.take_log(log)
    for one in stored:
        account.take_message(STOCK_TRADES, one)
    for one in told:
        account.take_status(one)
    return account.verdicts()["stocks"]


def test_of_what_is_stored_as_it_was_sent_nothing_is_wrong(tmp_path: Path) -> None:
    assert verdict(tmp_path, [message(n) for n in range(6)]) == Verdict(sent=6, stored=6)


@pytest.mark.parametrize(
    ("told", "untold", "inexact"),
    [
        ([], 2, 0),
        ([gap(1, 4)], 0, 0),
        ([gap(0, 4)], 0, 1),
        ([gap(2, 3, what="overflow")], 0, 1),
        ([gap(1, 2)], 2, 0),
        ([gap(3, 4)], 2, 0),
        ([gap(1, 4, "options")], 2, 0),
        ([gap(1, 4, what="silence")], 2, 0),
    ],
)
def test_what_is_missing_is_told_by_a_span_that_holds_it(
    tmp_path: Path, told: list[bytes], untold: int, inexact: int
) -> None:
    found = verdict(tmp_path, [message(n) for n in (0, 1, 4, 5)], told)
    assert (found.missing, found.missing_spans) == (2, 1)
    assert (found.untold, found.inexact) == (untold, inexact)


def test_what_is_missing_at_the_end_is_untold(tmp_path: Path) -> None:
    found = verdict(tmp_path, [message(n) for n in range(4)], [gap(3, 4)])
    assert (found.missing, found.untold, found.broken) == (2, 2, 2)


def test_what_is_stored_twice_or_too_late_or_otherwise_is_counted(tmp_path: Path) -> None:
    twice = verdict(tmp_path, [message(n) for n in (0, 1, 1, 2, 3, 4, 5)])
    assert (twice.doubled, twice.broken) == (1, 1)
    late = verdict(tmp_path, [message(n) for n in (0, 2, 1, 3, 4, 5)])
    assert (late.disordered, late.missing, late.broken) == (1, 0, 1)
    changed = [message(n) for n in range(5)] + [message(5, price=686.01)]
    other = verdict(tmp_path, changed, [gap(4, 9)])
    assert (other.foreign, other.missing) == (1, 1)


def test_quotes_and_options_are_known_too_but_not_quotes_of_options(tmp_path: Path) -> None:
    quote = {"ev": "Q", "bp": 1.2, "ap": 1.25, "bs": 3, "as": 4, "bx": 5, "ax": 6, "t": T_MS}
    option = {"sym": CALL, "x": 302, "c": []}
    sent = [{**quote, "sym": "SPY", "q": 7}, {**quote, "sym": CALL, "q": 8}, element(9, **option)]
    (tmp_path / "log").write_text(f"3 {json.dumps(sent)}\n")
    account = Account()
    account.take_log(tmp_path / "log")
    event = {"ts_event_ns": T_MS * 10**6, "symbol": "SPY", "bid_px": 1.2, "ask_px": 1.25}
    event |= {"bid_sz": 3, "ask_sz": 4, "bid_exch": 5, "ask_exch": 6, "seq": 7}
    account.take_message(STOCK_QUOTES, json.dumps(event).encode())
    account.take_message(
        OPTION_TRADES, message(9, option_symbol=CALL, exchange=None, conditions=[])
    )
    found = account.verdicts()
    assert found == {"stocks": Verdict(sent=1, stored=1), "options": Verdict(sent=1, stored=1)}


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_journal_is_read_but_for_notes_and_damage(tmp_path: Path, is_compressed: bool) -> None:
    header = pack_header(HEADER)
    frames = [json.dumps([element(number)]).encode() for number in range(3)]
    entries = [Entry(pack_note(["T.SPY"]), 1, NOTE, 0), *(Entry(one, 2, 1, 1) for one in frames)]
    parts = [entry_head(one, seed_of(header)) + one.payload for one in entries]
    parts[2] = parts[2][:-1] + b"?"
    data = header + b"".join(parts)
    name, data = (
        ("a.journal.zst", zstandard.compress(data)) if is_compressed else ("a.journal", data)
    )
    (tmp_path / name).write_bytes(data)
    assert list(recorded_frames(tmp_path)) == [frames[0], frames[2]]


def test_what_stream_and_journal_do_not_share_is_counted(tmp_path: Path) -> None:
    header = pack_header(HEADER)
    frames = [json.dumps([element(number)]).encode() for number in range(3)]
    (tmp_path / "log").write_bytes(b"".join(b"1 %b\n" % one for one in frames))
    entries = [Entry(one, 2, 1, 1) for one in frames[:2]]
    parts = [entry_head(one, seed_of(header)) + one.payload for one in entries]
    (tmp_path / "a.journal").write_bytes(header + b"".join(parts))
    account = Account()
    account.take_log(tmp_path / "log")
    account.take_journal(tmp_path)
    for number in (1, 2):
        account.take_message(STOCK_TRADES, message(number))
    found = account.verdicts()["stocks"]
    assert (found.received_missing, found.stored_unrecorded) == (1, 1)
