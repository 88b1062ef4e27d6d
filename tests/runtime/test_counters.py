from __future__ import annotations

import os

from ingestor.runtime.counters import Counter, CounterTable


def test_rows_do_not_touch_each_other_or_the_stop_word() -> None:
    table = CounterTable(2)
    for counter in Counter:
        table.row(0)[counter] = 7
    assert [table.row(1)[counter] for counter in Counter] == [0] * len(Counter)
    assert not table.stopping


def test_adding_starts_from_zero() -> None:
    row = CounterTable(1).row(0)
    row.add(Counter.RECORDS)
    row.add(Counter.RECORDS, 4)
    assert row[Counter.RECORDS] == 5


def test_another_process_sees_the_word_to_stop_and_its_counts_are_seen_here() -> None:
    table = CounterTable(1)
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_read, 1)
        table.row(0)[Counter.RECORDS] = 2**62 if table.stopping else 0
        os._exit(0)
    table.stop()
    os.write(go_write, b"x")
    os.waitpid(pid, 0)
    assert table.row(0)[Counter.RECORDS] == 2**62
