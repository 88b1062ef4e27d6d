"""Set-ups that are really broken: what doctor says of each, and that its mend works as typed.

Each is broken, looked at, mended and looked at again in one shell, as its reader would do it. Of a
kernel's settings that need a machine's own root or hardware (governor, clock source, huge pages,
swap), and of packages that lack, other tests show files of a made-up machine.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_DAY
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests import live_cli
from tests.conftest import StartNatsServer
from tests.dbn_files import DAY, DAY_NS, dbn_path, trades, write_dbn
from tests.doctor.test_server import make_stream
from tests.doctor.typing_shell import ROOT
from tests.nats_servers import NatsServer, current_executable
from tests.ports import free_port

pytestmark = pytest.mark.slow

KEY: Final = "abcdefghijklmnopqrstuvwxyz_12345"
NOWHERE: Final = "nats://127.0.0.1:1"
NOBODY: Final = 65_534
"""Its name varies."""

AS_NOBODY: Final = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may break this")


def works(*command: str) -> bool:
    """Whether the machine lets us do something."""
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


# A container may forbid raising what it has; an interpreter of root's own folder is not for all.
needs_to_raise_limits = pytest.mark.skipif(
    not works("bash", "-c", "ulimit -n 512; prlimit --pid $$ --nofile=1024:1024"),
    reason="this machine lets nobody raise a hard limit",
)
needs_nobody = pytest.mark.skipif(
    not works(*AS_NOBODY.split(), "bash", "-c", f"{sys.executable} -c ''"),
    reason="only root may run others, and this interpreter is not for all",
)

# The mend is taken as it is shown. A server that it starts is waited for, and ended with the shell.
_SHELL: Final = """\
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
{breaks}
{by} $DOCTOR --json {words} >before.json </dev/null
mend=$({python} -c 'import json, sys
print(*[one["mend"] for one in json.load(open("before.json"))["findings"] if one["code"] == "{code}"
       and one["mark"] in ("warn", "fail")][:1])')
eval "$mend" || exit 77
for again in 1 2 3 4 5 6; do
    {by} $DOCTOR --json {again} >after.json </dev/null
    {python} -c 'import json
sys_exit = any(one["code"] == "{code}" and one["mark"] in ("warn", "fail")
               for one in json.load(open("after.json"))["findings"])
raise SystemExit(sys_exit)' && exit 0
    sleep 0.5
done
exit 78
"""


@dataclass
class Broken:
    """A set-up, and what doctor is to say of it.

    `words` is what is looked at and `again` the same once it is mended; `breaks` is typed before.
    `shell` runs the shell; `by` runs doctor in it. `typed` is what the mend asks its reader for.
    """

    code: str
    words: str
    exit_code: int = 0
    breaks: str = ""
    again: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    shell: tuple[str, ...] = ()
    by: str = ""
    typed: str = ""


def looked_at(broken: Broken, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Break, look, mend and look again; return what doctor said before and after."""
    doctor = f"{sys.executable} -P -m ingestor doctor"
    command = _SHELL.format(
        breaks=broken.breaks,
        by=broken.by,
        words=broken.words,
        again=broken.words if broken.again is None else broken.again,
        code=broken.code,
        python=sys.executable,
    )
    ours = ("NATS_", "POLYGON_", "REPLAY_", "DBN_", "PYTHONTZPATH")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    ended = subprocess.run(
        [*broken.shell, "bash", "-c", command],
        cwd=folder,
        env=clean
        | {"PYTHONPATH": str(ROOT), "INGESTOR_VENV": sys.prefix, "DOCTOR": doctor}
        | broken.env,
        input=f"{broken.typed}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = [folder / name for name in ("before.json", "after.json")]
    shown = [path.read_text() if path.exists() else "" for path in told]
    assert ended.returncode == 0, (ended.returncode, ended.stdout, ended.stderr, shown)
    before, after = map(json.loads, shown)
    return before, after


def assert_mended(broken: Broken, folder: Path) -> dict[str, Any]:
    """Check all that is said; return the finding."""
    before, after = looked_at(broken, folder)
    found = next(one for one in before["findings"] if one["code"] == broken.code)
    if broken.exit_code or found["mark"] == "fail":
        failures = [one["code"] for one in before["findings"] if one["mark"] == "fail"]
        assert (found["mark"], found["exit_code"]) == ("fail", broken.exit_code), found
        assert before["exit_code"] == broken.exit_code, failures
    else:
        assert found["mark"] == "warn"
    assert found["mend"], found
    right = [one["mark"] for one in after["findings"] if one["code"] == broken.code]
    # A file with secrets that is closed has no line any more.
    assert set(right) == {"ok"} or (broken.code == "SECRETS" and not right), after
    found["exit_code_after"] = after["exit_code"]
    return dict(found)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own may not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


LIVE: Final = f"live --nats {NOWHERE}"
NO_WAY: Final = {"POLYGON_STOCKS_URL": "ws://127.0.0.1:1/", "POLYGON_OPTIONS_URL": "ws://[::1]:1/"}
_AT_SERVER: Final = "nats --nats nats://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("breaks", "exit_code", "found"),
    [
        pytest.param("", ExitCode.VENDOR_REFUSED, "there is no key", id="no-key"),
        pytest.param(f"export POLYGON_API_KEY=\\'{KEY}\\'", 0, "quotation marks", id="quoted-key"),
        pytest.param("export POLYGON_API_KEY=short", 0, "its 5 characters", id="short-key"),
        pytest.param(
            f"umask 77; echo '\"{KEY}\"' >key; export POLYGON_API_KEY_FILE=key",
            0,
            "quotation marks",
            id="quoted-key-in-a-file",
        ),
    ],
)
def test_a_key_is_typed(tmp_path: Path, breaks: str, exit_code: int, found: str) -> None:
    with live_cli.simulator() as vendor:
        env = live_cli.feeds_of(vendor)
        del env["POLYGON_API_KEY"]
        server = f"export NATS_URL={NOWHERE}"
        broken = Broken("KEY", "live", breaks=f"{breaks}; {server}".lstrip("; "), env=env)
        broken.typed = KEY
        # No server is the first failure here, and is not looked at.
        before, after = looked_at(broken, tmp_path)
    finding = next(one for one in before["findings"] if one["code"] == "KEY")
    assert found in finding["found"]
    assert (finding["mark"], finding["exit_code"]) == ("fail" if exit_code else "warn", exit_code)
    assert KEY not in json.dumps(before) + json.dumps(after)
    assert [one["mark"] for one in after["findings"] if one["code"] == "KEY"] == ["ok"]


def test_a_key_that_the_vendor_refuses(tmp_path: Path, nats_server: NatsServer) -> None:
    with SimulatorProcess("--api-key", KEY) as vendor:
        env = live_cli.feeds_of(vendor, POLYGON_API_KEY=KEY[::-1], NATS_URL=nats_server.url)
        broken = Broken("VENDOR_LOGIN", "live --login", ExitCode.VENDOR_REFUSED, env=env)
        broken.typed = KEY
        finding = assert_mended(broken, tmp_path)
    assert KEY[::-1] not in json.dumps(finding)


@pytest.mark.parametrize(
    "breaks",
    [
        pytest.param(
            f"printf '[polygon]\\napi_key = \"{KEY}\"\\n' >'my live.toml'", id="configuration"
        ),
        pytest.param(
            f"echo {KEY} >'my key'; export POLYGON_API_KEY_FILE='my key'; touch 'my live.toml'",
            id="key-file",
        ),
    ],
)
def test_a_file_with_a_secret_that_all_can_read(
    tmp_path: Path, nats_server: NatsServer, breaks: str
) -> None:
    words = f"nats --nats {nats_server.url} --config 'my live.toml'"
    assert_mended(Broken("SECRETS", words, breaks=f"umask 22; {breaks}"), tmp_path)


def test_a_key_file_that_all_can_read_where_no_configuration_is_named(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    breaks = f"umask 22; echo {KEY} >key; export POLYGON_API_KEY_FILE=key"
    words = f"nats --nats {nats_server.url}"
    finding = assert_mended(Broken("SECRETS", words, breaks=breaks), tmp_path)
    assert finding["mend"] == "chmod 600 key"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    words = _AT_SERVER.format(port=free_port())
    assert_mended(Broken("NATS_SERVER", words, ExitCode.NATS_UNREACHABLE), tmp_path)


def test_a_server_that_is_frozen_is_not_started_a_second_time(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    nats_server.pause()
    broken = Broken("NATS_SERVER", f"nats --nats {nats_server.url}", ExitCode.NATS_UNREACHABLE)
    broken.breaks = f"mend_by_hand() {{ kill -CONT {nats_server.pid}; }}"
    try:
        with pytest.raises(AssertionError):
            looked_at(broken, tmp_path)
        before = json.loads((tmp_path / "before.json").read_text())
    finally:
        nats_server.resume()
    finding = next(one for one in before["findings"] if one["code"] == "NATS_SERVER")
    assert (finding["exit_code"], finding["mend"]) == (ExitCode.NATS_UNREACHABLE, "")


@pytest.mark.usefixtures("default_port")
def test_the_default_port_is_taken_by_something_else(tmp_path: Path) -> None:
    listens = "http.server --bind 127.0.0.1 4222 >/dev/null 2>&1 & sleep 1"
    broken = Broken("NATS_SERVER", "nats", ExitCode.EMBEDDED_SERVER)
    broken.breaks = f"{sys.executable} -m {listens}"
    finding = assert_mended(broken, tmp_path)
    assert finding["mend"].startswith("export NATS_URL=nats://127.0.0.1:43")


def test_a_server_without_jetstream(tmp_path: Path) -> None:
    port = free_port()
    broken = Broken("JETSTREAM", "nats", ExitCode.STREAM)
    broken.breaks = (
        f"{current_executable()} -a 127.0.0.1 -p {port} 2>/dev/null & sleep 1;"
        f" export NATS_URL=nats://127.0.0.1:{port}"
    )
    assert_mended(broken, tmp_path)


def test_a_server_that_takes_no_message_as_long_as_an_event(
    tmp_path: Path, start_nats_server: StartNatsServer
) -> None:
    server = start_nats_server(extra_config="max_payload: 2KB")
    broken = Broken("NATS_PAYLOAD", "nats", ExitCode.NATS_REFUSED, env={"NATS_URL": server.url})
    assert_mended(broken, tmp_path)


def test_a_server_that_is_old(tmp_path: Path, old_nats_server: NatsServer) -> None:
    broken = Broken("NATS_VERSION", "nats", env={"NATS_URL": old_nats_server.url})
    assert_mended(broken, tmp_path)


def test_a_stream_that_already_takes_the_subjects(tmp_path: Path, nats_server: NatsServer) -> None:
    make_stream(nats_server, name="OTHER", subjects=["market.>"])
    words = f"nats --nats {nats_server.url}"
    broken = Broken("STREAM", words, ExitCode.STREAM, again=f"{words} --stream OTHER")
    assert_mended(broken, tmp_path)


def written(folder: Path, days_later: int = 0) -> Path:
    path = dbn_path(folder, "trades", DAY + dt.timedelta(days=days_later))
    write_dbn(path, trades(10, start_ns=DAY_NS + days_later * NS_PER_DAY), schema="trades")
    return path


def test_a_date_that_lacks(tmp_path: Path, nats_server: NatsServer) -> None:
    written(tmp_path / "my data")
    words = "replay --data-dir 'my data' --feeds trades --date "
    broken = Broken("DATA_DATES", f"{words} 2024-01-03", ExitCode.NO_DATA)
    broken.again = f"{words} 2024-01-02"
    broken.env = {"NATS_URL": nats_server.url}
    assert_mended(broken, tmp_path)


def test_a_feed_of_which_there_is_nothing(tmp_path: Path, nats_server: NatsServer) -> None:
    written(tmp_path / "my data")
    broken = Broken("DATA", "replay --data-dir 'my data'", ExitCode.NO_DATA)
    broken.again = f"{broken.words} --feeds trades"
    broken.env = {"NATS_URL": nats_server.url}
    assert_mended(broken, tmp_path)


def test_a_file_that_is_damaged(tmp_path: Path, nats_server: NatsServer) -> None:
    written(tmp_path / "data")
    dbn_path(tmp_path / "data", "trades", DAY + dt.timedelta(days=1)).write_bytes(b"DBN\x09none")
    words = f"replay --data-dir data --nats {nats_server.url}"
    assert_mended(Broken("DATA_FILES", words, ExitCode.BAD_DATA), tmp_path)


@needs_nobody
def test_a_file_that_may_not_be_read(open_folder: Path, nats_server: NatsServer) -> None:
    file = written(open_folder / "data")
    os.chown(file, NOBODY, NOBODY)
    file.chmod(0)
    words = f"replay --data-dir data --nats {nats_server.url}"
    broken = Broken("DATA_FILES", words, ExitCode.NO_DATA, shell=tuple(AS_NOBODY.split()))
    assert_mended(broken, open_folder)


def recording(folder: Path) -> str:
    return f"machine --record {folder / 'journal'} --nats {NOWHERE}"


@needs_nobody
def test_a_folder_of_ours_that_is_shut(open_folder: Path) -> None:
    (open_folder / "journal").mkdir(mode=0o500)
    os.chown(open_folder / "journal", NOBODY, NOBODY)
    broken = Broken("FOLDERS", recording(open_folder), ExitCode.CONFIGURATION)
    broken.shell = tuple(AS_NOBODY.split())
    assert_mended(broken, open_folder)


@needs_root
def test_a_folder_of_somebody_else(open_folder: Path) -> None:
    (open_folder / "journal").mkdir(mode=0o755)
    broken = Broken("FOLDERS", recording(open_folder), ExitCode.CONFIGURATION, by=AS_NOBODY)
    finding = assert_mended(broken, open_folder)
    assert finding["as_root"]


def test_a_file_that_lies_where_a_folder_is_to_be(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("kept")
    assert_mended(Broken("FOLDERS", recording(tmp_path), ExitCode.CONFIGURATION), tmp_path)
    assert (tmp_path / "journal.aside").read_text() == "kept"


@pytest.mark.parametrize(
    ("breaks", "exit_code"),
    [
        pytest.param("ulimit -S -n 256", 0, id="soft"),
        pytest.param("ulimit -n 512", 0, id="hard", marks=needs_to_raise_limits),
        pytest.param(
            "ulimit -n 100", ExitCode.CONFIGURATION, id="hopeless", marks=needs_to_raise_limits
        ),
    ],
)
def test_too_few_open_files(tmp_path: Path, breaks: str, exit_code: int) -> None:
    broken = Broken("OPEN_FILES", f"machine --nats {NOWHERE}", exit_code, breaks=breaks)
    assert_mended(broken, tmp_path)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is but one CPU")
def test_a_shell_that_is_bound_to_one_cpu(tmp_path: Path) -> None:
    breaks = f"taskset -cp {min(os.sched_getaffinity(0))} $$ >/dev/null"
    assert_mended(Broken("CPUS", f"machine --nats {NOWHERE}", breaks=breaks), tmp_path)


@pytest.mark.skipif(not Path(zoneinfo.TZPATH[0], "UTC").exists(), reason="no zones to copy")
def test_time_zones_of_a_folder_in_which_new_york_is_wrong(tmp_path: Path) -> None:
    zone = tmp_path / "zones" / "America" / "New_York"
    zone.parent.mkdir(parents=True)
    zone.write_bytes(Path(zoneinfo.TZPATH[0], "UTC").read_bytes())
    broken = Broken("TIME_ZONES", f"machine --nats {NOWHERE}", ExitCode.INTERNAL)
    broken.env = {"PYTHONTZPATH": str(tmp_path / "zones")}
    assert_mended(broken, tmp_path)


def in_a_namespace(kind: str) -> tuple[str, ...]:
    """What runs a shell in a namespace of its own; skips where the kernel forbids it."""
    command = ("unshare", f"--{kind}")
    if works(*command, "true"):
        return command
    pytest.skip(f"no {kind} namespaces here")


@needs_root
def test_shared_memory_that_is_too_small_for_the_rings(tmp_path: Path) -> None:
    broken = Broken("SHARED_MEMORY", f"machine --nats {NOWHERE}", ExitCode.INTERNAL)
    broken.shell = in_a_namespace("mount")
    broken.breaks = "mount -t tmpfs -o size=4M tmpfs /dev/shm || exit 76"
    assert_mended(broken, tmp_path)


@needs_root
def test_receive_buffers_that_are_small(tmp_path: Path) -> None:
    broken = Broken("RECEIVE_BUFFERS", f"machine --nats {NOWHERE}", shell=in_a_namespace("net"))
    broken.breaks = "echo 4096 131072 212992 >/proc/sys/net/ipv4/tcp_rmem || exit 76"
    assert_mended(broken, tmp_path)
