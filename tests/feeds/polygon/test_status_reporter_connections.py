from __future__ import annotations

import logging

import pytest

from ingestor.feeds.polygon.status_reporter import REPEAT_NS, ConnectLog

S = 10**9
NOW = 1_000 * S


def test_an_unchanged_reason_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    connect_log = ConnectLog("stocks", "wss://example.com:443/stocks")
    for second in range(REPEAT_NS // S + 1):
        connect_log.failed("refused", S // 2, NOW + second * S)
    assert caplog.messages == [
        f"stocks: cannot connect to wss://example.com:443/stocks: refused; attempt {number}, "
        "the next in 0.5 s"
        for number in (1, REPEAT_NS // S + 1)
    ]


def test_a_new_reason_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    connect_log = ConnectLog("stocks", "x")
    connect_log.failed("refused", S, NOW)
    connect_log.failed("HTTP 404", S, NOW)
    connect_log.failed("HTTP 404", S, NOW)
    assert len(caplog.messages) == 2


def test_success_says_how_often_it_had_failed_and_makes_the_next_reason_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    connect_log = ConnectLog("stocks", "x")
    connect_log.failed("refused", S, NOW)
    connect_log.failed("refused", S, NOW)
    connect_log.opened()
    connect_log.lost("torn", 2 * S)
    connect_log.failed("refused", S, NOW)
    connect_log.opened()
    connect_log.ended("closed by us")
    assert caplog.messages == [
        "stocks: cannot connect to x: refused; attempt 1, the next in 1.0 s",
        "stocks: connected to x (failed attempts before: 2)",
        "stocks: connection to x is gone: torn; connecting again in 2.0 s",
        "stocks: cannot connect to x: refused; attempt 1, the next in 1.0 s",
        "stocks: connected to x (failed attempts before: 1)",
        "stocks: connection to x is gone: closed by us",
    ]
