"""What was missed: from the last record before a socket was lost to the first one after."""

from __future__ import annotations

from dataclasses import dataclass

from ingestor.model.records import Records


@dataclass(frozen=True, slots=True)
class Gap:
    """The vendor replays nothing of what lies between; all times int nanoseconds UTC."""

    from_event_ns: int
    from_recv_ns: int
    to_event_ns: int
    to_recv_ns: int


class GapTracker:
    """Turns disconnections into gaps, however many attempts a reconnection takes."""

    def __init__(self, since: tuple[int, int] | None = None) -> None:
        """`since` are the times of a record before which nothing is missing: its event, receipt."""
        self._last = self._open_from = since

    def on_disconnect(self) -> None:
        """The socket is gone; without a record before it there is no gap."""
        self._open_from = self._last

    def on_records(self, records: Records) -> Gap | None:
        """Note a frame's records; returns the gap that the first of them ends."""
        if not len(records):
            return None
        self._last, begun = _times(records[-1]), self._open_from
        if begun is None:
            return None
        self._open_from = None
        return Gap(*begun, *_times(records[0]))


def _times(record: Records) -> tuple[int, int]:
    return int(record["ts_event_ns"]), int(record["ts_recv_ns"])
