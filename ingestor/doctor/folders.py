"""Where a run writes: whether it may, how fast the disk syncs, how much room there is."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ingestor.doctor.finding import Finding, failed, passed, warned
from ingestor.model.errors import ExitCode

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


def folder_checks(folders: Sequence[Path]) -> Iterator[Finding]:
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


def writable_check(folder: Path) -> Finding:
    """Judge whether a run may make files there, making the folder first if need be."""
    there = _existing(folder)
    if not there.is_dir():
        text = f"{there} is no folder"
        return failed("FOLDERS", text, ExitCode.CONFIGURATION)
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


def sync_finding(folder: Path, took_s: Sequence[float]) -> Finding:
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


def space_finding(folder: Path, free_bytes: int, day_bytes: float | None) -> Finding:
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
