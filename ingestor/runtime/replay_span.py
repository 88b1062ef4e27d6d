"""Where a whole replay begins and ends, by what its feeds have found so far.

Each feed of files notes when its first event is, and when its last: by the headers of its files at
first, exactly once it has read them. A seek changes neither. Where nothing says when a feed ends,
as of a journal, the share of its bytes that is read has to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from ingestor.model.replay_control import ReplaySpan
from ingestor.runtime.counters import Counter, CounterRow


def span_of(feeds: Sequence[CounterRow], first_event_ns: int) -> ReplaySpan | None:
    """Return the span of a replay by its feeds' counters; None before anything is known.

    `first_event_ns` is the first event that was published, 0 before it.
    """
    begins_ns = [row[Counter.BEGINS_NS] for row in feeds if row[Counter.BEGINS_NS]]
    first_ns = min(begins_ns, default=first_event_ns)
    ends_ns = max((_ends_ns(row, first_ns) for row in feeds), default=0)
    if not first_ns or ends_ns <= first_ns:
        return None
    return ReplaySpan(first_ns, ends_ns, all(row[Counter.END_READ] for row in feeds))


def _ends_ns(row: CounterRow, first_ns: int) -> int:
    """Event time at which a feed ends, as far as can be told."""
    if row[Counter.ENDS_NS] or row[Counter.END_READ]:
        return row[Counter.ENDS_NS]
    event_ns, total, read = (
        row[counter] for counter in (Counter.EVENT_TIME_NS, Counter.BYTES_TOTAL, Counter.BYTES_READ)
    )
    if row[Counter.ENDED] or not read or read >= total or event_ns <= first_ns:
        return event_ns
    # Bytes are no time, but all there is to go by before the end of the file is read.
    return first_ns + (event_ns - first_ns) * total // read
