"""Commands as they are typed, as text and as JSON, and what a replay says of itself."""

from __future__ import annotations

import datetime as dt

import pytest

from ingestor.model.errors import ConfigurationError
from ingestor.model.replay_control import (
    MAX_COMMAND_BYTES,
    Do,
    ReplayCommand,
    ReplayState,
    decode_command,
    moment_ns,
    parse_command,
)
from ingestor.model.units import NS_PER_MS, NS_PER_S, to_ns

NOON_NS = to_ns(dt.datetime(2025, 12, 16, 17, 0, tzinfo=dt.UTC))
"""12:00 in New York."""


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("pause", ReplayCommand(do=Do.PAUSE)),
        ("status", ReplayCommand(do=Do.STATUS)),
        ("speed 0.5", ReplayCommand(do=Do.SPEED, speed=0.5)),
        ("speed max", ReplayCommand(do=Do.SPEED, speed=0.0)),
        ("step 12", ReplayCommand(do=Do.STEP, events=12)),
        ("step 2.5s", ReplayCommand(do=Do.STEP, span_ns=2_500 * NS_PER_MS)),
        ("step 0.1s", ReplayCommand(do=Do.STEP, span_ns=100 * NS_PER_MS)),
        ("step 250ms", ReplayCommand(do=Do.STEP, span_ns=250 * NS_PER_MS)),
        ("seek 15:30", ReplayCommand(do=Do.SEEK, at_ns=NOON_NS + 12_600 * NS_PER_S)),
        ("seek +5m", ReplayCommand(do=Do.SEEK, by_ns=300 * NS_PER_S)),
        ("seek -0.5s", ReplayCommand(do=Do.SEEK, by_ns=-NS_PER_S // 2)),
        ("seek 50%", ReplayCommand(do=Do.SEEK, share=0.5)),
        ("seek 0%", ReplayCommand(do=Do.SEEK, share=0.0)),
        ("seek 12.5%", ReplayCommand(do=Do.SEEK, share=0.125)),
        (
            "loop 15:30 15:31",
            ReplayCommand(
                do=Do.LOOP,
                at_ns=NOON_NS + 12_600 * NS_PER_S,
                to_ns=NOON_NS + 12_660 * NS_PER_S,
            ),
        ),
        ("loop off", ReplayCommand(do=Do.LOOP)),
        ("until off", ReplayCommand(do=Do.UNTIL)),
        ("until 15:30", ReplayCommand(do=Do.UNTIL, at_ns=NOON_NS + 12_600 * NS_PER_S)),
        ("until +1h", ReplayCommand(do=Do.UNTIL, at_ns=NOON_NS + 3_600 * NS_PER_S)),
    ],
)
def test_what_is_typed_is_a_command(typed: str, command: ReplayCommand) -> None:
    assert parse_command(typed.split(), NOON_NS) == command


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "there is no command ''; allowed: pause, resume, toggle, speed,"),
        ("stepp 1", "there is no command 'stepp'"),
        ("pause 5", "pause does not take '5'"),
        ("speed 1 2", "speed does not take '1 2'"),
        ("speed", "speed '': could not convert"),
        ("speed fast", "speed 'fast': could not convert"),
        ("speed -1", "allowed are 0 (as fast as possible) to 1,000,000"),
        ("speed nan", "allowed are 0"),
        ("speed inf", "allowed are 0"),
        ("speed 0.0000001", "the speed is 0 or at least"),
        ("step 0", "allowed are a number of events, and spans"),
        ("step 0s", "a span is longer than nothing"),
        ("step -3", "allowed are a number of events"),
        ("step 1d", "allowed are a number of events"),
        ("step " + "9" * 30, "allowed are a number of events"),
        ("seek", "seek '': allowed are New York times"),
        ("seek 100.1%", "a replay goes from 0% to 100%"),
        ("seek -5%", "allowed are New York times"),
        ("until 50%", "allowed are New York times"),
        ("loop 15:30", "loop '15:30': allowed are New York times"),
        ("loop 15:31 15:30", "a loop ends after it begins"),
        ("until", "until '': allowed are New York times like 15:30"),
        ("until 25:00", "hour must be in 0..23"),
        ("until 2025-13-01T00:00", "month must be in 1..12"),
        ("until 1969-12-31T23:59:59", "times are those from 1970 to 2262"),
        ("until 2262-12-31T00:00Z", "times are those from 1970 to 2262"),
    ],
)
def test_what_is_no_command_is_told_with_what_is_allowed(typed: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_command(typed.split(), NOON_NS)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12:00", 0),
        ("12:00:01.5", 1.5),
        ("17:00Z", 0),
        ("18:00+01:00", 0),
        ("2025-12-16T17:00", 0),
        ("2025-12-16 17:00:02Z", 2),
        ("2025-12-16T12:00:00-05:00", 0),
        ("+250ms", 0.25),
    ],
)
def test_a_time_is_new_yorks_on_the_day_of_the_replay_or_of_the_zone_that_is_written(
    text: str, seconds: float
) -> None:
    assert moment_ns(text, NOON_NS) - NOON_NS == seconds * NS_PER_S


def test_nine_digits_of_a_second_are_read_as_they_are_told() -> None:
    assert moment_ns("2025-12-16T17:00:00.000000001Z", None) == NOON_NS + 1


@pytest.mark.parametrize("text", ["12:00", "17:00Z", "+5s"])
def test_a_time_without_a_date_needs_a_replay_that_has_begun(text: str) -> None:
    with pytest.raises(ValueError, match="write the date too"):
        moment_ns(text, None)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"do":"fly"}', "Invalid enum value 'fly'"),
        (b'{"do":"pause","speed":1}', "pause takes no value"),
        (b'{"do":"speed"}', "speed takes speed"),
        (b'{"do":"step","events":1,"span_ns":1}', "step takes events or span_ns"),
        (b'{"do":"step","events":0}', ">= 1"),
        (b'{"do":"speed","speed":1e7}', "<= 1000000.0"),
        (b'{"do":"until","at_ns":-1}', ">= 0"),
        (b'{"do":"seek","at_ns":1,"by_ns":1}', "seek takes at_ns or by_ns"),
        (b'{"do":"seek","share":1.5}', "<= 1"),
        (b'{"do":"loop","at_ns":1}', "loop takes at_ns or to_ns"),
        (b'{"do":"pause","more":1}', "unknown field"),
        (b"[" * 400, "no command"),
        (b" " * MAX_COMMAND_BYTES + b"{}", "at most 512 bytes"),
        (b"\xff", "no command"),
    ],
)
def test_json_that_is_no_command_is_refused_with_its_reason(data: bytes, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        decode_command(data)
    assert told in str(raised.value)


def test_a_command_as_json_is_what_is_typed() -> None:
    assert decode_command(b'{"do":"step","events":5}') == parse_command(["step", "5"], None)


def test_a_state_reads_as_one_line() -> None:
    state = ReplayState(speed=1_000.0, position_ns=NOON_NS, until_ns=NOON_NS + 1, generation=3)
    assert state.sentence(998.2) == (
        "running, at 2025-12-16T17:00:00.000000000Z (12:00:00 New York), x1,000, attained x998.2,"
        " until 2025-12-16T17:00:00.000000001Z (12:00:00 New York) (generation 3)"
    )
    assert ReplayState(paused=True).sentence(5.0) == (
        "paused, before the first event, as fast as possible (generation 0)"
    )
