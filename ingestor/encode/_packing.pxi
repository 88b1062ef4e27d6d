# The packed encoder, part of `ingestor.encode._fast`: many records of one subject per message.
#
# A message's header is put together from what is ready: how headers of its rtype open, the source,
# and the entry of each instrument in its symbol table. Few rows are copied behind it. Many are not:
# they are sent from where they lie, by a view between what is written before and after them.

cdef enum:
    # Bytes of a part before it grows, and from which on the next message begins another one.
    OPENING_BYTES = 4096
    PART_BYTES = 262144
    # Rows of so many bytes are sent from where they lie; fewer are copied faster than listed.
    VIEW_FROM_BYTES = 16384
    # Rows of a message, hence at most its instruments; so few are sorted faster without a function.
    MOST_INSTRUMENTS = 2048
    FEW_INSTRUMENTS = 32
    # Fields of `Head`, and the multiple its size is of.
    ROW_COUNT_AT = 8
    HEADER_BYTES_AT = 12
    SYMBOL_COUNT_AT = 16
    SOURCE_BYTES_AT = 21
    HEADER_ALIGNMENT = 8

cdef int64_t MOST_ROWS = MAX_ROWS
cdef int64_t MOST_ROW_BYTES = MAX_ROW_BYTES
cdef int64_t HEAD_BYTES = HEAD.size
cdef uint64_t LAST_SEQUENCE = MAX_SEQUENCE
assert (MAX_ROWS, ALIGNMENT) == (MOST_INSTRUMENTS, HEADER_ALIGNMENT)

# How the headers of each rtype open, which `OPENING_TEXTS` keeps alive.
cdef Text[N_RTYPES] OPENINGS
OPENING_TEXTS = {kind.rtype: opening(kind) for kind in EVENT_TYPES}
for number, text in OPENING_TEXTS.items():
    OPENINGS[number] = text_of(text)


cdef class Parts:
    """What is to be sent: bytes that are written, and views of rows between them."""

    cdef list done
    cdef Output output

    def __cinit__(self):
        self.done = []
        self.output = Output(OPENING_BYTES)

    cdef int cut(self) except -1:
        """Begin another part, if anything is in this one."""
        if self.output.size:
            self.done.append(self.output.finish())
            self.output = Output(OPENING_BYTES)
        return 0

    cdef int put_view(self, view) except -1:
        self.cut()
        self.done.append(view)
        return 0


cdef int by_number(const void* one, const void* other) noexcept nogil:
    cdef uint32_t left = (<const uint32_t*>one)[0]
    cdef uint32_t right = (<const uint32_t*>other)[0]
    return (left > right) - (left < right)


cdef void sort_numbers(uint32_t* numbers, Py_ssize_t count) noexcept:
    cdef Py_ssize_t at, place
    cdef uint32_t number
    if count > FEW_INSTRUMENTS:
        qsort(numbers, count, sizeof(uint32_t), by_number)
        return
    for at in range(1, count):
        number, place = numbers[at], at
        while place and numbers[place - 1] > number:
            numbers[place] = numbers[place - 1]
            place -= 1
        numbers[place] = number


cdef Py_ssize_t numbers_in(
    uint32_t* numbers, const char* row, Py_ssize_t row_bytes, int64_t rows
) noexcept:
    """Write the instruments of rows, ascending and each once; returns how many there are."""
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t count = 0
    cdef Py_ssize_t at
    cdef uint32_t number
    for at in range(rows):
        number = (<const Head*>row).instrument_id
        if not found or numbers[found - 1] != number:
            numbers[found] = number
            found += 1
        row += row_bytes
    sort_numbers(numbers, found)
    for at in range(found):
        if not count or numbers[count - 1] != numbers[at]:
            numbers[count] = numbers[at]
            count += 1
    return count


cdef class PackedBlocks:
    """The blocks of one call, and the header of the message that is being written."""

    cdef Blocks held
    cdef list blocks
    cdef uint32_t numbers[MOST_INSTRUMENTS]
    cdef Text entries[MOST_INSTRUMENTS]
    cdef Py_ssize_t count, header_bytes

    def __cinit__(self, blocks, kept):
        self.blocks = list(blocks)
        names = [block.source.value.encode() for block in self.blocks]
        self.held = Blocks(self.blocks, names, kept, entry)

    cdef object records(self, const Source* source, Rows rows):
        block = self.blocks[source - self.held.sources]
        return block.records[rows.start:rows.start + rows.count]

    cdef int find_header(
        self, Source* source, const char* row, int64_t rows, bint alone
    ) except -1:
        """Find what the header of rows of one rtype consists of, and how long it is."""
        cdef Py_ssize_t at
        self.count = numbers_in(
            self.numbers, row, source.rows.itemsize, 1 if alone else rows
        )
        self.header_bytes = OPENINGS[(<const Head*>row).rtype].size + source.name.size
        for at in range(self.count):
            self.held.find_instrument(source, self.numbers[at])
            self.entries[at] = source.instrument
            self.header_bytes += source.instrument.size
        self.header_bytes += -self.header_bytes & (HEADER_ALIGNMENT - 1)
        return 0

    cdef char* put_header(
        self, char* start, const Source* source, uint8_t rtype, int64_t rows
    ) noexcept:
        """Write what `find_header` has found."""
        cdef Py_ssize_t at
        cdef char* end = put_text(put_text(start, OPENINGS[rtype]), source.name)
        put_number(start + ROW_COUNT_AT, <uint32_t>rows)
        put_number(start + HEADER_BYTES_AT, <uint32_t>self.header_bytes)
        put_number(start + SYMBOL_COUNT_AT, <uint32_t>self.count)
        (<uint8_t*>start)[SOURCE_BYTES_AT] = <uint8_t>source.name.size
        for at in range(self.count):
            end = put_text(end, self.entries[at])
        memset(end, 0, start + self.header_bytes - end)
        return start + self.header_bytes

    cdef int64_t fitting(
        self, Source* source, const Head* first, Rows rows, int64_t max_bytes
    ) except -1:
        """Return how many of these rows of one rtype fit a message of so many bytes."""
        block = self.blocks[source - self.held.sources]
        kind = EVENT_TYPE_BY_RTYPE[first.rtype]
        return fitting_rows(kind, block, self.records(source, rows), max_bytes)


