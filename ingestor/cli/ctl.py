"""``ingestor ctl``: steers a replay that is running, through the service that it offers on NATS."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from ingestor.cli import consuming
from ingestor.cli.parser import Parser
from ingestor.model.bounds import printable
from ingestor.model.errors import (
    ChildFailedError,
    ConfigurationError,
    ExitCode,
    IngestorError,
    NoDataError,
)
from ingestor.model.replay_control import ControlAnswer, Do
from ingestor.nats.answers import NobodyListensError
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime import log as logs
from ingestor.runtime.nats_service import (
    CONTROL_SERVICE,
    CONTROL_SUBJECT,
    RunningService,
    only_run,
    running,
)
from ingestor.runtime.run_keeper import connection_to

PROG: Final = "ingestor-ctl"

STEP_POLL_S: Final = 0.05

_ABOUT: Final = """\
Steer a replay that is running: pause and resume it, change its speed, step through it, seek to a
time in it, loop over a part of it, stop it.
It is found through the NATS server that it publishes to.
"""

_MORE: Final = """\
commands:
  status            how it stands: told and attained speed, where it is
  pause, resume, toggle
  speed X           1 real time, 2 twice as fast, 0.5; 0 or max as fast as possible
  step N            pause, and publish the next N events at once
  step SPAN         the same with all events of 5s, 250ms, 1m (the word is back when that is done)
  until TIME        pause before the first event at or after it; `until off` plays to the end
  seek TIME         go on with the first event at or after it, back or forth; also -10s, -5m,
                    and 50% of the way from the replay's first event to its last
  loop FROM TO      seek to FROM, and go back there before the first event at or after TO;
                    `loop off` plays on
  stop              end it in order, as SIGTERM does
  list              which replays there are

times:
  15:30 or 15:30:01.5 is New York's on the day where the replay is, 2025-12-16T20:30:00Z is UTC
  (nine digits of a second are read), +10s, +5m and +1h count from where it is

examples:
  ingestor ctl pause
  ingestor ctl step 5s
  ingestor ctl seek 15:30
  ingestor ctl seek 50%
  ingestor ctl loop 15:30 15:31
  ingestor ctl --run 20251216143000-host-4711-ab12 speed 100
  nats request ingestor.control.20251216143000-host-4711-ab12.speed 100    the same
  nats micro info ingestor-replay

exit codes:
  0 done, 2 command line, or several replays and no --run, 3 no such replay, 5 NATS unreachable,
  6 NATS refused, 9 the replay cannot do it now, or does not answer, 130 Ctrl-C
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor ctl``; returns its exit code."""
    given = parser().parse_args(arguments)
    logs.configure(PROG, "WARNING")
    try:
        options = ConnectOptions(**consuming.way_in(given))
    except IngestorError as error:
        logs.complain(PROG, error)
        return error.exit_code
    return consuming.run(PROG, _steer(options, given))


async def _steer(options: ConnectOptions, given: argparse.Namespace) -> int:
    async with connection_to(options, PROG) as connection:
        if given.command == "list":
            return _list(await running(connection, CONTROL_SERVICE), as_json=given.json)
        run = given.run or await only_run(
            connection,
            CONTROL_SERVICE,
            nobody=f"no replay that can be steered is running at {connection.servers}",
            several="several replays are running",
        )
        answer = await _command(connection, run, given.command, given.value)
        text = answer.text
        while _is_under_way(given.command, answer):
            await asyncio.sleep(STEP_POLL_S)
            answer = await _command(connection, run, Do.STATUS, [])
        # What was done, and how it stands now that it is done.
        answer = msgspec.structs.replace(answer, text=text)
    line = msgspec.json.encode(answer).decode() if given.json else printable(answer.text)
    sys.stdout.write(f"{line}\n")
    return ExitCode.OK


def _is_under_way(command: str, answer: ControlAnswer) -> bool:
    if command in (Do.SEEK, Do.LOOP):
        return answer.state is not None and answer.state.seeking_ns is not None
    return command == Do.STEP and answer.state is not None and answer.state.stepping


def _list(found: Sequence[RunningService], *, as_json: bool) -> int:
    lines = [msgspec.json.encode(one.metadata).decode() if as_json else one.line for one in found]
    if not found and not as_json:
        lines = ["no replay is running here"]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return ExitCode.OK


async def _command(
    connection: Connection, run: str, command: str, values: Sequence[str]
) -> ControlAnswer:
    subject = f"{CONTROL_SUBJECT}.{run}.{command}"
    try:
        message = await connection.request("the replay", subject, " ".join(values).encode())
    except NobodyListensError:
        raise NoDataError(f"there is no replay {run} at {connection.servers}") from None
    headers = message.headers or {}
    if (code := headers.get(ERROR_CODE_HEADER)) is not None:
        kind = ConfigurationError if code == "400" else ChildFailedError
        raise kind(printable(headers.get(ERROR_HEADER, "")))
    return msgspec.json.decode(message.data, type=ControlAnswer)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor ctl``."""
    made = Parser(PROG, _ABOUT, _MORE)
    consuming.add_server(made)
    made.add_argument("--run", metavar="RUN", help="which replay, where there are several")
    made.add_argument("--json", action="store_true", help="print the answer as one JSON object")
    made.add_argument("command", choices=[*Do, "list"], metavar="COMMAND", help="see below")
    made.add_argument("value", nargs="*", metavar="VALUE", help="what it takes")
    # Or `seek -5m` would be taken for an option.
    made._negative_number_matcher = re.compile(r"-\d")
    return made
