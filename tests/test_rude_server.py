"""The commands against a server that makes no sense: a sentence and an exit code, never more."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from ingestor.model.errors import ExitCode
from tests.dbn_files import dbn_path, trades, write_dbn
from tests.publish.rude_server import RudeServer, info_line

DATA = ("--data-dir", ".", "--feeds", "trades")
TWO_GB = b"MSG a 1 2147483647\r\n" + b"x" * 2**20
GREETINGS = [
    pytest.param(info_line(), True, id="INFO, and then a close"),
    pytest.param(info_line() + TWO_GB, False, id="2 GB announced", marks=pytest.mark.slow),
    pytest.param(
        b"INFO " + b"x" * 3_000_000, False, id="a line without end", marks=pytest.mark.slow
    ),
]


def some_data(data_dir: Path) -> None:
    write_dbn(dbn_path(data_dir, "trades"), trades(10), schema="trades")


async def run(module: str, url: str, *more: str, cwd: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, "--nats", url, *more),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, err.decode()


@pytest.mark.parametrize(("greeting", "hangs_up"), GREETINGS)
def test_publisher_and_tail_end_with_a_sentence_and_exit_code_5(
    tmp_path: Path, greeting: bytes, *, hangs_up: bool
) -> None:
    async def check() -> None:
        async with RudeServer(greeting, hangs_up=hangs_up) as server:
            url = server.url.replace("//", "//jo:s3cret@")
            ended = await asyncio.gather(
                run("ingestor.replay_publisher", url, *DATA, cwd=tmp_path),
                run("ingestor.cli.tail", url, "--no-follow", cwd=tmp_path),
            )
        for code, err in ended:
            assert code == ExitCode.NATS_UNREACHABLE, err
            assert "Traceback" not in err
            assert "s3cret" not in err
            assert "no NATS server answers" in err.splitlines()[-1]

    some_data(tmp_path)
    asyncio.run(check())


@pytest.mark.parametrize("module", ["ingestor.replay_publisher", "ingestor.cli.tail"])
@pytest.mark.parametrize(
    "url", ["nats://jo:s3/cret@h", "nats://jo:s3cret", "nats://jo:s3#cret@h", "nats://jo:s3@cret@h"]
)
def test_a_url_that_cannot_be_read_is_refused_without_its_secret(
    tmp_path: Path, module: str, url: str
) -> None:
    some_data(tmp_path)
    data = DATA if "replay" in module else ()
    code, err = asyncio.run(run(module, url, *data, cwd=tmp_path))
    assert code == ExitCode.CONFIGURATION
    assert len(err.splitlines()) == 1
    assert "cret" not in err
    assert "s3" not in err
