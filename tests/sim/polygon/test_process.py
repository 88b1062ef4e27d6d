"""The simulator as a program: its command line, its ready line, its end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingestor.model.errors import ChildFailedError, ConfigurationError, ExitCode
from ingestor.model.units import NS_PER_S
from ingestor.sim.polygon.__main__ import Directive, main, parse_script, parser, read_settings
from ingestor.sim.polygon.control_handler import COMMANDS
from ingestor.sim.polygon.server_session import SimMarket
from ingestor.sim.polygon.simulator import PricePath, SimulatorSettings
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.sim.polygon.conftest import Start
from tests.sim.polygon.helpers import client, subscriber
from tests.sim.polygon.test_client_connection import closed

COMMAND = [sys.executable, "-m", "ingestor.sim.polygon"]


def await_end(simulator: SimulatorProcess) -> None:
    """Wait for the process to end, and leave its exit code to `stop`."""
    os.waitid(os.P_PID, simulator.pid, os.WEXITED | os.WNOWAIT)


def test_without_arguments_the_settings_are_the_defaults() -> None:
    assert read_settings([]) == (SimulatorSettings(), False)


def test_the_ready_line_says_where_everything_listens(start: Start) -> None:
    simulator = start()
    assert simulator.stocks_url.startswith("ws://127.0.0.1:")
    assert simulator.stocks_url.removesuffix("/stocks") == simulator.options_url.removesuffix(
        "/options"
    )
    assert simulator.control_url.startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_connections_and_ends_it_cleanly(number: signal.Signals) -> None:
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["pid"] == process.pid
        with subscriber(ready["stocks_url"], "T.SPY") as joined:
            process.send_signal(number)
            ended = closed(joined)
        assert ended.rcvd is not None
        assert ended.rcvd.code == 1001
        assert process.wait(10) == 0


def test_quit_ends_it() -> None:
    with SimulatorProcess() as simulator:
        assert simulator.control("quit") == {"ok": True}
        await_end(simulator)
        assert simulator.stop() == 0


def test_it_ends_with_its_parent() -> None:
    command = [*COMMAND, "--exit-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])
def test_only_loopback_is_listened_on(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", host]) == ExitCode.CONFIGURATION
    assert f"--host {host}: the simulator listens on loopback only" in capsys.readouterr().err


def test_a_port_that_is_taken_is_a_clear_error(start: Start) -> None:
    port = start().stocks_url.rsplit(":", 1)[1].removesuffix("/stocks")
    refused = subprocess.run(
        [*COMMAND, "--port", port], capture_output=True, text=True, check=False
    )
    assert refused.returncode == ExitCode.CONFIGURATION
    assert "cannot listen on 127.0.0.1" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--rate", "-1"], "--rate -1: allowed is 0 to 1000000"),
        (["--frame-ms", "0"], "--frame-ms 0"),
        (["--quote-share", "2"], "--quote-share"),
        (["--tls-cert", "x.pem"], "go together"),
        (["--port", "70000"], "65535"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(argv: list[str], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read_settings(argv)


@pytest.mark.parametrize("argv", [["--plan", "stocks-X"], ["--path", "up"], ["--ratio", "1"]])
def test_what_is_not_an_option_ends_with_code_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_settings(argv)
    assert ended.value.code == ExitCode.CONFIGURATION


def test_the_path_is_read_in_dollars_and_seconds() -> None:
    settings, _ = read_settings(["--path", "linear:-2.5:90s"])
    assert settings.path == PricePath(-250, 90 * NS_PER_S)


def test_a_plan_is_told_apart_by_market() -> None:
    settings, _ = read_settings(["--plan", "stocks-T,options-Q,options-T"])
    assert settings.rules(SimMarket.STOCKS).topics == {"T"}
    assert settings.rules(SimMarket.OPTIONS).topics == {"T", "Q"}


def test_with_a_script_the_markets_are_quiet_unless_asked() -> None:
    assert read_settings(["--script", "x"])[0].rate == 0
    assert read_settings(["--script", "x", "--rate", "5"])[0].rate == 5


def test_help_names_every_control_command_and_every_option() -> None:
    made = parser()
    text = made.format_help()
    for command in COMMANDS:
        assert f'"do":"{command.__struct_config__.tag}"' in text
    for action in made._actions:
        assert isinstance(action, argparse._HelpAction) or action.option_strings[0] in text


def test_a_script_is_sent_byte_for_byte_and_in_order(start: Start, tmp_path: Path) -> None:
    frames = [f'[{{"ev":"T", "sym":"SPY","p":{price}}}]' for price in ("686.0", "686.10")]
    script = tmp_path / "frames.jsonl"
    script.write_text("\n".join(['{"wait":"T.SPY"}', *frames, '{"pause_ms":1}', "[]"]))
    simulator = start("--script", str(script))
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        assert [joined.socket.recv(10) for _ in range(3)] == [*frames, "[]"]


def test_a_script_can_speak_on_both_markets(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "frames.jsonl"
    script.write_text('{"market":"options"}\n[1]\n{"market":"stocks"}\n[2]\n')
    simulator = start("--script", str(script))
    with client(simulator.options_url) as options, client(simulator.stocks_url) as stocks:
        stocks.log_in()
        options.log_in()
        assert options.socket.recv(10) == "[1]"
        assert stocks.socket.recv(10) == "[2]"


def test_a_script_skips_comments_and_blank_lines() -> None:
    lines = [b"# frames", b"", b"[1]", b'{"pause_ms": 2}']
    assert list(parse_script(lines, "x")) == [b"[1]", Directive(pause_ms=2)]


@pytest.mark.parametrize("line", [b"frame", b'{"wiat":"T.SPY"}', b'{"market":"crypto"}'])
def test_a_script_line_that_is_neither_is_named(line: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"play\.jsonl, line 2"):
        list(parse_script([b"[]", line], "play.jsonl"))


def test_what_is_sent_is_logged_a_line_each_with_its_connection(
    start: Start, tmp_path: Path
) -> None:
    (script := tmp_path / "frames.jsonl").write_text('{"wait":"T.SPY"}\n[1]\n')
    log = tmp_path / "sent.log"
    simulator = start("--script", str(script), "--log", str(log))
    with subscriber(simulator.stocks_url, "T.SPY") as joined:
        assert joined.socket.recv(10) == "[1]"
        simulator.control("send", text="[2,\n3]")
        assert joined.socket.recv(10) == "[2,\n3]"
    simulator.stop()
    assert log.read_text().splitlines()[-2:] == ["1 [1]", "1 [2, 3]"]


def test_a_log_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--log", str(tmp_path / "none" / "log")]) == ExitCode.CONFIGURATION
    assert "none/log: No such file or directory" in capsys.readouterr().err


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert main(["--script", str(tmp_path / "none.jsonl")]) == ExitCode.CONFIGURATION


def test_a_simulator_that_does_not_start_is_an_error_of_the_helper() -> None:
    with pytest.raises(ChildFailedError, match="exit code 2"):
        SimulatorProcess("--host", "10.0.0.1")


def test_the_helper_says_when_the_simulator_is_gone() -> None:
    with SimulatorProcess() as simulator:
        simulator.control("quit")
        await_end(simulator)
        with pytest.raises((ChildFailedError, ConnectionError)):
            simulator.control("stats")


def test_waiting_for_what_does_not_happen_ends_in_a_timeout(start: Start) -> None:
    with pytest.raises(TimeoutError, match="did not get there"):
        start().wait_until(lambda _: False, timeout_s=0.05)
