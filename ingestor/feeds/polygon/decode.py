"""From typed messages to records: one frame in, one array out.

Rows are packed straight into the record layouts of `model.records`, one `struct` call each.
The aggressor is judged here, since only here is known in which order quotes and trades arrived,
within a frame too. A print is late when the exchange stamped it (``pt``) more than a set span
before the tape did (``t``); it says nothing about the quotes of now, so its aggressor is MID.

Sizes are whole shares. Where the vendor gives the fraction too (``ds``), it decides, since how
``s`` rounds is not documented: a trade of less than one share has size 0, whatever ``s`` says.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from struct import Struct
from typing import Any, Final

import numpy as np

from ingestor.feeds.polygon.frames import FrameReader, Notice, Oddity, Skip, Tally
from ingestor.feeds.polygon.instruments import NO_ASK, Instruments
from ingestor.feeds.polygon.messages import (
    OPTION_KEYS,
    STOCK_KEYS,
    Condition,
    Conditions,
    OptionMessage,
    OptionTradeMessage,
    StatusMessage,
    StockMessage,
    StockQuoteMessage,
    StockTradeMessage,
)
from ingestor.feeds.polygon.subscriptions import Admission
from ingestor.model.bounds import MAX_SYMBOL_BYTES
from ingestor.model.errors import BadDataError
from ingestor.model.records import (
    MAX_CONDITIONS,
    OPTION_TRADE,
    STOCK_QUOTE,
    STOCK_TRADE,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    Records,
    RType,
)
from ingestor.model.symbols import parse_option_ticker
from ingestor.model.units import NS_PER_MS, NS_PER_S, PRICE_SCALE, UINT32_MAX, UNDEF_PRICE

LATE_AFTER_NS: Final = NS_PER_S
MAX_CONDITION_SETS: Final = 4096
"""Packed condition lists that are kept; a few hundred occur."""

MAX_DECIMAL_CHARS: Final = 64
"""A size with more digits is no number that a field of ours could hold."""

_EARLY: Final = (Skip.BEFORE_SUBSCRIPTION, "data before anything was asked for")
_FOREIGN: Final = (Skip.NOT_SUBSCRIBED, "data under a name that was never subscribed")

ConditionsField = Conditions | Condition | None


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What one frame held.

    `records` has one itemsize; each row's ``rtype`` tells its type. For /stocks its dtype is
    `STOCK_TRADE`, and rows that are quotes are read through a view as `STOCK_QUOTE`; for /options
    all rows are `OPTION_TRADE`. `late` lists the rows of trades that were reported late.
    `new_symbols` are (id, symbol) pairs that no frame before had.
    """

    records: Records
    statuses: tuple[StatusMessage, ...]
    late: tuple[int, ...]
    new_symbols: tuple[tuple[int, str], ...]
    skipped: Mapping[Skip, int]
    oddities: Mapping[Oddity, int]
    notices: tuple[Notice, ...]


class _Frame:
    """What is gathered while one frame is decoded."""

    __slots__ = ("late", "recv_ns", "rounded", "rows", "statuses")

    def __init__(self, recv_ns: int) -> None:
        self.recv_ns = recv_ns
        self.rows = bytearray()
        self.statuses: list[StatusMessage] = []
        self.late: list[int] = []
        self.rounded = 0


