"""Machines that are set up wrong: each is told, and what is typed mends it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestor.config.schema import Config, Process
from ingestor.doctor import CheckResult, Mark
from ingestor.doctor.host import (
    Host,
    KernelClock,
    clock_check,
    clock_source_check,
    cpus_check,
    governor_check,
    host_checks,
    huge_pages_check,
    kernel_clock,
    memory_check,
    open_files_check,
    pinning_check,
    receive_buffers_check,
    shared_memory_check,
    shared_memory_finding,
    steal_check,
    swap_check,
)
from ingestor.model.errors import ExitCode
from tests.doctor.typing_shell import assert_right, assert_wrong, typed

MIB = 1024 * 1024
SOUND = {
    "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\nSwapTotal: 0 kB\n",
    "proc/stat": "cpu 100 0 100 1000 0 0 0 10 0 0\ncpu0 1 2\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/isolated": "\n",
}

Check = Callable[[Host], CheckResult]


def machine(root: Path, **broken: str) -> Host:
    """A machine that is right but for the files that are named by their last word."""
    for name, text in SOUND.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(broken.get(path.name, text))
    return Host(root)


@pytest.mark.parametrize(
    ("code", "check", "file", "text"),
    [
        ("HUGE_PAGES", huge_pages_check, "enabled", "[always] madvise never\n"),
        (
            "SWAP",
            swap_check,
            "meminfo",
            "MemAvailable: 8000000 kB\nSwapTotal: 2097148 kB\n",
        ),
        ("GOVERNOR", governor_check, "scaling_governor", "powersave\n"),
        ("CLOCK_SOURCE", clock_source_check, "current_clocksource", "hpet\n"),
        ("RECEIVE_BUFFERS", receive_buffers_check, "tcp_rmem", "4096\t131072\t212992\n"),
    ],
)
def test_a_setting_of_the_kernel_that_is_wrong_is_right_once_its_mend_is_typed(
    tmp_path: Path, code: str, check: Check, file: str, text: str
) -> None:
    assert_right(check(machine(tmp_path)), code)
    broken = machine(tmp_path, **{file: text})
    finding = check(broken)
    assert_wrong(finding, code)
    assert finding.as_root
    typed(finding)
    assert_right(check(broken), code)


def test_a_clock_source_without_a_better_one_has_no_mend(tmp_path: Path) -> None:
    broken = machine(tmp_path, current_clocksource="hpet", available_clocksource="hpet acpi_pm")
    finding = clock_source_check(broken)
    assert_wrong(finding, "CLOCK_SOURCE")
    assert (finding.mend, finding.as_root) == ("", False)


@pytest.mark.parametrize(
    ("quota", "allowed", "told"), [("150000 100000", 8, "1.5 CPUs"), ("max 100000", 1, "1 CPU")]
)
def test_fewer_than_two_cpus_are_told(tmp_path: Path, quota: str, allowed: int, told: str) -> None:
    host = machine(tmp_path)
    assert_right(cpus_check(host, 2), "CPUS")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(quota)
    finding = cpus_check(host, allowed)
    assert_wrong(finding, "CPUS")
    assert finding.found == told


def test_a_pinned_cpu_is_to_be_there_and_isolated(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    pinned = Config(process=Process(publisher_cpus=(cpu,)))
    assert_right(pinning_check(machine(tmp_path), Config()), "PINNING")
    assert_wrong(pinning_check(machine(tmp_path), pinned), "PINNING")
    assert_right(
        pinning_check(machine(tmp_path, isolated=f"{cpu}-{cpu + 2},99"), pinned), "PINNING"
    )
    absent = Config(process=Process(stocks_cpus=(60_000,)))
    assert_wrong(pinning_check(machine(tmp_path), absent), "PINNING", ExitCode.CONFIGURATION)


@pytest.mark.parametrize(("stolen", "is_right"), [(0, True), (1, True), (2, False)])
def test_time_that_the_host_gives_to_others_is_told(stolen: int, is_right: bool) -> None:
    before = "cpu 100 0 100 1000 0 0 0 10 50 0\n"
    after = f"cpu 150 0 140 {1_010 - stolen} 0 0 0 {10 + stolen} 99 0\n"
    finding = steal_check(before, after)
    (assert_right if is_right else assert_wrong)(finding, "STEAL")
    assert finding.found.startswith(f"{stolen / 100:.1%} ")


def test_where_the_kernel_does_not_tell_nobody_is_blamed(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for finding in (
        steal_check(None, None),
        memory_check(host, 2, MIB),
        huge_pages_check(host),
        governor_check(host),
        receive_buffers_check(host),
        clock_source_check(host),
        clock_check(None),
    ):
        assert (finding.mark, finding.exit_code) == (Mark.UNKNOWN, 0), finding


def test_memory_is_what_machine_and_control_group_leave(tmp_path: Path) -> None:
    host = machine(tmp_path)
    assert_right(memory_check(host, 2, 64 * MIB), "MEMORY")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(str(1024 * MIB))
    (group / "memory.current").write_text(str(100 * MIB))
    finding = memory_check(host, 2, 64 * MIB)
    assert_wrong(finding, "MEMORY")
    assert finding.found == "924 MiB are free, 1,152 MiB may be used"


def test_shared_memory_of_a_container_is_too_small_for_the_rings(tmp_path: Path) -> None:
    assert_right(shared_memory_finding(128 * MIB, 128 * MIB), "SHARED_MEMORY")
    finding = shared_memory_finding(64 * MIB, 128 * MIB)
    assert_wrong(finding, "SHARED_MEMORY", ExitCode.INTERNAL)
    assert (finding.mend, finding.as_root) == ("mount -o remount,size=320M /dev/shm", True)
    missing = shared_memory_check(Host(tmp_path), MIB)
    assert_wrong(missing, "SHARED_MEMORY", ExitCode.INTERNAL)


def test_a_limit_of_open_files_is_raised_by_what_is_typed() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finding = open_files_check(256, hard)
    assert_wrong(finding, "OPEN_FILES")
    assert not finding.as_root
    lowered = "ulimit -S -n 256; "
    told = typed(
        CheckResult(code="", mark=finding.mark, found="", right="", mend=lowered + finding.mend),
        then="ulimit -n",
    )
    assert_right(open_files_check(int(told), hard), "OPEN_FILES")
    assert_right(open_files_check(max(soft, 1024), hard), "OPEN_FILES")
    assert_right(open_files_check(resource.RLIM_INFINITY, resource.RLIM_INFINITY), "OPEN_FILES")
    assert_wrong(open_files_check(100, 100), "OPEN_FILES", ExitCode.CONFIGURATION)
    assert open_files_check(200, 200).as_root


@pytest.mark.parametrize(
    ("clock", "mend"),
    [
        (KernelClock(synchronised=False, offset_us=0, error_us=16_000_000), "apt-get install"),
        (KernelClock(synchronised=True, offset_us=0, error_us=900_000), "apt-get install"),
        (KernelClock(synchronised=True, offset_us=-2_500, error_us=3_000), "chronyc makestep"),
    ],
)
def test_a_clock_that_nobody_keeps_right_is_told(clock: KernelClock, mend: str) -> None:
    finding = clock_check(clock)
    assert_wrong(finding, "CLOCK")
    assert finding.mend.startswith(mend)
    assert_right(clock_check(KernelClock(True, 120.5, 900)), "CLOCK")


def test_this_machine_is_looked_at_in_every_respect() -> None:
    clock = kernel_clock()
    assert clock is None or clock.error_us >= 0
    codes = [finding.code for finding in host_checks(Host(), Config(), 2)]
    assert codes == [
        *("CPUS", "PINNING", "GOVERNOR", "STEAL", "MEMORY", "SHARED_MEMORY", "HUGE_PAGES"),
        *("SWAP", "OPEN_FILES", "RECEIVE_BUFFERS", "CLOCK", "CLOCK_SOURCE"),
    ]
