# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled reader: JSON messages to records, no Python object per message.

It takes what the encoders write, byte for byte: the contract's keys in the contract's order, no
blanks, prices with a point and at most nine decimals. Whatever differs it leaves to
`ingestor.encode.json_records`, which is slower and says whether it is an event at all. So this
module refuses nothing and explains nothing, and has one promise to keep: what it takes, the other
one takes as the same record. Property tests compare the two, also on messages that were mutated.

How it works. `In` is what is left of a message. Each ``take_*`` checks that there is enough of it,
moves over what it has read and says whether that was what it looks for; a chain of them stops at
the first that was not. Records are written in place, as the packed C structs of ``_layout.pxd``,
into an array that has a row for every message there is, so that a row is never looked for.

What names the instrument is text for Python: it is compared with the message before, then looked
up among those of its `Group`, and only what is new is read, by `json_records.symbol_read`.

A depth message repeats nearly all of the one before: a level whose text is the same is copied from
the record before. That is five times as fast as to read it.

Nothing is read behind a message's last byte, whatever it holds: the tests run all of it under
AddressSanitizer. What is ``noexcept`` calls nothing of Python's.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memset, strlen

from ingestor.encode._layout cimport (
    FLAG_SNAPSHOT, FUTURES_TRADE, MBP10, N_CONDITIONS, N_LEVELS, N_RTYPES, OPTION_TRADE,
    STOCK_QUOTE, STOCK_TRADE, UNDEF_EXCHANGE, UNDEF_PRICE, UNDEF_SEQUENCE, Conditions, FuturesTrade,
    Head, Level, Live, Mbp10, OptionTrade, StockQuote, StockTrade,
)

import numpy as np

from ingestor.model.blocks import Source
from ingestor.model.records import EVENT_TYPES

cdef enum:
    N_SOURCES = 8
    N_VENUES = 256
    # No instrument's text is longer: a symbol has at most 71 bytes, of which JSON makes up to six
    # each, and the five keys of an option take about 130.
    MAX_INSTRUMENT_BYTES = 512
    # With as many digits before the point, and nine behind it, a price fits int64 sevenfold; one
    # that has more is left to the other reader.
    WHOLE_DIGITS = 9
    DECIMALS = 9
    # Numbers of as many digits fit uint64, whatever the digits are.
    UINT64_DIGITS = 19
    UINT16_MOST = 0xFFFF
    INT16_MOST = 0x7FFF

cdef uint64_t UINT32_MOST = 0xFFFFFFFF
cdef int64_t[10] SCALES = [
    1000000000, 100000000, 10000000, 1000000, 100000, 10000, 1000, 100, 10, 1
]

cdef struct In:
    const char* at
    const char* end

cdef struct Span:
    # Text inside a message; NULL: none.
    const char* data
    Py_ssize_t size

cdef struct Book:
    # Where in a depth message the text of each level begins, and where that of the last one ends.
    const char* begins[N_LEVELS]
    const char* ends[N_LEVELS]

cdef struct Envelope:
    uint64_t ts_event_ns
    uint64_t ts_recv_ns
    int source

KINDS = {kind.subject.encode(): number for number, kind in enumerate(EVENT_TYPES)}
SOURCES = list(Source)
assert len(SOURCES) <= N_SOURCES

# What stands behind the instrument, by rtype.
cdef const char* AFTER_INSTRUMENT[N_RTYPES]
AFTER_INSTRUMENT[STOCK_TRADE] = b',"price":'
AFTER_INSTRUMENT[STOCK_QUOTE] = b',"bid_px":'
AFTER_INSTRUMENT[OPTION_TRADE] = b',"price":'
AFTER_INSTRUMENT[FUTURES_TRADE] = b',"price":'
AFTER_INSTRUMENT[MBP10] = b',"levels":[{"bid_px":'


# --- one value each ----------------------------------------------------------------------------

cdef inline bint take_text(In* it, const char* text, Py_ssize_t size) noexcept:
    if it.end - it.at < size or memcmp(it.at, text, size) != 0:
        return False
    it.at += size
    return True


cdef inline bint take(In* it, const char* literal) noexcept:
    return take_text(it, literal, strlen(literal))


cdef inline bint is_next(const In* it, char wanted) noexcept:
    return it.at < it.end and it.at[0] == wanted


