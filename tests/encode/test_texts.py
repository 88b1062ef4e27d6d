from __future__ import annotations

from ingestor.encode.texts import TableTexts


def test_what_was_made_of_a_table_is_found_again() -> None:
    kept, table = TableTexts(), {1: "SPY"}
    kept.of(table)[1] = b"made"

    assert kept.of(table) == {1: b"made"}


def test_an_equal_table_is_another_table() -> None:
    kept, one, other = TableTexts(), {1: "SPY"}, {1: "SPY"}
    kept.of(one)[1] = b"made"

    assert kept.of(other) == {}
    assert kept.of(one) == {1: b"made"}


def test_a_table_that_is_gone_leaves_nothing_to_one_at_its_place() -> None:
    kept = TableTexts()
    for number in range(100):
        texts = kept.of({1: f"{number}"})
        assert texts == {}
        texts[1] = b"made"


def test_texts_and_tables_are_bounded() -> None:
    kept = TableTexts(texts=100, tables=3)
    tables: list[dict[int, str]] = [{} for _ in range(10)]
    for number in range(1_000):
        kept.of(tables[number % 10])[number] = b""
        kept.of(tables[0])[-number] = b""
        assert len(kept) <= 102
        assert len(kept._kept) <= 3


def test_what_is_forgotten_stays_with_whoever_holds_it() -> None:
    kept, table = TableTexts(texts=2), {1: "A", 2: "B"}
    held = kept.of(table)
    held.update({1: b"a", 2: b"b"})

    assert kept.of(table) == {}
    assert held == {1: b"a", 2: b"b"}
