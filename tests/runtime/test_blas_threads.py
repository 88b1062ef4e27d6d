from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = "import {}, os; print(len(os.listdir('/proc/self/task')))"


@pytest.mark.parametrize("program", ["replay_publisher", "main", "cli.tail", "test_stream"])
def test_a_program_has_one_thread_before_it_forks(program: str) -> None:
    command = [sys.executable, "-c", COUNT.format(f"ingestor.{program}")]
    environment = {"PATH": ""}
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert told.stdout == "1\n"