cdef inline bint take_digits(In* it, int most_digits, uint64_t* number) noexcept:
    """Read at least one digit, and no more than so many; whether more follow is not looked at."""
    cdef const char* start = it.at
    cdef const char* stop = start + min(it.end - start, <Py_ssize_t>most_digits)
    cdef uint64_t value = 0
    cdef unsigned int digit
    while it.at < stop:
        digit = <unsigned int><unsigned char>it.at[0] - 48
        if digit > 9:
            break
        value = value * 10 + digit
        it.at += 1
    number[0] = value
    return it.at > start


cdef inline bint take_whole(In* it, int most_digits, uint64_t* number) noexcept:
    """Read digits as a number begins with them: a zero stands alone."""
    cdef const char* start = it.at
    return take_digits(it, most_digits, number) and (start[0] != b"0" or it.at == start + 1)


cdef inline bint take_time(In* it, uint64_t* ts_ns) noexcept:
    return take_whole(it, UINT64_DIGITS, ts_ns) and ts_ns[0] <= <uint64_t>INT64_MAX


cdef inline bint take_uint32(In* it, uint32_t* number) noexcept:
    cdef uint64_t value
    if not take_whole(it, UINT64_DIGITS, &value) or value > UINT32_MOST:
        return False
    number[0] = <uint32_t>value
    return True


cdef inline bint take_sequence(In* it, uint64_t* sequence) noexcept:
    if is_next(it, b"n"):
        sequence[0] = UNDEF_SEQUENCE
        return take(it, b"null")
    return take_whole(it, UINT64_DIGITS, sequence)


cdef inline bint take_exchange(In* it, int16_t* exchange) noexcept:
    cdef uint64_t value
    cdef bint negative
    if is_next(it, b"n"):
        exchange[0] = UNDEF_EXCHANGE
        return take(it, b"null")
    negative = is_next(it, b"-")
    it.at += negative
    if not take_whole(it, UINT64_DIGITS, &value) or value > <uint64_t>INT16_MOST + negative:
        return False
    if negative and not value:
        return False
    exchange[0] = <int16_t>(-<int64_t>value if negative else <int64_t>value)
    return True


cdef inline bint take_price(In* it, int64_t* price_e9) noexcept:
    cdef uint64_t whole, fraction
    cdef const char* point
    cdef bint negative = is_next(it, b"-")
    it.at += negative
    if not take_whole(it, WHOLE_DIGITS, &whole) or not take(it, b"."):
        return False
    point = it.at
    if not take_digits(it, DECIMALS, &fraction):
        return False
    price_e9[0] = <int64_t>(whole * 1000000000 + fraction * SCALES[it.at - point])
    if negative:
        price_e9[0] = -price_e9[0]
    return True


cdef inline bint take_price_or_null(In* it, int64_t* price_e9) noexcept:
    if is_next(it, b"n"):
        price_e9[0] = UNDEF_PRICE
        return take(it, b"null")
    return take_price(it, price_e9)


cdef inline bint take_aggressor(In* it, int* aggressor) noexcept:
    cdef bint negative = is_next(it, b"-")
    it.at += negative
    if is_next(it, b"1"):
        aggressor[0] = -1 if negative else 1
    elif is_next(it, b"0") and not negative:
        aggressor[0] = 0
    else:
        return False
    it.at += 1
    return True


cdef inline bint take_conditions(In* it, Conditions* conditions) noexcept:
    cdef uint64_t value
    if not take(it, b"["):
        return False
    conditions.count = 0
    while not is_next(it, b"]"):
        if conditions.count == N_CONDITIONS or conditions.count and not take(it, b","):
            return False
        if not take_whole(it, UINT64_DIGITS, &value) or value > UINT16_MOST:
            return False
        conditions.items[conditions.count] = <uint16_t>value
        conditions.count += 1
    it.at += 1
    return True


cdef inline bint take_letter(In* it, const char* allowed, uint8_t unknown, uint8_t* letter) noexcept:
    """Read one of these letters in quotes, or null for `unknown`."""
    if is_next(it, b"n"):
        letter[0] = unknown
        return take(it, b"null")
    if it.end - it.at < 3 or it.at[0] != b'"' or it.at[2] != b'"':
        return False
    # Not strchr, which finds the zero at the end of `allowed`, too.
    if memchr(allowed, it.at[1], strlen(allowed)) == NULL:
        return False
    letter[0] = <uint8_t>it.at[1]
    it.at += 3
    return True


