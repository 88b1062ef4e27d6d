"""What symbols become in messages, made once for as long as their table is in use.

In one table an id keeps its symbol (`SymbolTable`), so what was made of it holds
as long as the table is the same object. An id that a table does not list stands for itself until
the table may list it: what is made of such a one is not for here.
"""

from __future__ import annotations

from typing import Final

from ingestor.model.symbols import SymbolTable

TEXTS_HELD: Final = 262_144
"""Texts that are kept, some 100 bytes each: of two feeds with all the symbols one may have."""

TABLES_HELD: Final = 16
"""Tables whose texts are kept. A live feed has one; files of many days have one each."""


class TableTexts:
    """Per table what was made of its symbols, under keys of whoever made it."""

    def __init__(self, texts: int = TEXTS_HELD, tables: int = TABLES_HELD) -> None:
        self._most_texts = texts
        self._most_tables = tables
        self._kept: dict[int, tuple[SymbolTable, dict[int, bytes]]] = {}

    def __len__(self) -> int:
        """Number of texts that are kept."""
        return sum(len(texts) for _, texts in self._kept.values())

    def of(self, table: SymbolTable) -> dict[int, bytes]:
        """Return what was made of a table's symbols so far, to be added to.

        It is forgotten from time to time, so ask before each use; what was returned stays as it is.
        """
        # A table that is kept beside its texts cannot lose its identity to another one.
        known = self._kept.get(id(table))
        full = len(self) >= self._most_texts or len(self._kept) >= self._most_tables + bool(known)
        if known is None or full:
            if full:
                self._kept.clear()
            known = self._kept[id(table)] = (table, {})
        return known[1]
