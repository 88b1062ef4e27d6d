"""Where in a file a time is: by bisection, since the vendor writes a file in the order of receipt.

Event times may step back, by hours in the snapshot at the front of a depth file; times of receipt
do not. No record is received before it was made, but for clocks that disagree: `SLACK_NS` is left
for that. So every event at or after a time stands behind the last record that was received
`SLACK_NS` earlier; what is between is read and filtered. A file that is not in order is read whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from ingestor.model.units import NS_PER_S

SLACK_NS: Final = 60 * NS_PER_S
PROBES: Final = 64
"""Looks at a file, evenly spaced, that tell whether it is in order; bisecting takes 30 more."""


def place_before(recv_ns: Callable[[int], int | None], records: int, at_ns: int) -> int:
    """Return a place before which no event is at or after `at_ns`; 0 where that cannot be known.

    `recv_ns` returns when the record at a place was received, None where there is no such record.
    """
    probes = sorted({records * number // PROBES for number in range(PROBES)}) if records else []
    times = [recv_ns(place) for place in probes]
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(after < before for before, after in pairwise(known)):
        return 0
    wanted_ns = at_ns - SLACK_NS
    # Between two of the probes, or behind the last.
    number = bisect_left(known, wanted_ns)
    low = probes[number - 1] if number else 0
    high = probes[number] if number < len(probes) else records
    while low < high:
        middle = (low + high) // 2
        if (time := recv_ns(middle)) is None:
            return 0
        low, high = (middle + 1, high) if time < wanted_ns else (low, middle)
    return low
