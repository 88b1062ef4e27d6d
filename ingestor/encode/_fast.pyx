# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled encoders: runs of records to finished frames, no Python object per row.

Packed messages are in ``_packing.pxi``, which is part of this module; the rest is JSON.

How it works. A block's records are read in place, as the packed C structs of ``_layout.pxd``,
which mirror the dtypes of `ingestor.model.records`. A row becomes a frame in one pass over a growing
bytes object: `Output.reserve` makes room for the longest frame the row could become, and the
``put_*`` functions (``_text.pxd`` and below) then write without looking. The payload's length has
a fixed width and is filled in last.

What is text stays with Python: a symbol's JSON (for an option, all its ticker says) is made once
for each table by the reference encoder's functions, kept over calls (`TableTexts`) and copied from
then on. A block remembers its last instrument, so nobody is asked before the instrument changes.

A depth event repeats nearly all of the book: most change one of ten levels. So the text of the
last book is remembered (`Written`: where each level's stands in the output), and the levels before
the first that differs and behind the last that does are copied from there, bytes for bytes.

Where memory could be overrun is in three places, each of which checks: `Blocks.check` (a run
inside its block), `Shapes.check` (a record as long as its rtype says) and `Output.reserve`. What is
copied from the book before is text that was written under the same bound.
The tests run all of it under AddressSanitizer.

What is ``noexcept`` calls nothing of Python's, so it has no exception to lose; the tests see to it
that Cython found none either.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport PyObject, Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memcpy, memset

from ingestor.encode._layout cimport (
    FLAG_SNAPSHOT, FUTURES_TRADE, MBP10, N_LEVELS, N_RTYPES, OPTION_TRADE, STOCK_QUOTE,
    STOCK_TRADE, UNDEF_PRICE, FuturesTrade, Head, Level, Live, Mbp10, OptionTrade, StockQuote,
    StockTrade,
)
from ingestor.encode._text cimport (
    Text, put, put_action, put_aggressor, put_conditions, put_eight, put_exchange, put_four,
    put_price, put_price_or_null, put_sequence, put_side, put_text, put_uint,
)

import numpy as np

from ingestor.model.blocks import (
    FENCE_BYTES, FENCE_DIGITS, FENCE_OPENING, SEQUENCE_DIGITS, Frames
)
from ingestor.model.bounds import MAX_PAYLOAD_BYTES
from ingestor.encode.packed import ALIGNMENT, HEAD, MAX_ROW_BYTES, MAX_ROWS
from ingestor.encode.packed import entry, fitting_rows, opening
from ingestor.encode.reference import (
    LENGTH_DIGITS, MAX_SEQUENCE, TableTexts, check_payload, check_sequences, option_json, symbol_json
)
from ingestor.model.errors import BadDataError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, EVENT_TYPES
from ingestor.model.symbols import PUBLISHER_EXCHANGE

cdef extern from *:
    PyObject* PyBytes_FromStringAndSize(const char* data, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1


# --- what is written into, and what is read from -----------------------------------------------

cdef enum:
    # More than the longest frame apart from its texts (`Text`): an MBP-10 event whose every
    # integer has all its digits takes about 1,300 bytes, and a fence 66 more.
    LIMIT_BYTES = 2048

cdef struct Shape:
    # One rtype: how its frames begin, without and with a header, and how long its records are (0:
    # no rtype of ours).
    Text head
    Text fenced_head
    Py_ssize_t row_bytes

cdef struct Rows:
    # Consecutive rows of a block, and the sequence of the first one's frame.
    int64_t start
    int64_t count
    uint64_t sequence

cdef struct Source:
    # One block: where its rows lie, and the text of the instrument asked for last, under its key.
    Py_buffer rows
    Text name
    Text instrument
    uint64_t key

cdef struct Written:
    # The levels written last (NULL: none), where in the output the text of each begins, and where
    # that of the last one ends.
    const Level* levels
    Py_ssize_t begins[N_LEVELS + 1]

cdef struct Command:
    # One frame: where its length is to be written, where its payload begins, and the bytes of the
    # headers in front of that.
    char* length_at
    char* payload
    uint32_t header_bytes

cdef Py_ssize_t MANY = 4096
ONE_EACH = np.arange(1, MANY + 1, dtype=np.int64)
ONE_EACH.flags.writeable = False
assert (SEQUENCE_DIGITS, LENGTH_DIGITS) == (12, 8), "put_command writes these widths"

cdef enum:
    # The header of a fence.
    HEADER_BYTES = 59
    # A frame apart from its texts and its payload: sequence, length, two line ends; and what a
    # fence adds, a letter, a number and the header.
    FRAME_BYTES = 12 + 8 + 2 + 2 + 1 + 3 + HEADER_BYTES

cdef uint64_t NO_SEQUENCE = 2**64 - 1
assert (FENCE_BYTES, FENCE_DIGITS) == (HEADER_BYTES, 16), "put_command writes these widths"

ROW_BYTES = {
    FUTURES_TRADE: sizeof(FuturesTrade),
    MBP10: sizeof(Mbp10),
    STOCK_TRADE: sizeof(StockTrade),
    STOCK_QUOTE: sizeof(StockQuote),
    OPTION_TRADE: sizeof(OptionTrade),
}


cdef Text text_of(bytes data):
    """Point into a bytes object, which the caller keeps alive."""
    return Text(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef enum:
    N_PUBLISHERS = 256

# JSON of the exchange of each publisher, which `VENUE_TEXTS` keeps alive.
cdef Text[N_PUBLISHERS] VENUES
VENUE_TEXTS = [
    f'"{PUBLISHER_EXCHANGE[number]}"'.encode() if number in PUBLISHER_EXCHANGE else b"null"
    for number in range(N_PUBLISHERS)
]
assert max(PUBLISHER_EXCHANGE) < N_PUBLISHERS
for number, text in enumerate(VENUE_TEXTS):
    VENUES[number] = text_of(text)


cdef class Output:
    """A bytes object that is written in place and grows."""

    cdef PyObject* data
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef Written book

    def __cinit__(self, Py_ssize_t capacity):
        self.data = PyBytes_FromStringAndSize(NULL, capacity)
        self.capacity = capacity

    def __dealloc__(self):
        Py_XDECREF(self.data)

    cdef char* reserve(self, Py_ssize_t size) except NULL:
        """Return where to write next; there is room for `size` bytes."""
        if self.capacity - self.size < size:
            self.capacity = 2 * self.capacity + size
            _PyBytes_Resize(&self.data, self.capacity)
        return PyBytes_AS_STRING(<object>self.data) + self.size

    cdef bytes finish(self):
        """Return what was written; nothing may be written afterwards."""
        _PyBytes_Resize(&self.data, self.size)
        self.capacity = self.size
        return <bytes>self.data


cdef class Shapes:
    """What all frames under one reply subject share, and how many there are of each rtype."""

    cdef Shape by_rtype[N_RTYPES]
    cdef int64_t counts[N_RTYPES]
    cdef Py_ssize_t max_payload_bytes
    cdef Text tail, fenced_tail, fence
    # The next frame that bears a header, one in how many does, and what message 1 is to follow.
    cdef uint64_t next_fenced, every, behind
    cdef object reply
    cdef list kept

    def __cinit__(self, reply):
        self.reply = reply
        tail, fenced_tail = reply.suffix + b" ", b"%b %d " % (reply.suffix, FENCE_BYTES)
        self.tail, self.fenced_tail = text_of(tail), text_of(fenced_tail)
        self.fence = text_of(FENCE_OPENING)
        self.kept = [tail, fenced_tail]
        self.behind, self.every = reply.fence or (0, 0)
        for kind in EVENT_TYPES:
            head = b"PUB %b %b" % (kind.subject.encode(), reply.prefix)
            fenced = b"H" + head
            self.kept += head, fenced
            self.by_rtype[<uint8_t>kind.rtype] = Shape(
                text_of(head), text_of(fenced), ROW_BYTES[kind.rtype]
            )

    cdef inline int check(self, uint8_t rtype, Py_ssize_t row_bytes) except -1:
        """Raise `BadDataError` unless records of this rtype are so long."""
        if self.by_rtype[rtype].row_bytes != row_bytes:
            raise BadDataError(f"no event type has rtype {rtype:#04x} in {row_bytes} bytes")
        return 0

    cdef dict counted(self):
        """Return rows by rtype of this call."""
        return {kind: self.counts[kind] for kind in ROW_BYTES if self.counts[kind]}


cdef Shapes shapes_for(
    Shapes known, reply, Py_ssize_t max_payload_bytes, uint64_t first_sequence
):
    """Return those of a reply subject, the known ones where they are of the same, counts at 0."""
    if known is None or known.reply is not reply:
        known = Shapes(reply)
    memset(known.counts, 0, sizeof(known.counts))
    known.max_payload_bytes = max_payload_bytes
    known.next_fenced = NO_SEQUENCE
    if known.every:
        # The first from here on that follows a multiple of `every`.
        known.next_fenced = (first_sequence + known.every - 2) // known.every * known.every + 1
    return known


cdef class Blocks:
    """The blocks of one call, held while they are read, and what their instruments become.

    An instrument goes by a key whose lower 32 bits are its id; `make` makes a text of a key and a
    symbol.
    """

    cdef Source* sources
    cdef Py_ssize_t count
    cdef list tables, names, texts
    cdef dict unlisted
    cdef object make

    def __cinit__(self, blocks, names, kept, make):
        self.tables = [block.symbols for block in blocks]
        self.names = names
        self.texts = [kept.of(table) for table in self.tables]
        self.unlisted = {}
        self.make = make
        self.sources = <Source*>PyMem_Calloc(len(blocks), sizeof(Source))
        if self.sources == NULL:
            raise MemoryError
        for block in blocks:
            self.take(block.records)

    cdef int take(self, records) except -1:
        cdef Source* source = &self.sources[self.count]
        PyObject_GetBuffer(records, &source.rows, PyBUF_SIMPLE)
        source.name = text_of(self.names[self.count])
        self.count += 1
        if source.rows.itemsize < <Py_ssize_t>sizeof(Head):
            raise BadDataError(f"records of {source.rows.itemsize} bytes are no records")
        return 0

    def __dealloc__(self):
        for index in range(self.count):
            PyBuffer_Release(&self.sources[index].rows)
        PyMem_Free(self.sources)

    cdef Source* check(self, int64_t block, int64_t start, int64_t stop) except NULL:
        """Return the block that a run is in. Raises `IndexError` when the run is not in it."""
        if not 0 <= block < self.count:
            raise IndexError(f"a run is in block {block} of {self.count}")
        cdef Source* source = &self.sources[block]
        if not 0 <= start <= stop <= source.rows.len // source.rows.itemsize:
            raise IndexError(f"a run of rows {start} to {stop} is not in its block")
        return source

    cdef int find_instrument(self, Source* source, uint64_t key) except -1:
        """Make `source.instrument` the text of this instrument."""
        if source.instrument.data != NULL and source.key == key:
            return 0
        cdef dict texts = self.texts[source - self.sources]
        text = texts.get(key)
        if text is None:
            text = self.made(source - self.sources, key)
        source.instrument = text_of(text)
        source.key = key
        return 0

    cdef bytes made(self, Py_ssize_t index, uint64_t key):
        """Make a text, and keep it: over calls if the table lists the instrument."""
        cdef uint32_t instrument_id = <uint32_t>key
        symbol = self.tables[index].get(instrument_id)
        cdef dict texts = self.unlisted if symbol is None else self.texts[index]
        text = texts.get(key)
        if text is None:
            text = self.make(key, str(instrument_id) if symbol is None else symbol)
            texts[key] = text
        return text


# --- one event type each: what follows the envelope and the instrument -------------------------
# They copy bytes into room that `put_frame` has reserved, and touch no object of Python's.

cdef char* put_stock_trade(char* at, const StockTrade* row) noexcept:
    at = put_price(put(at, b'"price":'), row.price_e9)
    at = put_uint(put(at, b',"size":'), row.size)
    at = put_exchange(put(at, b',"exchange":'), row.exchange)
    at = put_conditions(put(at, b',"conditions":'), &row.conditions)
    at = put_sequence(put(at, b',"seq":'), row.live.sequence)
    return put_aggressor(put(at, b',"aggressor":'), row.aggressor)


cdef char* put_stock_quote(char* at, const StockQuote* row) noexcept:
    at = put_price_or_null(put(at, b'"bid_px":'), row.bid_px_e9)
    at = put_price_or_null(put(at, b',"ask_px":'), row.ask_px_e9)
    at = put_uint(put(at, b',"bid_sz":'), row.bid_sz)
    at = put_uint(put(at, b',"ask_sz":'), row.ask_sz)
    at = put_exchange(put(at, b',"bid_exch":'), row.bid_exch)
    at = put_exchange(put(at, b',"ask_exch":'), row.ask_exch)
    return put_sequence(put(at, b',"seq":'), row.live.sequence)


cdef char* put_option_trade(char* at, const OptionTrade* row) noexcept:
    at = put_price(put(at, b'"price":'), row.price_e9)
    at = put_uint(put(at, b',"size":'), row.size)
    at = put_price_or_null(put(at, b',"opt_bid":'), row.opt_bid_e9)
    at = put_price_or_null(put(at, b',"opt_ask":'), row.opt_ask_e9)
    at = put_aggressor(put(at, b',"aggressor":'), row.aggressor)
    at = put_conditions(put(at, b',"conditions":'), &row.conditions)
    return put_sequence(put(at, b',"seq":'), row.live.sequence)


cdef inline char* put_venue(char* at, uint16_t publisher_id) noexcept:
    if publisher_id < N_PUBLISHERS:
        return put_text(at, VENUES[publisher_id])
    return put(at, b"null")


cdef char* put_futures_trade(char* at, const FuturesTrade* row) noexcept:
    cdef int aggressor = (row.side == b"B") - (row.side == b"A")
    at = put_price(put(at, b'"price":'), row.price_e9)
    at = put_uint(put(at, b',"size":'), row.size)
    at = put_aggressor(put(at, b',"aggressor":'), aggressor)
    at = put_venue(put(at, b',"exchange":'), row.head.publisher_id)
    return put_uint(put(at, b',"conditions":null,"seq":'), row.sequence)


cdef inline char* put_side_of_level(char* at, int64_t px_e9, uint32_t size, bint is_bid) noexcept:
    at = put_price_or_null(put(at, b'{"bid_px":' if is_bid else b',"ask_px":'), px_e9)
    at = put(at, b',"bid_sz":' if is_bid else b',"ask_sz":')
    return put_uint(at, 0 if px_e9 == UNDEF_PRICE else size)


cdef inline char* put_written(char* at, char* base, Written* book, int first, int stop) noexcept:
    """Copy the text of levels `first` to `stop` of the last book, and note where it stands now."""
    cdef char* text = base + book.begins[first]
    cdef Py_ssize_t moved = at - text
    cdef Py_ssize_t size = book.begins[stop] - book.begins[first]
    cdef int index
    memcpy(at, text, size)
    for index in range(first, stop):
        book.begins[index] += moved
    return at + size


cdef inline bint is_written(const Written* book, const Mbp10* row, int index) noexcept:
    return memcmp(&book.levels[index], &row.levels[index], sizeof(Level)) == 0


cdef char* put_levels(char* at, char* base, Written* book, const Mbp10* row) noexcept:
    """Each level and a comma behind it; `base` is where the output begins."""
    cdef const Level* level
    cdef Py_ssize_t begins_at
    cdef int index
    cdef int first = 0
    cdef int stop = N_LEVELS
    if book.levels != NULL:
        while first < N_LEVELS and is_written(book, row, first):
            first += 1
        while stop > first and is_written(book, row, stop - 1):
            stop -= 1
        at = put_written(at, base, book, 0, first)
    for index in range(first, stop):
        begins_at = at - base
        level = &row.levels[index]
        at = put_side_of_level(at, level.bid_px_e9, level.bid_sz, True)
        at = put_side_of_level(at, level.ask_px_e9, level.ask_sz, False)
        at = put(at, b"},")
        book.begins[index] = begins_at
    at = put_written(at, base, book, stop, N_LEVELS)
    book.begins[N_LEVELS] = at - base
    book.levels = row.levels
    return at


cdef char* put_mbp10(char* at, char* base, Written* book, const Mbp10* row) noexcept:
    cdef bint is_snapshot = row.update.flags & FLAG_SNAPSHOT
    at = put_levels(put(at, b'"levels":['), base, book, row)
    at = put(at - 1, b'],"is_snapshot":true' if is_snapshot else b'],"is_snapshot":false')
    at = put_uint(put(at, b',"seq":'), row.update.sequence)
    at = put_action(put(at, b',"action":'), row.update.action)
    at = put_side(put(at, b',"side":'), row.update.side)
    at = put_price_or_null(put(at, b',"action_price":'), row.update.price_e9)
    return put_uint(put(at, b',"action_size":'), row.update.size)


cdef inline char* put_envelope(char* at, const Source* source, const char* row) noexcept:
    """The envelope and the instrument."""
    cdef uint8_t rtype = (<const Head*>row).rtype
    cdef bint is_live = rtype != MBP10 and rtype != FUTURES_TRADE
    at = put_uint(put(at, b'{"ts_event_ns":'), (<const Head*>row).ts_event_ns)
    at = put_uint(
        put(at, b',"ts_recv_ns":'),
        (<const Live*>row).ts_recv_ns if is_live else (<const FuturesTrade*>row).ts_recv_ns,
    )
    return put_text(put_text(at, source.name), source.instrument)


cdef inline char* put_event(char* at, char* base, Written* book, const char* row) noexcept:
    cdef uint8_t rtype = (<const Head*>row).rtype
    if rtype == MBP10:
        return put_mbp10(at, base, book, <const Mbp10*>row)
    if rtype == FUTURES_TRADE:
        return put_futures_trade(at, <const FuturesTrade*>row)
    if rtype == STOCK_TRADE:
        return put_stock_trade(at, <const StockTrade*>row)
    if rtype == STOCK_QUOTE:
        return put_stock_quote(at, <const StockQuote*>row)
    return put_option_trade(at, <const OptionTrade*>row)


# --- frames --------------------------------------------------------------------------------------

cdef inline Command put_command(
    char* at, Shapes shapes, const Shape* shape, uint64_t sequence
) noexcept:
    """Write a frame up to its payload, but for the eight digits of its length."""
    cdef bint fenced = sequence == shapes.next_fenced
    cdef Command command
    cdef uint64_t follows
    at = put_text(at, shape.fenced_head) if fenced else put_text(at, shape.head)
    put_four(at, <uint32_t>(sequence // 100000000))
    put_eight(at + 4, sequence % 100000000)
    at = put_text(at + 12, shapes.fenced_tail) if fenced else put_text(at + 12, shapes.tail)
    command.length_at = at
    command.payload = put(at + 8, b"\r\n")
    command.header_bytes = 0
    if fenced:
        shapes.next_fenced += shapes.every
        follows = shapes.behind + sequence - 1
        at = put_text(command.payload, shapes.fence)
        put_eight(at, <uint32_t>(follows // 100000000))
        put_eight(at + 8, follows % 100000000)
        command.payload = put(at + 16, b"\r\n\r\n")
        command.header_bytes = HEADER_BYTES
    return command


cdef int put_frame(
    Output output, Shapes shapes, const Source* source, const char* row, uint64_t sequence
) except -1:
    """Write one frame. The row is as long as its rtype says, and its instrument is found."""
    cdef const Shape* shape = &shapes.by_rtype[(<const Head*>row).rtype]
    cdef Py_ssize_t texts = shape.head.size + shapes.tail.size + source.name.size
    cdef char* start = output.reserve(LIMIT_BYTES + texts + source.instrument.size)
    cdef Command command = put_command(start, shapes, shape, sequence)
    cdef char* at = put_envelope(command.payload, source, row)
    at = put(put_event(at, start - output.size, &output.book, row), b"}")
    cdef Py_ssize_t payload_bytes = at - command.payload
    if payload_bytes > shapes.max_payload_bytes:
        check_payload(payload_bytes, shapes.max_payload_bytes)
    put_eight(command.length_at, command.header_bytes + <uint32_t>payload_bytes)
    output.size += put(at, b"\r\n") - start
    return 0


cdef int put_rows(
    Output output, Shapes shapes, Blocks blocks, Source* source, Rows rows
) except -1:
    """Write the frames of consecutive rows of one block."""
    cdef const char* row = <const char*>source.rows.buf + rows.start * source.rows.itemsize
    cdef const Head* head
    for index in range(rows.count):
        head = <const Head*>row
        shapes.check(head.rtype, source.rows.itemsize)
        blocks.find_instrument(
            source, head.instrument_id | <uint64_t>(head.rtype == OPTION_TRADE) << 32
        )
        put_frame(output, shapes, source, row, rows.sequence + index)
        shapes.counts[head.rtype] += 1
        row += source.rows.itemsize
    return 0


def json_of(key, symbol):
    """The JSON of an instrument; bit 32 of its key tells an option."""
    return (option_json(symbol) if key >> 32 else symbol_json(symbol)) + b","


cdef class FastJsonEncoder:
    """One JSON object per message, one message per row; equals `JsonEncoder` byte for byte."""

    cdef Shapes shapes
    cdef object texts
    cdef public Py_ssize_t max_payload_bytes

    def __cinit__(self):
        self.texts = TableTexts()
        self.max_payload_bytes = MAX_PAYLOAD_BYTES

    def encode(self, runs, reply, first_sequence, max_messages):
        """Encode rows from the front of `runs` into at most `max_messages` messages.

        Raises what `JsonEncoder.encode` raises, and `IndexError` for runs that are not in
        their blocks.
        """
        count = min(len(runs), max(max_messages, 0))
        check_sequences(first_sequence, count)
        output = Output(_expected_bytes(runs, count))
        self.shapes = shapes_for(self.shapes, reply, self.max_payload_bytes, first_sequence)
        names = [b',"source":"%b",' % one.source.value.encode() for one in runs.blocks]
        blocks = Blocks(runs.blocks, names, self.texts, json_of)
        cdef const int64_t[:] block, start, stop
        block, start, stop = runs.block_of_run, runs.start, runs.stop
        if not len(block) == len(start) == len(stop):
            raise IndexError("the arrays of the runs differ in length")
        cdef Rows rows = Rows(0, 0, first_sequence)
        cdef int64_t left = count
        cdef Source* source
        for run in range(len(block)):
            source = blocks.check(block[run], start[run], stop[run])
            rows.start, rows.count = start[run], min(stop[run] - start[run], left)
            put_rows(output, self.shapes, blocks, source, rows)
            rows.sequence += rows.count
            left -= rows.count
            if left == 0:
                break
        if left:
            raise IndexError(f"the runs have {left} rows less than keys")
        stops = ONE_EACH[:count] if count <= MANY else np.arange(1, count + 1, dtype=np.int64)
        return Frames([output.finish()], stops, self.shapes.counted())


def _expected_bytes(runs, count):
    """A guess of what `count` rows become, so that the output seldom has to grow."""
    widest = max((block.records.itemsize for block in runs.blocks), default=0)
    return LIMIT_BYTES + count * (256 + 2 * widest)


include "_packing.pxi"
