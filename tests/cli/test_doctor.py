"""``ingestor doctor`` as its user meets it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ingestor.cli.doctor import _Teller, script
from ingestor.doctor import RIGHT, failed, passed, unknown, warned
from ingestor.model.errors import ExitCode
from tests.doctor.typing_shell import ROOT
from tests.nats_servers import NatsServer

_OURS = re.compile(r"NATS_URL|REPLAY_\w+|DBN_DATA_DIR|POLYGON_\w+")


def doctor(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "ingestor", "doctor", *words],
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_check_is_a_line_with_mark_code_and_finding(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    ended = doctor("nats", "--nats", nats_server.url, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    *lines, last = ended.stdout.splitlines()
    assert lines[0].split() == ["ok", "CONFIGURATION", "set", "by", "flag", "--nats"]
    for line in lines:
        assert re.match(r"(ok|skip|warn) +[A-Z_]+ +\S", line) or line.startswith("     ")
    assert re.match(r"\d+ right", last)


def test_what_is_wrong_is_told_with_what_is_right_and_what_mends_it(tmp_path: Path) -> None:
    ended = doctor("nats", "replay", "--nats", "nats://127.0.0.1:1", cwd=tmp_path)
    assert ended.returncode == ExitCode.NATS_UNREACHABLE
    told = re.search(
        r"^fail NATS_SERVER .*\n     right: (.*)\n     mend:  (.*)$", ended.stdout, re.M
    )
    assert told is not None
    assert told[1] == RIGHT["NATS_SERVER"]
    assert told[2].endswith("nats --port 1 &")


def test_json_is_one_object(tmp_path: Path) -> None:
    ended = doctor("live", "--json", "--nats", "nats://127.0.0.1:1", cwd=tmp_path)
    told: dict[str, Any] = json.loads(ended.stdout)
    assert told["exit_code"] == ended.returncode == ExitCode.NATS_UNREACHABLE
    found = {one["code"]: one for one in told["findings"]}
    assert set(found) <= set(RIGHT)
    assert found["KEY"]["mark"] == "fail"
    assert found["KEY"]["exit_code"] == ExitCode.VENDOR_REFUSED
    assert "DATA" not in found


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    key = "5ecret_5ecret_5ecret_5ecret"
    url = "ws://127.0.0.1:1/stocks"
    ended = doctor(
        "--json",
        "--nats",
        "nats://me:pa55word@127.0.0.1:1",
        cwd=tmp_path,
        POLYGON_API_KEY=key,
        POLYGON_STOCKS_URL=url,
        POLYGON_OPTIONS_URL=url,
    )
    assert key not in ended.stdout + ended.stderr
    assert "pa55word" not in ended.stdout + ended.stderr


def test_a_key_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abcdefghijklmnopqrstuvwxyz_12345\n")
    (tmp_path / "key").chmod(0o600)
    url = "ws://127.0.0.1:1/stocks"
    feeds = {"POLYGON_STOCKS_URL": url, "POLYGON_OPTIONS_URL": url}
    words = ("live", "--json", "--nats", "nats://127.0.0.1:1")
    ended = doctor(*words, cwd=tmp_path, POLYGON_API_KEY_FILE="key", **feeds)
    found = {one["code"]: one for one in json.loads(ended.stdout)["findings"]}
    assert (found["KEY"]["mark"], "SECRETS" in found) == ("ok", False)


def test_a_wrong_setting_ends_the_looking_at_what_it_concerns(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[nats]\nstraem = 'X'\n")
    ended = doctor("--config", "wrong.toml", cwd=tmp_path)
    assert ended.returncode == ExitCode.CONFIGURATION
    assert "did you mean nats.stream?" in ended.stdout
    assert "NATS_SERVER" not in ended.stdout
    assert "PYTHON" in ended.stdout


def test_a_file_with_secrets_that_all_can_read_is_closed_by_the_mend(tmp_path: Path) -> None:
    file = tmp_path / "live.toml"
    file.write_text("[polygon]\napi_key = 'abcdefghijklmnopqrstuvwxyz_12345'\n")
    file.chmod(0o644)
    words = ("nats", "--config", "live.toml", "--nats", "nats://127.0.0.1:1", "--json")
    found = json.loads(doctor(*words, cwd=tmp_path).stdout)["findings"]
    (secrets,) = [one for one in found if one["code"] == "SECRETS"]
    assert secrets["mark"] == "warn"
    subprocess.run(["bash", "-c", secrets["mend"]], cwd=tmp_path, check=True)
    again = json.loads(doctor(*words, cwd=tmp_path).stdout)["findings"]
    assert "SECRETS" not in [one["code"] for one in again]


def test_a_section_that_there_is_not_is_named(tmp_path: Path) -> None:
    ended = doctor("nuts", cwd=tmp_path)
    assert ended.returncode == ExitCode.CONFIGURATION
    assert "'nuts' is none of machine, nats, live, replay" in ended.stderr


def test_the_script_holds_the_mends_and_asks_for_root_where_it_must(tmp_path: Path) -> None:
    findings = [
        passed("PYTHON", "Python"),
        unknown("GOVERNOR", "nobody knows", "true"),
        warned("SWAP", "swap", f"echo 1 > {tmp_path}/swappiness", as_root=True),
        failed("FOLDERS", "shut", ExitCode.CONFIGURATION, f"touch {tmp_path}/opened"),
        warned("OPEN_FILES", "few", "ulimit -n 1024"),
    ]
    text = script(findings, "here")
    assert "# in the shell that starts the program: ulimit -n 1024" in text
    assert "GOVERNOR" not in text
    path = tmp_path / "fix.sh"
    path.write_text(text)
    ended = subprocess.run(["sh", path], capture_output=True, text=True, check=False)
    assert (tmp_path / "opened").exists()
    assert (tmp_path / "swappiness").exists() is (os.getuid() == 0)
    assert ("needs root: SWAP" in ended.stderr) is (os.getuid() != 0)


def test_a_script_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    ended = doctor("nats", "--nats", "nats://127.0.0.1:1", "--fix-script", "fix.sh", cwd=tmp_path)
    assert ended.returncode == ExitCode.NATS_UNREACHABLE
    text = (tmp_path / "fix.sh").read_text()
    assert "# NATS_SERVER: no NATS server answers" in text
    assert os.access(tmp_path / "fix.sh", os.X_OK)


def test_marks_are_coloured_on_a_terminal_alone(tmp_path: Path, nats_server: NatsServer) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ingestor", "doctor", "nats", "--nats", nats_server.url],
        cwd=tmp_path,
        env=environment,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65_536):
            shown += piece
    except OSError:  # a terminal whose other side has ended
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0
    assert b"\x1b[32mok   \x1b[0m" in shown


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_gets_whole_words_below_their_text_and_whole_commands(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    finding = warned("CLOCK", f"{'nothing ' * 9}keeps this clock right", f"chronyd {'-q ' * 30}")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    _Teller(out)(finding)
    *lines, mend = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    assert " ".join(" ".join(lines).split()) == (
        f"warn CLOCK {finding.found} right: {finding.right}"
    )
    assert mend == f"     mend:  {finding.mend}"


def test_every_code_stands_in_the_page() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    assert re.findall(r"^\| `([A-Z_]+)` \| ", page, re.M) == list(RIGHT)