cdef inline Span take_until(In* it, const char* literal) noexcept:
    """Move behind the literal, and return what was before it. Not further than an instrument."""
    cdef Py_ssize_t size = strlen(literal)
    cdef const char* start = it.at
    cdef const char* stop = it.end - size
    cdef const char* at = start
    if it.end - start < size:
        return Span(NULL, 0)
    if stop - start > MAX_INSTRUMENT_BYTES:
        stop = start + MAX_INSTRUMENT_BYTES
    while at <= stop:
        at = <const char*>memchr(at, literal[0], stop - at + 1)
        if at == NULL:
            break
        if memcmp(at, literal, size) == 0:
            it.at = at + size
            return Span(start, at - start)
        at += 1
    return Span(NULL, 0)


# --- one event type each: what follows the instrument ------------------------------------------

cdef bint take_stock_trade(In* it, StockTrade* row) noexcept:
    cdef int aggressor = 0
    if not (
        take_price(it, &row.price_e9)
        and take(it, b',"size":') and take_uint32(it, &row.size)
        and take(it, b',"exchange":') and take_exchange(it, &row.exchange)
        and take(it, b',"conditions":') and take_conditions(it, &row.conditions)
        and take(it, b',"seq":') and take_sequence(it, &row.live.sequence)
        and take(it, b',"aggressor":') and take_aggressor(it, &aggressor)
    ):
        return False
    row.aggressor = aggressor
    return True


cdef bint take_stock_quote(In* it, StockQuote* row) noexcept:
    return (
        take_price_or_null(it, &row.bid_px_e9)
        and take(it, b',"ask_px":') and take_price_or_null(it, &row.ask_px_e9)
        and take(it, b',"bid_sz":') and take_uint32(it, &row.bid_sz)
        and take(it, b',"ask_sz":') and take_uint32(it, &row.ask_sz)
        and take(it, b',"bid_exch":') and take_exchange(it, &row.bid_exch)
        and take(it, b',"ask_exch":') and take_exchange(it, &row.ask_exch)
        and take(it, b',"seq":') and take_sequence(it, &row.live.sequence)
    )


cdef bint take_option_trade(In* it, OptionTrade* row) noexcept:
    cdef int aggressor = 0
    row.exchange = UNDEF_EXCHANGE
    if not (
        take_price(it, &row.price_e9)
        and take(it, b',"size":') and take_uint32(it, &row.size)
        and take(it, b',"opt_bid":') and take_price_or_null(it, &row.opt_bid_e9)
        and take(it, b',"opt_ask":') and take_price_or_null(it, &row.opt_ask_e9)
        and take(it, b',"aggressor":') and take_aggressor(it, &aggressor)
        and take(it, b',"conditions":') and take_conditions(it, &row.conditions)
        and take(it, b',"seq":') and take_sequence(it, &row.live.sequence)
    ):
        return False
    row.aggressor = aggressor
    return True


cdef bint take_futures_trade(In* it, FuturesTrade* row, const Span* venues) noexcept:
    cdef int aggressor = 0
    if not (
        take_price(it, &row.price_e9)
        and take(it, b',"size":') and take_uint32(it, &row.size)
        and take(it, b',"aggressor":') and take_aggressor(it, &aggressor)
        and take(it, b',"exchange":') and take_venue(it, &row.head.publisher_id, venues)
        and take(it, b',"conditions":null,"seq":') and take_uint32(it, &row.sequence)
    ):
        return False
    row.action = b"T"
    row.side = b"N" if aggressor == 0 else b"B" if aggressor > 0 else b"A"
    return True


cdef inline bint take_venue(In* it, uint16_t* publisher_id, const Span* venues) noexcept:
    """Read the name of a venue, in its quotes, or null, which stands at `publisher_id` 0."""
    cdef int number
    for number in range(N_VENUES):
        if venues[number].size and take_text(it, venues[number].data, venues[number].size):
            publisher_id[0] = number
            return True
    return False


cdef inline bint take_level(In* it, Level* level) noexcept:
    return (
        take_price_or_null(it, &level.bid_px_e9)
        and take(it, b',"bid_sz":') and take_uint32(it, &level.bid_sz)
        and take(it, b',"ask_px":') and take_price_or_null(it, &level.ask_px_e9)
        and take(it, b',"ask_sz":') and take_uint32(it, &level.ask_sz)
        and take(it, b"}")
    )


