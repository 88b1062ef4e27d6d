"""Plays scripts into a file's records: one after the other, never back in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ingestor.blocks import Int64s
from ingestor.records import MBP10, Records
from ingestor.sim.hours import Hours, Pace
from ingestor.sim.script import TICK_E9, Script, as_records, moved_by


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """Where and when a script is played.

    ``touch`` is the best bid in ticks that it starts from, ``units`` the activity before it.
    """

    touch: int
    pace: Pace
    units: int = 0


class Player:
    """The state of one file in the making: its last record and times, one reused buffer."""

    def __init__(self, sequence: int, ts_ns: int, max_rows: int) -> None:
        self.sequence = sequence
        self.last: Any = None
        self._ts_event_ns = self._ts_recv_ns = ts_ns
        self._buffer: Int64s = np.empty((max_rows, MBP10.itemsize // 8), np.int64)

    def play(self, script: Script, rows: int, setting: Setting) -> Records:
        """Return the first `rows` rows of a script as records; valid until the next call."""
        words = self._buffer[:rows]
        np.add(script.words[:rows], moved_by(setting.touch * TICK_E9, self.sequence), out=words)
        records = as_records(words)
        moments = setting.pace.place(script.units[:rows] + setting.units, script.after_ns[:rows])
        event_ns = _never_back(moments, self._ts_event_ns)
        recv_ns = _never_back(event_ns + script.latency_ns[:rows], self._ts_recv_ns)
        records["ts_event_ns"], records["ts_recv_ns"] = event_ns, recv_ns
        self.sequence = int(records["sequence"][-1])
        self._ts_event_ns, self._ts_recv_ns = int(event_ns[-1]), int(recv_ns[-1])
        self.last = records[-1].copy()
        return records

    def play_all(self, script: Script, hours: Hours) -> Records:
        """Return a whole script whose prices stand as they are, spread over some hours."""
        pace = hours.pace(script.units_of(len(script)))
        return self.play(script, len(script), Setting(0, pace))


def _never_back(times_ns: Int64s, last_ns: int) -> Int64s:
    return np.maximum.accumulate(np.maximum(times_ns, last_ns, out=times_ns), out=times_ns)
