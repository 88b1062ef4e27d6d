"""The machine: CPUs, memory, limits, clock, and the folders that a run writes to.

What the kernel tells is read below a root that may be another, so that every judgement has a test.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingestor.config.schema import Config
from ingestor.doctor import CheckResult, failed, passed, unknown, warned
from ingestor.model.errors import ConfigurationError, ExitCode
from ingestor.runtime.machine import MIN_OPEN_FILES, check_machine

MIN_CPUS: Final = 2
WANTED_OPEN_FILES: Final = 1_024
PROCESS_BYTES: Final = 256 * 1024 * 1024
"""A feed or publisher takes 60 to 120 MB; the rest is for the server's buffers beside them."""
RECEIVE_BYTES: Final = 4 * 1024 * 1024
MAX_SWAPPINESS: Final = 10
MAX_STEAL: Final = 0.01
STEAL_WINDOW_S: Final = 1.0
MAX_OFFSET_US: Final = 1_000
MAX_ERROR_US: Final = 500_000
"""Of the kernel's own estimate, which grows by 500 us a second from the last correction on."""
FAST_SOURCES: Final = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")

_MIB: Final = 1024 * 1024
_UNSYNCHRONISED: Final = 0x40  # STA_UNSYNC of linux/timex.h
_NANO: Final = 0x2000  # STA_NANO
_STEAL_FIELD: Final = 7  # man 5 proc, /proc/stat
_THP: Final = "sys/kernel/mm/transparent_hugepage/enabled"
_SOURCES: Final = "sys/devices/system/clocksource/clocksource0"
_NTP: Final = "apt-get install -y chrony && service chrony start"

SYNCS: Final = 100
SYNC_BYTES: Final = 4_096
SYNC_WINDOW_S: Final = 3.0
"""A disk that is so slow that `SYNCS` take longer is judged by those that were made."""
SLOW_SYNC_S: Final = 0.02
LEAST_FREE_BYTES: Final = 1_000_000_000
WANTED_FREE_BYTES: Final = 10_000_000_000
MAX_FILES: Final = 100_000
"""Files of a folder that are counted up to learn what a day takes."""

_DAY_S: Final = 86_400.0
_YOUNGEST_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Host:
    """A machine whose kernel's files lie below `root`."""

    root: Path = Path("/")

    def read(self, name: str) -> str | None:
        """Return a file of the kernel, such as ``proc/stat``; None where it does not tell."""
        try:
            return (self.root / name).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None

    def setting(self, name: str, value: str) -> str:
        """Return the command that writes a value into such a file."""
        return f"echo {shlex.quote(value)} > {shlex.quote(str(self.root / name))}"

    def kib(self, name: str) -> int | None:
        """Return a line of /proc/meminfo in KiB."""
        for line in (self.read("proc/meminfo") or "").splitlines():
            key, _, rest = line.partition(":")
            if key == name and rest.split():
                return int(rest.split()[0])
        return None


