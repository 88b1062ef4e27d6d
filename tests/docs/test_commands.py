"""What the pages tell people to type does what they show."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

from ingestor.cli import COMMANDS
from ingestor.config.load import file_layer, load
from ingestor.config.schema import Config
from ingestor.model.errors import ExitCode
from ingestor.runtime.supervisor import RESTART_SILENCE_S
from tests.docs.pages import PAGES, ROOT, Block, Step, blocks_of, is_shown
from tests.nats_servers import NatsServer

UNITS: Final = sorted((ROOT / "configs" / "systemd").glob("*.service"))

_SLOW: Final = ("replay", "live", "first-hour", "consuming")
"""Pages that take 7 s or more, of what other tests run as well."""

_OURS: Final = re.compile(r"NATS_URL|REPLAY_\w+|DBN_DATA_DIR|POLYGON_\w+")
_STEP_TIMEOUT_S: Final = 60
_LISTENS_TIMEOUT_S: Final = 20

# `async with` outside of a function, as in `python -m asyncio`.
_AWAITING: Final = """\
import ast, asyncio, inspect, sys
code = compile(sys.stdin.read(), "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
made = eval(code, {"__name__": "__main__"})
asyncio.run(made) if inspect.iscoroutine(made) else None
"""


class Terminal:
    """Runs what a page shows in a checkout of its own, on ports of its own."""

    def __init__(self, folder: Path, page_text: str, server: NatsServer) -> None:
        for name in ("bin", "configs"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        # What a page shows may be taken on this machine, be it by the reader's own server.
        self._ports = {port: str(_free_port()) for port in re.findall(r"--port (\d+)", page_text)}
        self._ports.setdefault("4222", str(server.port))
        self._folder = folder
        self._nats = f"nats://127.0.0.1:{self._ports['4222']}"
        self._environment = {
            name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)
        }
        self._background: list[tuple[Step, subprocess.Popen[str]]] = []

    def run(self, block: Block) -> None:
        """Run a block that is to be run."""
        if block.language == "python":
            output, code = self._ended(self._start([sys.executable, "-c", _AWAITING]), block.text)
            assert code == 0, output
            assert output
            return
        for step in block.steps():
            self._run_step(step, block.exit_code)

    def close(self) -> None:
        """End what runs in the background, and look at what it said."""
        for step, process in self._background:
            os.killpg(process.pid, signal.SIGINT)
            output, code = self._ended(process)
            assert code in (0, ExitCode.INTERRUPTED), output
            assert is_shown(output, step.shown), f"{step.command}\n{output}"

    def _run_step(self, step: Step, exit_code: int) -> None:
        if step.command.startswith("export "):
            words = (word.split("=", 1) for word in shlex.split(step.command)[1:])
            self._environment |= {name: self._on_our_ports(value) for name, value in words}
            return
        command = ["bash", "-c", self._on_our_ports(step.command.removesuffix(" &"))]
        process = self._start(command, demo="--demo" in step.command)
        if step.command.endswith(" &"):
            self._background.append((step, process))
            self._wait_for_port(process, step)
            return
        output, code = self._ended(process)
        assert code == exit_code, f"{step.command}\n{output}"
        assert is_shown(output, step.shown), f"{step.command}\n{output}"

    def _start(self, command: list[str], *, demo: bool = False) -> subprocess.Popen[str]:
        # A demo has a server of its own, unless one is named.
        nats = {} if demo and not self._background else {"NATS_URL": self._nats}
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment | nats,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _ended(self, process: subprocess.Popen[str], text: str | None = None) -> tuple[str, int]:
        try:
            output, _ = process.communicate(
                None if text is None else self._on_our_ports(text), _STEP_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return output, process.returncode

    def _wait_for_port(self, process: subprocess.Popen[str], step: Step) -> None:
        shown = re.search(r"--port (\d+)", step.command)
        assert shown is not None, f"{step.command}: nobody can tell when it listens"
        deadline = time.monotonic() + _LISTENS_TIMEOUT_S
        while not _listens(int(self._ports[shown[1]])):
            assert process.poll() is None, self._ended(process)
            assert time.monotonic() < deadline, step.command
            time.sleep(0.02)

    def _on_our_ports(self, text: str) -> str:
        for shown, ours in self._ports.items():
            text = re.sub(rf"\b{shown}\b", ours, text)
        return text


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def _is_run(page: Path) -> bool:
    return any(
        block.is_run and block.language in ("console", "python") for block in blocks_of(page)
    )


@pytest.fixture(scope="module")
def installed() -> None:
    """A program that finds its environment out of date renews it; half-way it would be killed."""
    ready = ["bash", "-c", f"source '{ROOT}/bin/_env.sh' && ready run"]
    assert subprocess.run(ready, check=False).returncode == 0, "bin/test makes the environment"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem in _SLOW else (), id=page.stem)
        for page in PAGES
        if _is_run(page)
    ],
)
def test_what_a_page_tells_to_type_shows_what_the_page_shows(
    page: Path, tmp_path: Path, nats_server: NatsServer
) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    with closing(Terminal(folder, page.read_text(), nats_server)) as terminal:
        for block in blocks_of(page):
            if block.is_run and block.language in ("console", "python"):
                terminal.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks_of(page):
        mark = block.mark
        assert mark == "" or re.fullmatch(r"not run: .{5,}|exit code: \d+", mark), mark


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_of_settings_is_accepted(page: Path, tmp_path: Path) -> None:
    for block in blocks_of(page):
        if block.language == "toml":
            (tmp_path / "shown.toml").write_text(block.text)
            load([file_layer(tmp_path / "shown.toml")])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_of_systemd_heeds_the_table_of_exit_codes(unit: Path) -> None:
    page = ROOT / "docs" / "exit-codes.md"
    table = re.findall(r"^\| ([\d, ]+) \|.*\| (.*) \|$", page.read_text(), re.M)
    told = {int(code): advice for codes, advice in table for code in codes.split(",")}
    assert set(told) == {*ExitCode, 128 + signal.SIGHUP}
    service = service_of(unit)
    named = {
        advice: {int(code) for code in service[name].split()}
        for name, advice in (
            ("RestartPreventExitStatus", "does not start it again"),
            ("SuccessExitStatus", "counts it as success"),
        )
    }
    assert named == {
        advice: {code for code, told_advice in told.items() if told_advice == advice}
        for advice in named
    }
    assert service["Restart"] == "on-failure"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_waits_for_what_the_program_does_by_itself(unit: Path) -> None:
    service = service_of(unit)
    process = Config().process
    # The embedded server has ten seconds more, and systemd two beyond that.
    assert float(service["TimeoutStopSec"]) >= process.stop_s + 12
    # Half of it without a sign of life costs a restart: the supervisor mends that before.
    assert float(service["WatchdogSec"]) / 2 > 2 * RESTART_SILENCE_S
    assert service["NotifyAccess"] == "main"
    words = service["ExecStart"].replace("%i", "2025-12-16").split()
    assert words[:2] == ["/opt/ingestor/bin/ingestor", words[1]]
    import_module(COMMANDS[words[1]][0]).parser().parse_args(words[2:])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_one_that_systemd_understands(unit: Path, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed here")
    # The program and its user are not there on the machine of a test.
    text = unit.read_text().replace("/opt/ingestor/bin/ingestor", "/bin/true")
    copy = tmp_path / unit.name.replace("@", "@2025-12-16")
    copy.write_text(re.sub(r"(?m)^User=.*\n", "", text))
    told = subprocess.run(
        [verify, "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    # Systemd before 254 passes over what slows restarts down.
    newer = re.compile(r"Unknown key '(RestartSteps|RestartMaxDelaySec)' in section")
    wrong = [
        line
        for line in told.stderr.splitlines()
        if unit.stem.partition("@")[0] in line and not newer.search(line)
    ]
    assert not wrong


def service_of(unit: Path) -> dict[str, str]:
    """Settings of the section Service; of those that stand twice the last."""
    settings = configparser.ConfigParser(strict=False, interpolation=None)
    settings.optionxform = str  # type: ignore[assignment, method-assign]
    settings.read_string(unit.read_text())
    return dict(settings["Service"])
