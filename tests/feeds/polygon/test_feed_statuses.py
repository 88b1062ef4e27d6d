"""What the vendor may say to a feed, besides data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingestor.feeds.polygon.socket import SocketLimits
from ingestor.feeds.polygon.subscriptions import channel_names
from ingestor.model.feed_status import What
from ingestor.model.units import NS_PER_MS, NS_PER_S
from tests.feeds.polygon.rig import QUICK, SUNDAY, WORKDAY, Options, Rig, clock_from, drive
from tests.sim.polygon.conftest import Start
from tests.sim.polygon.helpers import subscriber

IN_THE_MARKET: dict[str, Any] = {
    "clock": clock_from(WORKDAY),
    "silence_limit_ns": 400 * NS_PER_MS,
}


def test_a_channel_that_the_plan_does_not_hold_is_told_and_the_rest_streams(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.ALARM)
        await rig.until_rows(10)

    sink = drive(start("--plan", "stocks-T"), scenario)
    assert sink.alarms() == ["the vendor does not grant Q.SPY: not authorized"]
    assert sink.counts.reconnects == 0


def test_an_unknown_topic_is_an_alarm_when_its_time_is_up(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.ALARM)
        await rig.until_rows(10)

    sink = drive(start(), scenario, ("T.SPY", "ZZ.SPY"))
    assert sink.alarms() == ["subscription not acknowledged within 0.4 s: ZZ.SPY"]
    assert sink.told(What.ALARM)[0].at_ns >= sink.column("ts_recv_ns")[0] + QUICK.ack_ns * 0.9
    assert sink.counts.alarms == 1
    assert sink.counts.reconnects == 0


def test_the_delayed_tier_is_an_alarm_with_a_hint(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.ALARM)

    sink = drive(start("--delayed-tier", "stocks"), scenario)
    (text,) = sink.alarms()
    assert text.startswith("subscription not acknowledged within 0.4 s: T.SPY, Q.SPY;")
    assert "delayed.massive.com" in text


def test_more_option_quotes_than_allowed_are_an_alarm(start: Start) -> None:
    contracts = [f"O:SPY261216C{strike:05d}000" for strike in range(1, 1_003)]

    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.ALARM)
        assert rig.sink.counts.subscribed == 1_000

    patient = replace(QUICK, ack_ns=3 * NS_PER_S)
    names = channel_names(("Q",), contracts)
    sink = drive(start(), scenario, names, options=Options(), session=patient)
    (text,) = sink.alarms()
    assert text.startswith("the vendor does not grant Q.O:SPY261216C01001000, Q.O:SPY261216C010020")
    assert "Subscription limit reached for feed" in text


def test_a_greeting_that_expires_is_an_alarm_and_tried_again(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.ALARM, times=2)

    simulator = start("--auth-timeout", "0")
    sink = drive(simulator, scenario)
    assert set(sink.alarms()) == {"No authentication request received."}
    assert simulator.control("stats")["stocks"]["opened"] >= 2


@pytest.mark.parametrize("how", ["evict", "another client", "a status alone"])
def test_an_evicted_feed_cools_down(start: Start, how: str) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        if how == "evict":
            rig.control("evict")
        elif how == "another client":
            with subscriber(rig.simulator.stocks_url, "T.SPY"):
                await rig.until_told(What.ALARM)
        else:
            rig.control("send", frame=[{"ev": "status", "status": "max_connections"}])
        await rig.until_told(What.GAP)

    sink = drive(start("--quota-delay", "0.05"), scenario)
    (alarm,) = sink.told(What.ALARM)
    (gap,) = sink.told(What.GAP)
    assert gap.at_ns - alarm.at_ns >= QUICK.cool_down_ns
    assert sink.counts.reconnects == 1


def test_an_unknown_status_is_an_alarm_once(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        for _ in range(3):
            rig.control("send", frame=[{"ev": "status", "status": "new", "message": "what?"}])
        await rig.until_rows(50)

    sink = drive(start(), scenario)
    assert sink.alarms() == ["unknown status 'new': what?"]


def test_a_status_inside_a_data_frame_counts_like_any_other(start: Start) -> None:
    trade = {"ev": "T", "sym": "SPY", "p": 686.5, "s": 7, "t": 1_790_000_000_000}
    status = {"ev": "status", "status": "new", "message": ""}

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 2)
        rig.control("send", frame=[trade, status, trade])
        await rig.until_rows(2)

    sink = drive(start("--rate", "0"), scenario)
    assert sink.rows == 2
    assert sink.alarms() == ["unknown status 'new': "]


def test_silence_of_an_open_market_is_told_and_the_connection_made_anew(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("half_open")
        await rig.until_told(What.SILENCE)
        await rig.until_told(What.GAP)

    sink = drive(start(), scenario, **IN_THE_MARKET)
    (silence,) = sink.told(What.SILENCE)
    (gap,) = sink.told(What.GAP)
    assert silence.text.startswith("no data for 0.")
    assert silence.from_recv_ns is not None
    assert silence.to_recv_ns is not None
    assert silence.to_recv_ns - silence.from_recv_ns >= IN_THE_MARKET["silence_limit_ns"]
    assert abs(silence.from_recv_ns - (gap.from_recv_ns or 0)) < 50 * NS_PER_MS
    assert sink.counts.silences == 1


def test_a_market_that_answers_pings_but_sends_nothing_is_silent_too(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("rate", events_per_s=0)
        await rig.until_told(What.SILENCE)

    pinging = SocketLimits(ping_s=0.05, close_s=0.3)
    sink = drive(start(), scenario, **{**IN_THE_MARKET, "socket": pinging})
    assert sink.counts.silences == 1


def test_names_that_are_never_acknowledged_are_told_and_left(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.ALARM)
        beats = len(rig.sink.beats)
        await rig.until(lambda: len(rig.sink.beats) > beats + 12)

    sink = drive(start("--delayed-tier", "stocks"), scenario, **IN_THE_MARKET)
    assert [status.what for status in sink.statuses] == [What.ALARM]
    assert sink.counts.reconnects == 0


def test_names_that_are_acknowledged_and_never_traded_cost_fewer_and_fewer_reconnections(
    start: Start,
) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_told(What.SILENCE, times=3)

    limit_ns = IN_THE_MARKET["silence_limit_ns"]
    sink = drive(start(), scenario, ("T.NOTHING",), **IN_THE_MARKET)
    spans_ns = [
        silence.to_recv_ns - silence.from_recv_ns
        for silence in sink.told(What.SILENCE)
        if silence.to_recv_ns is not None and silence.from_recv_ns is not None
    ]
    assert len(spans_ns) == 3
    assert [round(span_ns / limit_ns) for span_ns in spans_ns] == [1, 2, 4]
    assert sink.alarms() == []


def test_a_silent_sunday_is_no_alarm(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("rate", events_per_s=0)
        beats = len(rig.sink.beats)
        await rig.until(lambda: len(rig.sink.beats) > beats + 8)

    sink = drive(start(), scenario, **{**IN_THE_MARKET, "clock": clock_from(SUNDAY)})
    assert [status.what for status in sink.statuses] == [What.STREAMING]
    assert sink.counts.reconnects == 0


def test_a_dead_connection_is_noticed_on_a_sunday_too(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("half_open")
        await rig.until_told(What.GAP)

    pinging = SocketLimits(ping_s=0.2, close_s=0.3)
    sink = drive(
        start(), scenario, **{**IN_THE_MARKET, "clock": clock_from(SUNDAY), "socket": pinging}
    )
    assert not sink.told(What.SILENCE)
    assert sink.counts.reconnects == 1


def test_a_feed_with_nothing_to_ask_for_is_not_silent(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.streaming)
        beats = len(rig.sink.beats)
        await rig.until(lambda: len(rig.sink.beats) > beats + 6)

    sink = drive(start(), scenario, (), **IN_THE_MARKET)
    assert sink.statuses == []