cdef bint take_levels(In* it, Mbp10* row, Book* book, const Mbp10* last, const Book* read) noexcept:
    """Read ten levels, the first from behind its first key on; `last` (or NULL) is the row before,
    and `read` where its text is."""
    cdef int index
    for index in range(N_LEVELS):
        if index and not take(it, b',{"bid_px":'):
            return False
        book.begins[index] = it.at
        if last != NULL and take_text(
            it, read.begins[index], read.ends[index] - read.begins[index]
        ):
            row.levels[index] = last.levels[index]
        elif not take_level(it, &row.levels[index]):
            return False
        book.ends[index] = it.at
    return True


cdef bint take_mbp10(In* it, Mbp10* row, Book* book, const Mbp10* last, const Book* read) noexcept:
    cdef bint is_snapshot
    if not (take_levels(it, row, book, last, read) and take(it, b'],"is_snapshot":')):
        return False
    is_snapshot = is_next(it, b"t")
    row.update.flags = FLAG_SNAPSHOT if is_snapshot else 0
    return (
        take(it, b"true" if is_snapshot else b"false")
        and take(it, b',"seq":') and take_uint32(it, &row.update.sequence)
        and take(it, b',"action":') and take_letter(it, b"ACMTRF", b"N", &row.update.action)
        and take(it, b',"side":') and take_letter(it, b"ABN", 0, &row.update.side)
        and take(it, b',"action_price":') and take_price_or_null(it, &row.update.price_e9)
        and take(it, b',"action_size":') and take_uint32(it, &row.update.size)
    )


# --- messages to arrays ------------------------------------------------------------------------

