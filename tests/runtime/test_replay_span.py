"""Where a whole replay begins and ends, by the counters of its feeds."""

from __future__ import annotations

import pytest

from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.replay_span import span_of


@pytest.mark.parametrize(
    ("feeds", "first_event_ns", "span"),
    [
        ([{}], 0, None),
        ([{}], 100, None),
        # Headers, then what was read; the estimate is one as long as one feed is not read.
        ([{"BEGINS_NS": 100, "ENDS_NS": 900}], 0, (100, 900, False)),
        ([{"BEGINS_NS": 100, "ENDS_NS": 900}], 500, (100, 900, False)),
        ([{"BEGINS_NS": 120, "ENDS_NS": 800, "END_READ": 1}], 0, (120, 800, True)),
        (
            [
                {"BEGINS_NS": 120, "ENDS_NS": 800, "END_READ": 1},
                {"BEGINS_NS": 110, "ENDS_NS": 900},
            ],
            500,
            (110, 900, False),
        ),
        # One that has no events at all.
        (
            [{"BEGINS_NS": 120, "ENDS_NS": 800, "END_READ": 1}, {"END_READ": 1}],
            0,
            (120, 800, True),
        ),
        # Nothing but bytes says where it ends.
        (
            [{"BEGINS_NS": 100, "EVENT_TIME_NS": 200, "BYTES_READ": 10, "BYTES_TOTAL": 40}],
            0,
            (100, 500, False),
        ),
        ([{"EVENT_TIME_NS": 200, "BYTES_READ": 10, "BYTES_TOTAL": 40}], 0, None),
        ([{"EVENT_TIME_NS": 200, "BYTES_READ": 40, "BYTES_TOTAL": 40}], 150, (150, 200, False)),
        ([{"BEGINS_NS": 100, "ENDS_NS": 100, "END_READ": 1}], 0, None),
    ],
)
def test_the_span_is_from_the_first_event_to_the_last_as_far_as_is_known(
    feeds: list[dict[str, int]], first_event_ns: int, span: tuple[int, int, bool] | None
) -> None:
    table = CounterTable(len(feeds))
    for number, counts in enumerate(feeds):
        for name, value in counts.items():
            table.row(number)[Counter[name]] = value
    rows = [table.row(number) for number in range(len(feeds))]
    assert span_of(rows, first_event_ns) == span