def host_checks(host: Host, config: Config, feeds: int) -> Iterator[CheckResult]:
    """Yield what is found; takes `STEAL_WINDOW_S`. `feeds` run at the same time."""
    before = host.read("proc/stat")
    yield cpus_check(host, len(os.sched_getaffinity(0)))
    yield pinning_check(host, config)
    yield governor_check(host)
    time.sleep(STEAL_WINDOW_S)
    yield steal_check(before, host.read("proc/stat"))
    yield memory_check(host, feeds, config.process.ring_bytes)
    yield shared_memory_check(host, feeds * config.process.ring_bytes)
    yield huge_pages_check(host)
    yield swap_check(host)
    yield open_files_check(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield receive_buffers_check(host)
    yield clock_check(kernel_clock())
    yield clock_source_check(host)


def cpus_check(host: Host, allowed: int) -> CheckResult:
    """Judge how many CPUs a run may use, by affinity and by the control group's quota."""
    cpus = float(allowed)
    # A container may see all CPUs of its host and have half of one: the quota says so.
    quota, _, period = (host.read("sys/fs/cgroup/cpu.max") or "max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        cpus = min(cpus, int(quota) / int(period))
    text = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    if cpus >= MIN_CPUS:
        return passed("CPUS", text)
    there = host.read("sys/fs/cgroup/cpuset.cpus.effective") or host.read(
        "sys/devices/system/cpu/online"
    )
    # Whoever started the shell has bound it to fewer CPUs than there are.
    bound = cpus == allowed and there and len(_cpu_list(there)) >= MIN_CPUS
    return warned("CPUS", text, f"taskset -cp {there} $$" if bound else "")


def pinning_check(host: Host, config: Config) -> CheckResult:
    """Judge the CPUs that the configuration names."""
    try:
        check_machine(config.process)
    except ConfigurationError as error:
        return failed("PINNING", str(error), ExitCode.CONFIGURATION)
    process = config.process
    named = {
        *process.publisher_cpus,
        *process.stocks_cpus,
        *process.options_cpus,
        *process.trades_cpus,
        *process.mbp10_cpus,
    }
    if not named:
        return passed("PINNING", "no process is pinned: the kernel chooses")
    isolated = _cpu_list(host.read("sys/devices/system/cpu/isolated") or "")
    shared = sorted(named - isolated)
    if shared:
        text = f"CPUs {', '.join(map(str, shared))} are pinned to, and not isolated"
        return warned("PINNING", text)
    return passed("PINNING", f"pinned to isolated CPUs {', '.join(map(str, sorted(named)))}")


def governor_check(host: Host) -> CheckResult:
    """Judge the CPUs' frequency governors."""
    folders = sorted((host.root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    names = {(folder / "scaling_governor").read_text().strip() for folder in folders}
    # Guests have no governors, nor do machines whose firmware decides.
    if not names:
        return unknown("GOVERNOR", "the host decides how fast these CPUs run")
    text = f"the CPUs' governor is {', '.join(sorted(names))}"
    if names == {"performance"}:
        return passed("GOVERNOR", text)
    files = shlex.quote(str(host.root / "sys/devices/system/cpu"))
    each = f"{files}/cpu[0-9]*/cpufreq/scaling_governor"
    mend = f'for cpu in {each}; do echo performance > "$cpu"; done'
    return warned("GOVERNOR", text, mend, as_root=True)


def steal_check(before: str | None, after: str | None) -> CheckResult:
    """Judge how much of the CPUs' time the host gave to others between two looks."""
    then, now = _ticks(before), _ticks(after)
    passed_ticks = sum(now) - sum(then)
    # A container may be shown no such file, or a shorter line.
    if passed_ticks <= 0 or len(now) <= _STEAL_FIELD:
        return unknown("STEAL", "/proc/stat does not tell")
    share = (now[_STEAL_FIELD] - then[_STEAL_FIELD]) / passed_ticks
    text = f"{share:.1%} of the CPUs' time went to other guests of the host"
    return warned("STEAL", text) if share > MAX_STEAL else passed("STEAL", text)


def memory_check(host: Host, feeds: int, ring_bytes: int) -> CheckResult:
    """Judge the memory that is free, by the machine and by the control group."""
    available = host.kib("MemAvailable")
    if available is None:
        return unknown("MEMORY", "/proc/meminfo does not tell")
    free = available * 1024
    most, used = (host.read(f"sys/fs/cgroup/memory.{name}") or "" for name in ("max", "current"))
    if most.isdigit() and used.isdigit():
        # The group kills at its own limit, however much the machine has left.
        free = min(free, int(most) - int(used))
    wanted = feeds * ring_bytes + (feeds + 2) * PROCESS_BYTES
    text = f"{free // _MIB:,} MiB are free, {wanted // _MIB:,} MiB may be used"
    return warned("MEMORY", text) if free < wanted else passed("MEMORY", text)


def shared_memory_check(host: Host, wanted_bytes: int) -> CheckResult:
    """Judge the room in /dev/shm: containers have 64 MB unless told otherwise."""
    folder = host.root / "dev/shm"
    try:
        # What is mapped is taken from here only when it is touched: a ring that is too large would
        # be a SIGBUS in the middle of a run.
        status = os.statvfs(folder)
    except OSError as error:
        text = f"{folder} cannot be looked at: {error.strerror}"
        return failed("SHARED_MEMORY", text, ExitCode.INTERNAL)
    return shared_memory_finding(status.f_bavail * status.f_frsize, wanted_bytes)


def shared_memory_finding(free_bytes: int, wanted_bytes: int) -> CheckResult:
    """Judge how much is free in /dev/shm against what the rings take."""
    text = f"{free_bytes // _MIB:,} MiB are free, the rings take {wanted_bytes // _MIB:,} MiB"
    if free_bytes >= wanted_bytes:
        return passed("SHARED_MEMORY", text)
    size = f"{2 * wanted_bytes // _MIB + 64}M"
    mend = f"mount -o remount,size={size} /dev/shm"
    return failed("SHARED_MEMORY", text, ExitCode.INTERNAL, mend, as_root=True)


def huge_pages_check(host: Host) -> CheckResult:
    """Judge whether the kernel makes huge pages of memory that did not ask for them."""
    words = host.read(_THP)
    if words is None:
        return unknown("HUGE_PAGES", "this kernel has no transparent huge pages")
    chosen = words.partition("[")[2].partition("]")[0]
    text = f"transparent huge pages: {chosen or words}"
    if "[" in words and chosen != "always":
        return passed("HUGE_PAGES", text)
    # What is written to it reads back in brackets; a plain word is the kernel's file in a test.
    if "[" not in words and words in ("madvise", "never"):
        return passed("HUGE_PAGES", text)
    return warned("HUGE_PAGES", text, host.setting(_THP, "madvise"), as_root=True)


def swap_check(host: Host) -> CheckResult:
    """Judge whether memory of a run may be written to a disk and read back when it is needed."""
    total = host.kib("SwapTotal")
    if not total:
        return passed("SWAP", "there is no swap")
    # 60 is the kernel's default, where a container hides the file.
    swappiness = int(host.read("proc/sys/vm/swappiness") or 60)
    text = f"{total // 1024:,} MiB of swap, vm.swappiness {swappiness}"
    if swappiness <= MAX_SWAPPINESS:
        return passed("SWAP", text)
    return warned("SWAP", text, host.setting("proc/sys/vm/swappiness", "1"), as_root=True)


def open_files_check(soft: int, hard: int) -> CheckResult:
    """Judge how many files a process may open."""
    # RLIM_INFINITY is -1 in Python, so that it cannot be compared by size.
    if soft == resource.RLIM_INFINITY or soft >= WANTED_OPEN_FILES:
        return passed("OPEN_FILES", f"{'any number of' if soft < 0 else f'{soft:,}'} files")
    mend = f"ulimit -n {WANTED_OPEN_FILES}"
    if hard != resource.RLIM_INFINITY and hard < WANTED_OPEN_FILES:
        # Only root raises a hard limit; prlimit does it for the shell that is typed in.
        mend = f"prlimit --pid $$ --nofile={WANTED_OPEN_FILES}:{WANTED_OPEN_FILES}"
        if hard < MIN_OPEN_FILES:
            text = f"at most {hard} files"
            return failed("OPEN_FILES", text, ExitCode.CONFIGURATION, mend, as_root=True)
        return warned("OPEN_FILES", f"{soft} files, {hard} at most", mend, as_root=True)
    return warned("OPEN_FILES", f"{soft} files", mend)


def receive_buffers_check(host: Host) -> CheckResult:
    """Judge how much the kernel keeps of a connection that is not read for a moment."""
    name = "proc/sys/net/ipv4/tcp_rmem"
    words = (host.read(name) or "").split()
    if len(words) != 3:
        return unknown("RECEIVE_BUFFERS", f"/{name} is not there to be read")
    most = int(words[2])
    text = f"up to {most / _MIB:.1f} MiB a connection"
    if most >= RECEIVE_BYTES:
        return passed("RECEIVE_BUFFERS", text)
    wanted = f"{words[0]} {words[1]} {2 * RECEIVE_BYTES}"
    return warned("RECEIVE_BUFFERS", text, host.setting(name, wanted), as_root=True)


@dataclass(frozen=True, slots=True)
class KernelClock:
    """What the kernel says of its clock (``adjtimex``): us off, us of error at most."""

    synchronised: bool
    offset_us: float
    error_us: int


def clock_check(clock: KernelClock | None) -> CheckResult:
    """Judge the clock: every latency that is told has its error."""
    if clock is None:
        return unknown("CLOCK", "this system does not let us ask its clock")
    # The error that the kernel estimates grows while nobody corrects it, and says so hours before
    # the flag does.
    if not clock.synchronised or clock.error_us > MAX_ERROR_US:
        return warned("CLOCK", "nothing keeps this machine's clock right", _NTP, as_root=True)
    text = f"off by {abs(clock.offset_us):,.0f} us, at most {clock.error_us:,} us"
    if abs(clock.offset_us) > MAX_OFFSET_US:
        return warned("CLOCK", text, "chronyc makestep", as_root=True)
    return passed("CLOCK", text)


def clock_source_check(host: Host) -> CheckResult:
    """Judge how long it takes to read the clock: every frame and block is stamped."""
    source = host.read(f"{_SOURCES}/current_clocksource")
    if source is None:
        return unknown("CLOCK_SOURCE", "the kernel does not tell")
    if source in FAST_SOURCES:
        return passed("CLOCK_SOURCE", source)
    there = (host.read(f"{_SOURCES}/available_clocksource") or "").split()
    better = next((one for one in FAST_SOURCES if one in there), None)
    mend = host.setting(f"{_SOURCES}/current_clocksource", better) if better else ""
    return warned("CLOCK_SOURCE", f"{source}: some 1 us a reading", mend, as_root=bool(mend))


class _Timex(ctypes.Structure):
    """``struct timex`` of linux/timex.h, as far as it is read; the kernel writes 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def kernel_clock() -> KernelClock | None:
    """Ask the kernel about its clock; None where that is forbidden."""
    values = _Timex()
    # modes = 0 asks only; containers may forbid even that.
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(values)) < 0:
        return None
    # The unit depends on a flag that whoever sets the clock chooses.
    offset = values.offset / 1_000 if values.status & _NANO else values.offset
    return KernelClock(not values.status & _UNSYNCHRONISED, offset, values.maxerror)


def _ticks(text: str | None) -> list[int]:
    """Return the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.

    What a guest of ours took stands behind these, and is part of user already.
    """
    words = (text or "").partition("\n")[0].split()
    return [int(word) for word in words[1 : _STEAL_FIELD + 2] if word.isdigit()]


def _cpu_list(text: str) -> set[int]:
    """Return ``2-4,7`` as numbers."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def folder_checks(folders: Sequence[Path]) -> Iterator[CheckResult]:
    """Yield what is found of folders that a run writes to; takes up to `SYNC_WINDOW_S` each."""
    for folder in folders:
        finding = writable_check(folder)
        yield finding
        if finding.exit_code:
            continue
        there = _existing(folder)
        yield sync_finding(folder, sync_times_s(there))
        status = os.statvfs(there)
        yield space_finding(folder, status.f_bavail * status.f_frsize, bytes_a_day(folder))


def writable_check(folder: Path) -> CheckResult:
    """Judge whether a run may make files there, making the folder first if need be."""
    there = _existing(folder)
    if not there.is_dir():
        text = f"{there} is no folder"
        mend = f"mv -n {shlex.quote(str(there))} {shlex.quote(f'{there}.aside')}"
        return failed("FOLDERS", text, ExitCode.CONFIGURATION, mend)
    if os.access(there, os.W_OK | os.X_OK):
        return passed("FOLDERS", f"{folder} can be written")
    text = f"{there} cannot be written by this user"
    mine = there.stat().st_uid == os.getuid()
    owner = "" if mine else f"chown {os.getuid()} {shlex.quote(str(there))} && "
    mend = f"{owner}chmod u+rwx {shlex.quote(str(there))}"
    return failed("FOLDERS", text, ExitCode.CONFIGURATION, mend, as_root=not mine)


def sync_times_s(folder: Path) -> list[float]:
    """Write and sync a file that is removed again; return how long each sync took."""
    took: list[float] = []
    begun = time.monotonic()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        while len(took) < SYNCS and time.monotonic() - begun < SYNC_WINDOW_S:
            file.write(bytes(SYNC_BYTES))
            before = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - before)
    return took


def sync_finding(folder: Path, took_s: Sequence[float]) -> CheckResult:
    """Judge how long syncs took: the journal syncs every 100 ms, the server's store by setting."""
    slowest = sorted(took_s)[max(len(took_s) * 99 // 100 - 1, 0)]
    text = f"{folder}: 99 of 100 syncs within {slowest * 1000:.1f} ms"
    return warned("DISK_SYNC", text) if slowest > SLOW_SYNC_S else passed("DISK_SYNC", text)


def bytes_a_day(folder: Path) -> float | None:
    """Return what was written there in a day, by sizes and times; None where that is not known."""
    size, first_s, last_s = 0, float("inf"), 0.0
    for number, path in enumerate(folder.rglob("*") if folder.is_dir() else ()):
        if number >= MAX_FILES:
            break
        try:
            status = path.stat()
        except OSError:  # gone since, as files of a store that runs are
            continue
        if path.is_file():
            size += status.st_size
            first_s, last_s = min(first_s, status.st_mtime), max(last_s, status.st_mtime)
    # What was written within minutes says nothing about a day.
    if last_s - first_s < _YOUNGEST_S:
        return None
    return size / max((last_s - first_s) / _DAY_S, 1.0)


def space_finding(folder: Path, free_bytes: int, day_bytes: float | None) -> CheckResult:
    """Judge the room that is left against what a day takes."""
    text = f"{folder}: {free_bytes / 1e9:,.1f} GB are free"
    if day_bytes is not None:
        text += f", a day takes {day_bytes / 1e9:,.2f} GB"
    if free_bytes < LEAST_FREE_BYTES:
        return failed("DISK_SPACE", text, ExitCode.EMBEDDED_SERVER)
    if free_bytes < max(WANTED_FREE_BYTES, 2 * (day_bytes or 0)):
        return warned("DISK_SPACE", text)
    return passed("DISK_SPACE", text)


def _existing(folder: Path) -> Path:
    """Return the folder, or the one above it that is there: a run makes what is missing."""
    return next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