cdef Span span_of(bytes text):
    """Point into a bytes object, which the caller keeps alive."""
    return Span(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef void* memory_of(array) except NULL:
    """Return where an array's items lie, for as long as it is neither freed nor resized."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(array, &buffer, PyBUF_WRITABLE)
    PyBuffer_Release(&buffer)
    return buffer.buf


cdef class Group:
    """Records of one event type and source, and which message each is of."""

    cdef object kind, source, records, messages
    cdef char* rows
    cdef int64_t* numbers
    cdef Py_ssize_t row_bytes, count, capacity
    cdef dict ids, symbols
    cdef Span instrument
    cdef uint32_t instrument_id
    cdef Book book

    def __cinit__(self, kind, source, Py_ssize_t capacity):
        self.kind, self.source = kind, source
        self.records = np.empty(capacity, kind.dtype)
        self.messages = np.empty(capacity, np.int64)
        self.rows = <char*>memory_of(self.records)
        self.numbers = <int64_t*>memory_of(self.messages)
        self.row_bytes, self.capacity = kind.dtype.itemsize, capacity
        self.ids, self.symbols = {}, {}

    cdef int find_instrument(self, Span text, symbol_read) except -1:
        """Make `instrument_id` that of this text; 0 where it is not what an encoder writes."""
        if (
            text.size == self.instrument.size
            and memcmp(text.data, self.instrument.data, text.size) == 0
        ):
            return 0
        key = PyBytes_FromStringAndSize(text.data, text.size)
        number = self.ids.get(key)
        if number is None:
            symbol = symbol_read(self.kind.rtype == OPTION_TRADE, key)
            number = 0 if symbol is None else len(self.symbols) + 1
            if number:
                self.symbols[number] = symbol
            self.ids[key] = number
        self.instrument, self.instrument_id = text, number
        return 0

    cdef finish(self):
        """Return what was read; nothing may be added afterwards."""
        # Resized, not sliced: what a batch does not use goes back to the system.
        self.records.resize(self.count, refcheck=False)
        self.messages.resize(self.count, refcheck=False)
        return self.kind, self.source, self.records, self.symbols, self.messages


cdef class Parser:
    """Reads messages; `symbol_read` says what the text of an instrument stands for.

    `publishers` are the numbers that stand for the names of venues, of one byte each.
    """

    cdef object symbol_read
    cdef list kept
    cdef Span sources[N_SOURCES]
    cdef Span venues[N_VENUES]

    def __cinit__(self, symbol_read, publishers):
        self.symbol_read = symbol_read
        self.kept = []
        for number, source in enumerate(SOURCES):
            text = source.value.encode() + b'",'
            self.kept.append(text)
            self.sources[number] = span_of(text)
        for name, number in [("null", 0), *publishers.items()]:
            if not 0 <= number < N_VENUES:
                raise ValueError(f"publisher {number} of {name} is no byte")
            text = b'"%b"' % name.encode() if number else b"null"
            self.kept.append(text)
            self.venues[number] = span_of(text)

    def parse(self, frames):
        """Read the payloads of frames (subject, reply, payload), and return two lists.

        The first has, for every event type and source in the order they come: the two, the
        records, their symbols by ``instrument_id``, and the index of each record's frame (int64).
        The other has the indexes of the frames that are left.
        """
        # A tuple of ours, so that no payload goes while it is pointed into.
        cdef tuple held = tuple(frames)
        cdef Py_ssize_t count = len(held)
        cdef list slots = [None] * (len(KINDS) * N_SOURCES)
        cdef list groups = []
        cdef list left = []
        cdef Py_ssize_t index, slot
        cdef bytes payload
        cdef Envelope envelope
        cdef Group group
        cdef In it
        for index in range(count):
            subject, _, payload = held[index]
            kind = KINDS.get(subject)
            it.at = PyBytes_AS_STRING(payload)
            it.end = it.at + PyBytes_GET_SIZE(payload)
            if kind is None or not take_envelope(&it, &envelope, self.sources):
                left.append(index)
                continue
            slot = <Py_ssize_t>kind * N_SOURCES + envelope.source
            group = slots[slot]
            if group is None:
                group = Group(EVENT_TYPES[kind], SOURCES[envelope.source], count)
                slots[slot] = group
                groups.append(group)
            if not self.add(group, &it, &envelope, index):
                left.append(index)
        return [(<Group>one).finish() for one in groups if (<Group>one).count], left

    cdef int add(self, Group group, In* it, const Envelope* envelope, int64_t index) except -1:
        """Read what follows the envelope into the group's next row; 0 where it is left."""
        if group.count == group.capacity:
            return 0
        cdef char* row = group.rows + group.count * group.row_bytes
        cdef Head* head = <Head*>row
        cdef Book book
        cdef uint8_t rtype = group.kind.rtype
        cdef Span instrument = take_until(it, AFTER_INSTRUMENT[rtype])
        if instrument.data == NULL:
            return 0
        group.find_instrument(instrument, self.symbol_read)
        if not group.instrument_id:
            return 0
        memset(row, 0, group.row_bytes)
        head.length = <uint8_t>(group.row_bytes // 4)
        head.rtype = rtype
        head.instrument_id = group.instrument_id
        head.ts_event_ns = envelope.ts_event_ns
        if rtype == MBP10 or rtype == FUTURES_TRADE:
            (<FuturesTrade*>row).ts_recv_ns = envelope.ts_recv_ns
        else:
            (<Live*>row).ts_recv_ns = envelope.ts_recv_ns
        if not (take_body(it, row, &book, group, self.venues) and take(it, b"}")):
            return 0
        if it.at != it.end:
            return 0
        group.book = book
        group.numbers[group.count] = index
        group.count += 1
        return 1


cdef bint take_envelope(In* it, Envelope* envelope, const Span* sources) noexcept:
    if not (
        take(it, b'{"ts_event_ns":') and take_time(it, &envelope.ts_event_ns)
        and take(it, b',"ts_recv_ns":') and take_time(it, &envelope.ts_recv_ns)
        and take(it, b',"source":"')
    ):
        return False
    for envelope.source in range(N_SOURCES):
        if sources[envelope.source].size and take_text(
            it, sources[envelope.source].data, sources[envelope.source].size
        ):
            return True
    return False


cdef bint take_body(In* it, char* row, Book* book, Group group, const Span* venues) noexcept:
    cdef uint8_t rtype = (<const Head*>row).rtype
    if rtype == MBP10:
        return take_mbp10(
            it, <Mbp10*>row, book,
            <const Mbp10*>(row - group.row_bytes) if group.count else NULL, &group.book
        )
    if rtype == FUTURES_TRADE:
        return take_futures_trade(it, <FuturesTrade*>row, venues)
    if rtype == STOCK_TRADE:
        return take_stock_trade(it, <StockTrade*>row)
    if rtype == STOCK_QUOTE:
        return take_stock_quote(it, <StockQuote*>row)
    return take_option_trade(it, <OptionTrade*>row)