cdef inline void put_number(char* at, uint32_t number) noexcept:
    memcpy(at, &number, sizeof(number))


cdef inline int64_t rows_alike(
    const char* row, Py_ssize_t row_bytes, int64_t limit, bint* alone
) noexcept:
    """How many rows, of at least one and at most `limit`, have the rtype of the first; and
    whether they have its instrument."""
    cdef const Head* first = <const Head*>row
    cdef const Head* head
    cdef int64_t count
    alone[0] = True
    for count in range(1, limit):
        row += row_bytes
        head = <const Head*>row
        if head.rtype != first.rtype:
            return count
        if head.instrument_id != first.instrument_id:
            alone[0] = False
    return limit


cdef int put_message(
    Parts parts, Shapes shapes, PackedBlocks blocks, Source* source, Rows* rows
) except -1:
    """Write one message of the first of these rows, and set `rows.count` to their number."""
    cdef Py_ssize_t row_bytes = source.rows.itemsize
    cdef const char* row = <const char*>source.rows.buf + rows.start * row_bytes
    cdef const Head* first = <const Head*>row
    shapes.check(first.rtype, row_bytes)
    cdef bint alone
    cdef int64_t most = shapes.max_payload_bytes
    rows.count = min(
        rows.count, max(1, min(MOST_ROWS, MOST_ROW_BYTES // row_bytes,
                               (most - HEAD_BYTES) // row_bytes))
    )
    rows.count = rows_alike(row, row_bytes, rows.count, &alone)
    blocks.find_header(source, row, rows.count, alone)
    if blocks.header_bytes + rows.count * row_bytes > most:
        if alone and blocks.header_bytes + row_bytes <= most:
            rows.count = (most - blocks.header_bytes) // row_bytes
        else:
            rows.count = rows_alike(row, row_bytes, blocks.fitting(source, first, rows[0], most),
                                    &alone)
            blocks.find_header(source, row, rows.count, alone)
    cdef Text data = Text(row, rows.count * row_bytes)
    cdef const Shape* shape = &shapes.by_rtype[first.rtype]
    cdef bint viewed = data.size >= VIEW_FROM_BYTES
    if parts.output.size >= PART_BYTES:
        parts.cut()
    cdef char* start = parts.output.reserve(
        shape.head.size + shapes.tail.size + FRAME_BYTES + blocks.header_bytes
        + (0 if viewed else data.size)
    )
    cdef Command command = put_command(start, shapes, shape, rows.sequence)
    put_eight(
        command.length_at, command.header_bytes + <uint32_t>(blocks.header_bytes + data.size)
    )
    cdef char* at = blocks.put_header(command.payload, source, first.rtype, rows.count)
    if viewed:
        parts.output.size += at - start
        parts.put_view(blocks.records(source, rows[0]).view(np.uint8).data)
        start = at = parts.output.reserve(2)
    else:
        at = put_text(at, data)
    parts.output.size += put(at, b"\r\n") - start
    shapes.counts[first.rtype] += rows.count
    return 0


cdef class FastPackedEncoder:
    """Many records of one subject per message; equals `PackedEncoder` byte for byte."""

    cdef Shapes shapes
    cdef object texts
    cdef public Py_ssize_t max_payload_bytes

    def __cinit__(self):
        self.texts = TableTexts()
        self.max_payload_bytes = MAX_PAYLOAD_BYTES

    def encode(self, runs, reply, first_sequence, max_messages):
        """Encode rows from the front of `runs` into at most `max_messages` messages.

        Raises what `PackedEncoder.encode` raises, `IndexError` for runs that are not in their
        blocks, and `ValueError` for records with gaps between them.
        """
        check_sequences(first_sequence, 0)
        self.shapes = shapes_for(self.shapes, reply, self.max_payload_bytes, first_sequence)
        blocks = PackedBlocks(runs.blocks, self.texts)
        parts = Parts()
        cdef const int64_t[:] block, start, stop
        block, start, stop = runs.block_of_run, runs.start, runs.stop
        if not len(block) == len(start) == len(stop):
            raise IndexError("the arrays of the runs differ in length")
        cdef int64_t most = min(len(runs), max(max_messages, 0))
        rows_stop = np.empty(most, np.int64)
        cdef int64_t[:] stops = rows_stop
        cdef int64_t messages = 0
        cdef int64_t done = 0
        cdef Rows rows
        cdef Source* source
        for run in range(len(block)):
            source = blocks.held.check(block[run], start[run], stop[run])
            rows = Rows(start[run], 0, 0)
            while rows.start < stop[run] and messages < most:
                rows.count, rows.sequence = stop[run] - rows.start, first_sequence + messages
                if rows.sequence > LAST_SEQUENCE:
                    check_sequences(first_sequence, messages + 1)
                put_message(parts, self.shapes, blocks, source, &rows)
                rows.start += rows.count
                done += rows.count
                stops[messages] = done
                messages += 1
            if messages == most:
                break
        if messages < most and done < len(runs):
            raise IndexError(f"the runs have {len(runs) - done} rows less than keys")
        parts.cut()
        return Frames(parts.done, rows_stop[:messages], self.shapes.counted())
