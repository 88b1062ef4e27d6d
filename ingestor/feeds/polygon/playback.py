"""One live feed's decoding again, frame by frame.

The same decoder in the same state says the same. So a run gets a decoder of its own, made as the
live one was, and the quotes held are forgotten where another connection begins, as they were live.
"""

from __future__ import annotations

from ingestor.feeds.polygon.decode import Decoded, OptionDecoder, StockDecoder
from ingestor.journal.format import Entry, Header, Market, read_note
from ingestor.model.symbols import SymbolTable


class Playback:
    """Decodes the entries of segments that are given in order."""

    def __init__(self) -> None:
        self._header: Header | None = None
        self._decoder: StockDecoder | OptionDecoder = StockDecoder()
        self._connection: int | None = None
        self._next_number: int | None = None

    @property
    def symbols(self) -> SymbolTable:
        """The symbols of all records of the run so far; another run has another table."""
        return self._decoder.instruments.table

    def begin(self, header: Header) -> None:
        """Go on with a segment: of the same run, or the first that is given of another."""
        before, self._header = self._header, header
        if before is None or before.run_ns != header.run_ns:
            self._decoder = decoder_of(header)
            self._connection = None
            self._next_number = 0 if header.part == 1 else None
        elif header.part < before.part or (
            header.part > before.part + 1 and header.date != before.date
        ):
            self._next_number = None  # days between are not read, or are gone: no telling

    def is_known(self, entry: Entry) -> bool:
        """Tell whether a frame of this number came before: its segment is there twice."""
        return self._next_number is not None and entry.number < self._next_number

    def missing(self, entry: Entry) -> int:
        """Return how many frames are missing between the entry before and this one."""
        expected, self._next_number = self._next_number, entry.number + 1
        return 0 if expected is None else max(0, entry.number - expected)

    def note(self, entry: Entry) -> None:
        """Do what the live feed did with its decoder. Raises `BadDataError` for what is no note.

        Names without the beginning of their connection, which is not read or lost, restrict
        nothing: others may have been asked for before.
        """
        names = read_note(entry.payload)
        if names is None:
            self._decoder.begin_connection()
        else:
            self._decoder.ask(names)

    def decode(self, entry: Entry) -> Decoded:
        """Decode a frame."""
        if self._connection not in (None, entry.connection):
            self._decoder.instruments.forget_quotes()
        self._connection = entry.connection
        return self._decoder.decode(entry.payload, entry.recv_ns)


def decoder_of(header: Header) -> StockDecoder | OptionDecoder:
    """Return a decoder as the live one was when it began."""
    if header.market is Market.STOCKS:
        return StockDecoder(header.late_after_ns)
    return OptionDecoder(header.roots, header.late_after_ns)
