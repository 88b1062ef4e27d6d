from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.errors import StreamError
from ingestor.nats.answers import (
    MAX_ANSWER_BYTES,
    MAX_SEQUENCE,
    Answer,
    ApiError,
    FlowAck,
    FlowGap,
    PubAck,
    Refusal,
    parse_answer,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"type":"ack","seq":0,"msgs":500}', FlowAck(0, 500)),
        ('{"type":"ack","seq":1500,"msgs":250}', FlowAck(1500, 250)),
        ('{"type":"gap","last_seq":10,"seq":15}', FlowGap()),
        ('{"stream":"S","seq":7}', PubAck(7, "", 0)),
        ('{"stream":"S","seq":9,"batch":"b1","count":3}', PubAck(9, "b1", 3)),
        (
            '{"type":"err","seq":4,"error":{"code":400,"err_code":10071,"description":"no"}}',
            Refusal(ApiError(400, 10071, "no")),
        ),
        (
            '{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},'
            '"stream":"S","seq":0}',
            Refusal(ApiError(503, 10077, "maximum bytes exceeded")),
        ),
    ],
)
def test_every_kind_of_answer_is_told_apart(text: str, answer: Answer) -> None:
    assert parse_answer(text.encode()) == answer


def test_fields_of_servers_to_come_are_ignored() -> None:
    text = b'{"type":"ack","seq":5,"msgs":10,"mood":"good","domain":"hub"}'
    assert parse_answer(text) == FlowAck(5, 10)


@pytest.mark.parametrize(
    "data", [b"", b"no", b"[]", b"{}", b'{"type":"hello","seq":1}', b'{"seq":"one"}', b'{"seq":0}']
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(StreamError, match="the stream's answer"):
        parse_answer(data)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(StreamError, match="answer"):
        parse_answer(data)


@given(st.integers(1, MAX_SEQUENCE), st.text(max_size=9), st.integers(0, 2**40))
def test_any_publish_acknowledgement_is_read(seq: int, batch: str, count: int) -> None:
    data = json.dumps({"stream": "S", "seq": seq, "batch": batch, "count": count}).encode()
    assert parse_answer(data) == PubAck(seq, batch, count)


@pytest.mark.parametrize(
    "data",
    [
        b'{"seq":%d,"stream":"S"}' % (MAX_SEQUENCE + 1),
        b'{"seq":-1,"stream":"S"}',
        b'{"type":"ack","seq":1,"msgs":-1}',
        b'{"seq":1,"batch":"b","count":-1}',
        b'{"seq":' + b"9" * 5_000 + b"}",
        b'{"seq":1,"batch":"' + b"x" * MAX_ANSWER_BYTES + b'"}',
        b'{"error":{"code":"\\ud800"}}',
        b'{"error":[]}',
        b'{"error":{"code":1e999}}',
    ],
)
def test_what_no_server_would_say_is_refused(data: bytes) -> None:
    with pytest.raises(StreamError, match="the stream's answer"):
        parse_answer(data)


def test_nesting_is_read_or_refused_and_nothing_else() -> None:
    """How deep is deep depends on the interpreter: 1,000 up to 3.12, more in 3.13."""
    data = b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b',"seq":1}'
    with contextlib.suppress(StreamError):
        assert parse_answer(data) == PubAck(1, "", 0)


def test_a_reason_of_the_server_stays_on_its_line() -> None:
    error = ApiError(400, 1, "no\n2026 all is well \x1b[2K" + "x" * 5_000)
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 300


def test_an_error_reads_as_a_sentence_with_its_code() -> None:
    assert str(ApiError(503, 10077, "maximum bytes exceeded")) == (
        "maximum bytes exceeded (code 10077)"
    )
    assert str(ApiError(503, 0, "no stream takes this subject")).endswith("(code 503)")
