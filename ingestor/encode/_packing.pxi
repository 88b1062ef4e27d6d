# The packed encoder, part of `ingestor.encode._fast`: many records of one subject per message.
#
# A message's header is made once for an instrument by `Headers`, as for the reference encoder, and
# copied from then on; only its number of rows differs. Few rows are copied behind it. Many are not:
# they are sent from where they lie, by a view between what is written before and after them.

cdef enum:
    # Bytes of a part before it grows, and from which on the next message begins another one.
    OPENING_BYTES = 4096
    PART_BYTES = 262144
    # Rows of so many bytes are sent from where they lie; fewer are copied faster than listed.
    VIEW_FROM_BYTES = 16384

cdef int64_t MOST_ROWS = MAX_ROWS
cdef int64_t MOST_ROW_BYTES = MAX_ROW_BYTES
cdef int64_t HEAD_BYTES = HEAD.size
cdef Py_ssize_t COUNT_AT = ROW_COUNT_AT
cdef uint64_t LAST_SEQUENCE = MAX_SEQUENCE


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


cdef class PackedBlocks:
    """The blocks of one call, and the headers of their messages."""

    cdef Blocks held
    cdef list blocks, kept
    cdef object headers

    def __cinit__(self, blocks, headers):
        self.blocks = list(blocks)
        self.held = Blocks(self.blocks)
        self.headers = headers
        self.kept = []

    cdef object records(self, const Source* source, Rows rows):
        block = self.blocks[source - self.held.sources]
        return block.records[rows.start:rows.start + rows.count]

    cdef Text header(self, Source* source, const Head* first, Rows rows, bint alone) except *:
        """Return the header of rows of one rtype, and if they are `alone` of one instrument."""
        if (
            alone
            and source.header.data != NULL
            and source.instrument_id == first.instrument_id
            and source.rtype == first.rtype
        ):
            return source.header
        if alone:
            ids = np.array([first.instrument_id], np.uint32)
        else:
            ids = np.unique(self.records(source, rows)["instrument_id"])
        block = self.blocks[source - self.held.sources]
        header = self.headers.template(EVENT_TYPE_BY_RTYPE[first.rtype], block, ids)
        self.kept.append(header)
        if alone:
            source.header = text_of(header)
            source.instrument_id, source.rtype = first.instrument_id, first.rtype
        return text_of(header)

    cdef int64_t fitting(
        self, Source* source, const Head* first, Rows rows, int64_t max_bytes
    ) except -1:
        """Return how many of these rows of one rtype fit a message of so many bytes."""
        block = self.blocks[source - self.held.sources]
        kind = EVENT_TYPE_BY_RTYPE[first.rtype]
        return fitting_rows(kind, block, self.records(source, rows), max_bytes)


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
    cdef Text header = blocks.header(source, first, rows[0], alone)
    if header.size + rows.count * row_bytes > most:
        if alone and header.size + row_bytes <= most:
            rows.count = (most - header.size) // row_bytes
        else:
            rows.count = rows_alike(row, row_bytes, blocks.fitting(source, first, rows[0], most),
                                    &alone)
            header = blocks.header(source, first, rows[0], alone)
    cdef Text data = Text(row, rows.count * row_bytes)
    cdef const Shape* shape = &shapes.by_rtype[first.rtype]
    cdef bint viewed = data.size >= VIEW_FROM_BYTES
    if parts.output.size >= PART_BYTES:
        parts.cut()
    cdef char* start = parts.output.reserve(
        shape.head.size + shapes.tail.size + FRAME_BYTES + header.size
        + (0 if viewed else data.size)
    )
    cdef char* length_at = put_command(start, shapes, shape, rows.sequence)
    put_eight(length_at, <uint32_t>(header.size + data.size))
    cdef char* payload = put(length_at + 8, b"\r\n")
    cdef char* at = put_text(payload, header)
    cdef uint32_t count = <uint32_t>rows.count
    memcpy(payload + COUNT_AT, &count, sizeof(count))
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
    cdef object headers
    cdef public Py_ssize_t max_payload_bytes

    def __cinit__(self):
        self.headers = Headers()
        self.max_payload_bytes = MAX_PAYLOAD_BYTES

    def encode(self, runs, reply, first_sequence, max_messages):
        """Encode rows from the front of `runs` into at most `max_messages` messages.

        Raises what `PackedEncoder.encode` raises, `IndexError` for runs that are not in their
        blocks, and `ValueError` for records with gaps between them.
        """
        check_sequences(first_sequence, 0)
        self.shapes = shapes_for(self.shapes, reply, self.max_payload_bytes)
        blocks = PackedBlocks(runs.blocks, self.headers)
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
