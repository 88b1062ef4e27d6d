"""Freed memory is kept: a buffer that comes again costs no page faults."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys

import msgspec
import pytest

from ingestor.config.schema import Process
from ingestor.model.errors import ConfigurationError, ExitCode
from ingestor.runtime.machine import MIN_OPEN_FILES, check_machine, usage_of

BUFFER_BYTES = 262_144
TIMES = 200
PROGRAM = f"""
import resource, sys
from ingestor.runtime.machine import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TIMES}):
    buffers = [letter * {BUFFER_BYTES} for letter in (b"a", b"b", b"c")]
    del buffers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_buffers_that_come_and_go_are_not_faulted_in_each_time() -> None:
    pages = 3 * BUFFER_BYTES // resource.getpagesize()
    assert faults("kept") < 3 * pages
    assert faults("as it is") > TIMES * pages / 4


@pytest.fixture
def cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with CPUs 0 to 3."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def test_cpus_that_are_there_may_be_named() -> None:
    check_machine(Process())
    check_machine(Process(stocks_cpus=tuple(os.sched_getaffinity(0))))


@pytest.mark.parametrize("name", ["stocks_cpus", "supervisor_cpus", "trades_cpus"])
def test_a_cpu_that_is_not_there_is_refused_by_the_name_of_its_setting(name: str) -> None:
    here = min(os.sched_getaffinity(0))
    process = msgspec.convert({name: [here, 4095]}, Process)
    with pytest.raises(
        ConfigurationError, match=rf"process\.{name} = \[{here}, 4095\] .*; allowed: {here}"
    ):
        check_machine(process)


@pytest.mark.usefixtures("cpus")
def test_a_publisher_may_spin_on_a_cpu_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    check_machine(Process(publisher_spins=True, publisher_cpus=(2,), stocks_cpus=(1,)))
    check_machine(Process(publisher_spins=True))
    assert not caplog.records


@pytest.mark.usefixtures("cpus")
@pytest.mark.parametrize(
    "process",
    [
        Process(publisher_spins=True, publisher_cpus=(1,), stocks_cpus=(1, 2)),
        Process(publisher_spins=True, stocks_cpus=(0, 1), options_cpus=(2, 3)),
    ],
)
def test_a_publisher_may_not_spin_on_the_cpu_of_another_process(process: Process) -> None:
    with pytest.raises(ConfigurationError, match=r"publisher_spins = true is not allowed"):
        check_machine(process)


def test_a_publisher_may_not_spin_on_the_only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(ConfigurationError, match="of 0 there is none"):
        check_machine(Process(publisher_spins=True))


def test_spinning_without_a_cpu_to_spare_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with caplog.at_level(logging.WARNING):
        check_machine(Process(publisher_spins=True))
    assert "publisher_spins = true with 2 CPUs" in caplog.text


def test_few_open_files_are_made_enough_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (32, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    check_machine(Process())
    assert asked == [(MIN_OPEN_FILES, 4096)]


@pytest.mark.parametrize("module", ["ingestor.main", "ingestor.replay_publisher"])
def test_a_run_that_may_open_too_few_files_ends_with_a_sentence(module: str) -> None:
    command = [sys.executable, "-m", module, "--demo"]
    ended = subprocess.run(
        ["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == ExitCode.CONFIGURATION
    assert "only 64 files here (ulimit -n)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_a_process_has_used_is_its_time_in_user_and_system_and_its_memory() -> None:
    while os.times().system < 0.1:
        os.sched_yield()
    before = sum(os.times()[:2])
    used = usage_of(os.getpid())
    assert used is not None
    assert used[0] == pytest.approx(before, abs=0.05)
    assert used[1] > 10 * 1024 * 1024
    process = subprocess.Popen(["true"])
    process.wait()
    assert usage_of(process.pid) is None
