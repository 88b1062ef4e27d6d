from __future__ import annotations

import os
import subprocess
import sys

from ingestor.model.errors import ExitCode

SECRET = "s3cret-of-a-vendor"

LIVE = """
import logging
from ingestor.cli import command_line, live
from ingestor.model.errors import StreamError

def echo(config):
    logging.getLogger("ingestor").warning("the vendor says: no key %s", config.polygon.api_key)
    logging.getLogger("ingestor").warning("lost nats://me:%s@host", "p4ssword")
    raise StreamError("given up")

given = live.live_parser().parse_args([])
raise SystemExit(command_line.run(
    "ingestor-live", given, echo, environment=live.ENVIRONMENT, flags=(), leave_out=()))
"""


def test_no_line_of_a_run_shows_a_key_or_a_password_of_its_configuration() -> None:
    urls = "nats://me:p4ssword@one:4222,nats://two:4222"
    done = subprocess.run(
        [sys.executable, "-c", LIVE],
        env=os.environ | {"POLYGON_API_KEY": SECRET, "NATS_URL": urls},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "the vendor says: no key" in done.stderr, done.stderr
    assert "lost nats://me:" in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert "p4ssword" not in done.stderr + done.stdout
    assert done.returncode == ExitCode.STREAM
