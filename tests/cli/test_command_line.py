from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S
from tests.dbn_files import dbn_path, trades, write_dbn
from tests.live_cli import stored, until
from tests.nats_servers import NatsServer
from tests.processes import named
from tests.replay_cli import replay, start

SECRET = "s3cret-of-a-vendor"
SECOND_KEY = "an0ther-key-of-a-vendor"

LIVE = """
import logging
from ingestor.cli import command_line, live
from ingestor.cli.command_line import LIVE_ENVIRONMENT
from ingestor.model.errors import StreamError

def echo(config):
    logging.getLogger("ingestor").warning("the vendor says: no key %s", config.polygon.api_key)
    logging.getLogger("ingestor").warning("nor %s", config.polygon.standby_api_key)
    logging.getLogger("ingestor").warning("lost nats://me:%s@host", "p4ssword")
    raise StreamError("given up")

given = live.parser().parse_args([])
raise SystemExit(command_line.run(
    "ingestor-live", given, echo, environment=LIVE_ENVIRONMENT, flags=(), leave_out=()))
"""


def test_no_line_of_a_run_shows_a_key_or_a_password_of_its_configuration() -> None:
    urls = "nats://me:p4ssword@one:4222,nats://two:4222"
    done = subprocess.run(
        [sys.executable, "-c", LIVE],
        env=os.environ
        | {"POLYGON_API_KEY": SECRET, "POLYGON_STANDBY_API_KEY": SECOND_KEY, "NATS_URL": urls},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "the vendor says: no key" in done.stderr, done.stderr
    assert "lost nats://me:" in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert SECOND_KEY not in done.stderr + done.stdout
    assert "p4ssword" not in done.stderr + done.stdout
    assert done.returncode == ExitCode.STREAM


def test_the_log_goes_where_and_how_it_is_told(nats_server: NatsServer, tmp_path: Path) -> None:
    write_dbn(dbn_path(tmp_path / "dbn-data", "trades"), trades(5), schema="trades")
    flags = ("--nats", nats_server.url, "--feeds", "trades", "--again")

    def told(*more: str) -> str:
        finished = replay(*flags, *more, cwd=tmp_path)
        assert finished.exit_code == ExitCode.OK, finished.err
        assert finished.out.startswith("published     5 events")
        return finished.err

    (tmp_path / "dbn-data" / "job.zip").write_bytes(b"")
    passed_over = "passed over dbn-data/job.zip: is an archive: unpack it"
    assert f" INFO    ingestor: {passed_over}\n" in told()
    assert told("--quiet") == ""
    assert passed_over in told("--verbose")
    assert told("--log-file", "log/of.log") == ""
    assert passed_over in (tmp_path / "log" / "of.log").read_text()
    (line,) = (json.loads(line) for line in told("--log-format", "json").splitlines())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "INFO", "process": "ingestor", "message": passed_over}


def test_processes_bear_their_names_and_show_no_password(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    day = trades(500, step_ns=NS_PER_S)
    write_dbn(dbn_path(tmp_path / "dbn-data", "trades"), day, schema="trades")
    url = nats_server.url.replace("nats://", "nats://me:pa55word@")
    process = start("--nats", url, "--feeds", "trades", "--speed", "1", cwd=tmp_path)
    try:
        until(lambda: stored(nats_server.url) > 0, "an event is stored")
        run = psutil.Process(process.pid)
        # The feed has read its few events by now, and has ended.
        titles = [" ".join(one.cmdline()) for one in (run, named(run.pid, "publisher"))]
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert titles[0].startswith("ingestor-replay --nats (hidden)@127.0.0.1:")
    assert "pa55word" not in titles[0]
    assert titles[1].strip() == "ingestor: publisher"