class _Decoder:
    """What both markets share."""

    def __init__(self, dtype: np.dtype[Any], late_after_ns: int) -> None:
        self.instruments = Instruments()
        self._dtype = dtype
        self._late_after_ms = late_after_ns // NS_PER_MS
        self._tally = Tally()
        self._packed_conditions: dict[ConditionsField, bytes] = {}
        self._admission: Admission | None = None
        # Who may pass, by channel: an instrument gets in with its first event on a connection.
        self._trades: dict[str, int] = {}
        self._quotes: dict[str, int] = {}

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all records."""
        return self._dtype

    def begin_connection(self) -> None:
        """A socket is open: nothing was asked for on it, so nothing is taken before `ask`.

        A decoder that was never told of a connection takes everything.
        """
        self._admission = Admission()
        # Whoever was let in on the last connection has to be asked for again on this one.
        self._trades.clear()
        self._quotes.clear()
        self.instruments.forget_quotes()

    def ask(self, names: Iterable[str]) -> None:
        """These names were asked for on this connection, if one was begun."""
        if self._admission is not None:
            self._admission.ask(names)

    def _teach(self, other: _Decoder) -> None:
        """Let another, that has decoded nothing, say of what follows what this one says."""
        other.instruments = Instruments(like=self.instruments)
        other._admission = copy.deepcopy(self._admission)
        other._trades, other._quotes = self._trades.copy(), self._quotes.copy()

    def _decoded(self, frame: _Frame) -> Decoded:
        # Counted without a word: it may be so for every price of a penny stock.
        if frame.rounded:
            self._tally.count(Oddity.PRICE_ROUNDED, frame.rounded)
        skipped, oddities, notices = self._tally.take()
        return Decoded(
            np.frombuffer(frame.rows, self._dtype),
            tuple(frame.statuses),
            tuple(frame.late),
            self.instruments.take_new(),
            skipped,
            oddities,
            notices,
        )

    def _admit(self, channel: str, symbol: str, admitted: dict[str, int]) -> int | None:
        """Return the id of a symbol that is not among the admitted ones, if it may be."""
        if self._admission is not None and not self._admission.covers(channel, symbol):
            refusal = _EARLY if self._admission.empty else _FOREIGN
            self._tally.skip(*refusal, f"{channel}.{symbol}")
            return None
        number = self.instruments.find(symbol)
        if number is None:
            number = self._add_instrument(symbol)
        if number is not None:
            admitted[symbol] = number
        return number

    def _add_instrument(self, symbol: str) -> int | None:
        if len(symbol.encode()) > MAX_SYMBOL_BYTES:
            self._tally.skip(Skip.SYMBOL, f"more than {MAX_SYMBOL_BYTES} bytes", symbol)
            return None
        number = self.instruments.add(symbol)
        if number is None:
            self._tally.skip(Skip.INSTRUMENTS_FULL, "no room for another symbol", symbol)
        return number

    def _aggressor(
        self,
        frame: _Frame,
        message: StockTradeMessage | OptionTradeMessage,
        number: int,
        price_e9: float,
    ) -> int:
        pt = message.pt
        # A print of minutes ago meets the quotes of now: they say nothing about who took whom.
        if pt is not None and pt < message.t - self._late_after_ms:
            frame.late.append(len(frame.rows) // self._dtype.itemsize)
            return 0
        return self.instruments.aggressor(number, price_e9)

    def _pack_conditions(self, conditions: ConditionsField) -> bytes:
        if conditions is None:
            codes: Conditions = ()
        else:
            codes = conditions if isinstance(conditions, tuple) else (conditions,)
        kept = codes[:MAX_CONDITIONS]
        packed = _CONDITIONS.pack(len(kept), *kept, *(0,) * (MAX_CONDITIONS - len(kept)))
        if len(codes) > MAX_CONDITIONS:
            detail = f"more than {MAX_CONDITIONS}"
            surplus = len(codes) - MAX_CONDITIONS
            self._tally.odd(Oddity.CONDITIONS_CUT, detail, codes[: 2 * MAX_CONDITIONS], surplus)
        # Cut lists stay out, since each of them must be counted again.
        elif len(self._packed_conditions) < MAX_CONDITION_SETS:
            self._packed_conditions[conditions] = packed
        return packed


class StockDecoder(_Decoder):
    """Decodes the frames of /stocks: trades and quotes, in the order of the frame."""

    def __init__(self, late_after_ns: int = LATE_AFTER_NS) -> None:
        super().__init__(STOCK_TRADE, late_after_ns)
        self._reader: FrameReader[StockMessage] = FrameReader(StockMessage, STOCK_KEYS, self._tally)

    def twin(self) -> StockDecoder:
        """Return one that says of what follows what this one says, which decodes it first."""
        other = StockDecoder(self._late_after_ms * NS_PER_MS)
        self._teach(other)
        return other

    def decode(self, data: bytes, recv_ns: int) -> Decoded:
        """Decode a frame that was received at `recv_ns`; raises nothing for what is in it."""
        frame = _Frame(recv_ns)
        for message in self._reader.read(data):
            if isinstance(message, StockQuoteMessage):
                self._quote(frame, message)
            elif isinstance(message, StockTradeMessage):
                self._trade(frame, message)
            else:
                frame.statuses.append(message)
        return self._decoded(frame)

    def _quote(self, frame: _Frame, message: StockQuoteMessage) -> None:
        try:
            number = self._quotes[message.sym]
        except KeyError:
            admitted = self._admit("Q", message.sym, self._quotes)
            if admitted is None:
                return
            number = admitted
        bp, ap = message.bp or 0.0, message.ap or 0.0
        # Both sides at once and no call: this and `_trade` run once for every element.
        bid_e9 = bp * _E9 + _TO_WHOLE - _TO_WHOLE
        ask_e9 = ap * _E9 + _TO_WHOLE - _TO_WHOLE
        if bid_e9 / _E9 != bp or ask_e9 / _E9 != ap:
            frame.rounded += 1
        quotes, at = self.instruments.quotes, 2 * number
        # The vendor writes an empty side as 0, as null, or not at all.
        quotes[at], quotes[at + 1] = bid_e9, ask_e9 or NO_ASK
        bid, ask = int(bid_e9), int(ask_e9)
        frame.rows += _STOCK_QUOTE.pack(
            _STOCK_QUOTE_HEAD,
            number,
            message.t * NS_PER_MS,
            frame.recv_ns,
            UNDEF_SEQUENCE if (q := message.q) is None else q,
            bid or UNDEF_PRICE,
            ask or UNDEF_PRICE,
            (message.bs or 0) if bid else 0,
            (message.as_ or 0) if ask else 0,
            UNDEF_EXCHANGE if (bx := message.bx) is None else bx,
            UNDEF_EXCHANGE if (ax := message.ax) is None else ax,
            0,
        )

    def _trade(self, frame: _Frame, message: StockTradeMessage) -> None:
        size, ds = message.s, message.ds
        # Nearly every ``ds`` is ``s`` with ".0": comparing text is cheaper than making a Decimal.
        if ds is not None and ds != f"{size}.0":
            size = whole_shares(size, ds)
        if size is None:
            self._tally.skip(Skip.SIZE, "trade without a size", message)
            return
        try:
            number = self._trades[message.sym]
        except KeyError:
            admitted = self._admit("T", message.sym, self._trades)
            if admitted is None:
                return
            number = admitted
        p = message.p
        e9 = p * _E9 + _TO_WHOLE - _TO_WHOLE
        if e9 / _E9 != p:
            frame.rounded += 1
        frame.rows += _STOCK_TRADE.pack(
            _STOCK_TRADE_HEAD,
            number,
            message.t * NS_PER_MS,
            frame.recv_ns,
            UNDEF_SEQUENCE if (q := message.q) is None else q,
            int(e9),
            size,
            UNDEF_EXCHANGE if (x := message.x) is None else x,
            self._aggressor(frame, message, number, e9),
            self._packed_conditions.get(message.c) or self._pack_conditions(message.c),
        )


class OptionDecoder(_Decoder):
    """Decodes the frames of /options: trades become records, quotes are only remembered.

    `roots` are the ticker roots to keep (``SPY`` keeps ``O:SPY...``, not ``O:SPYG...``).
    """

    def __init__(self, roots: Collection[str], late_after_ns: int = LATE_AFTER_NS) -> None:
        super().__init__(OPTION_TRADE, late_after_ns)
        self._roots = frozenset(roots)
        self._reader: FrameReader[OptionMessage] = FrameReader(
            OptionMessage, OPTION_KEYS, self._tally
        )

    def twin(self) -> OptionDecoder:
        """Return one that says of what follows what this one says, which decodes it first."""
        other = OptionDecoder(self._roots, self._late_after_ms * NS_PER_MS)
        self._teach(other)
        return other

    def decode(self, data: bytes, recv_ns: int) -> Decoded:
        """Decode a frame that was received at `recv_ns`; raises nothing for what is in it."""
        frame = _Frame(recv_ns)
        for message in self._reader.read(data):
            if isinstance(message, StatusMessage):
                frame.statuses.append(message)
                continue
            symbol = message.sym
            if isinstance(message, OptionTradeMessage):
                number = self._trades.get(symbol)
                if number is None:
                    number = self._contract("T", symbol, self._trades)
                if number is not None:
                    self._trade(frame, message, number)
            else:
                number = self._quotes.get(symbol)
                if number is None:
                    number = self._contract("Q", symbol, self._quotes)
                if number is not None:
                    quotes, at = self.instruments.quotes, 2 * number
                    # Nobody reads these as records, so nothing is counted as rounded.
                    quotes[at] = (message.bp or 0.0) * _E9 + _TO_WHOLE - _TO_WHOLE
                    ask_e9 = (message.ap or 0.0) * _E9 + _TO_WHOLE - _TO_WHOLE
                    quotes[at + 1] = ask_e9 or NO_ASK
        return self._decoded(frame)

    def _contract(self, channel: str, symbol: str, admitted: dict[str, int]) -> int | None:
        try:
            ticker = parse_option_ticker(symbol)
        except BadDataError:
            self._tally.skip(Skip.OPTION_TICKER, "not an option ticker", symbol)
            return None
        # By the parsed root, not by a prefix: ``O:SPY`` begins SPYG and SPYV too.
        if ticker.underlying not in self._roots:
            self._tally.skip(Skip.OTHER_ROOT, "contract of another root", symbol)
            return None
        return self._admit(channel, symbol, admitted)

    def _trade(self, frame: _Frame, message: OptionTradeMessage, number: int) -> None:
        p = message.p
        e9 = p * _E9 + _TO_WHOLE - _TO_WHOLE
        if e9 / _E9 != p:
            frame.rounded += 1
        quotes, at = self.instruments.quotes, 2 * number
        bid_e9, ask_e9 = quotes[at], quotes[at + 1]
        frame.rows += _OPTION_TRADE.pack(
            _OPTION_TRADE_HEAD,
            number,
            message.t * NS_PER_MS,
            frame.recv_ns,
            UNDEF_SEQUENCE if (q := message.q) is None else q,
            int(e9),
            int(bid_e9) or UNDEF_PRICE,
            UNDEF_PRICE if ask_e9 == NO_ASK else int(ask_e9),
            message.s,
            UNDEF_EXCHANGE if (x := message.x) is None else x,
            self._aggressor(frame, message, number, e9),
            self._packed_conditions.get(message.c) or self._pack_conditions(message.c),
        )


def whole_shares(size: int | None, decimal_size: str | float | None) -> int | None:
    """Whole shares of a trade: `decimal_size` cut to an integer where it is a number, else `size`.

    >>> whole_shares(1, "0.740474"), whole_shares(40, "40.0"), whole_shares(None, "2.5")
    (0, 40, 2)
    """
    text = str(decimal_size)
    if size is not None and text == f"{size}.0":
        return size
    # Making an int takes time that grows with the square of the digits.
    if len(text) > MAX_DECIMAL_CHARS:
        return size
    try:
        shares = Decimal(text)
        return int(shares) if 0 <= shares <= UINT32_MAX else size
    except ArithmeticError:
        return size


def _head(rtype: RType, dtype: np.dtype[Any]) -> int:
    """First four bytes of a record as one little-endian number; publisher_id stays 0."""
    return dtype.itemsize // 4 | rtype << 8


_E9: Final = float(PRICE_SCALE)
_TO_WHOLE: Final = 1.5 * 2**52
"""Added to a double below 2**51 and taken away again, it leaves the nearest whole number: beyond
2**52 a double has no fraction. This is `round`, at a third of its cost."""

# Head, instrument_id, ts_event_ns, ts_recv_ns, sequence; then the type's own fields.
_STOCK_TRADE: Final = Struct("<IIQQQqIhb17s")
_STOCK_QUOTE: Final = Struct("<IIQQQqqIIhhI")
_OPTION_TRADE: Final = Struct("<IIQQQqqqIhb17s")
_CONDITIONS: Final = Struct(f"<B{MAX_CONDITIONS}H")
_STOCK_TRADE_HEAD: Final = _head(RType.STOCK_TRADE, STOCK_TRADE)
_STOCK_QUOTE_HEAD: Final = _head(RType.STOCK_QUOTE, STOCK_QUOTE)
_OPTION_TRADE_HEAD: Final = _head(RType.OPTION_TRADE, OPTION_TRADE)
