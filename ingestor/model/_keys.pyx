# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""`ingestor.model.records.rises`, compiled: one pass over the records where they lie.

What is ``noexcept`` calls nothing of Python's, so it has no exception to lose (tested).
"""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "records are little-endian and read in place; NumPy does this work here"
    #endif
    """

cdef struct Key:
    uint64_t event
    uint64_t recv
    uint64_t sequence

cdef struct Layout:
    # Offsets within a record, and whether its sequence has eight bytes (else four).
    Py_ssize_t event
    Py_ssize_t recv
    Py_ssize_t sequence
    bint wide


cdef inline Key key_of(const char* row, const Layout* layout) noexcept:
    cdef Key key
    cdef uint32_t narrow
    memcpy(&key.event, row + layout.event, 8)
    memcpy(&key.recv, row + layout.recv, 8)
    if layout.wide:
        memcpy(&key.sequence, row + layout.sequence, 8)
    else:
        memcpy(&narrow, row + layout.sequence, 4)
        key.sequence = narrow
    return key


cdef inline bint steps_back(const Key* before, const Key* key) noexcept:
    if key.event != before.event:
        return key.event < before.event
    if key.recv != before.recv:
        return key.recv < before.recv
    return key.sequence < before.sequence


cdef bint all_rise(const char* row, Py_ssize_t count, Py_ssize_t stride, Layout layout) noexcept:
    cdef Key before, key
    cdef Py_ssize_t index
    before = key_of(row, &layout)
    for index in range(1, count):
        row += stride
        key = key_of(row, &layout)
        if steps_back(&before, &key):
            return False
        before = key
    return True


def rises(records):
    """Tell whether the keys of records, at least one and of little-endian fields, never decrease.

    Raises `KeyError` for records without the fields of a key.
    """
    fields = records.dtype.fields
    sequence, sequence_at = fields["sequence"]
    cdef Layout layout = Layout(
        fields["ts_event_ns"][1], fields["ts_recv_ns"][1], sequence_at, sequence.itemsize == 8
    )
    cdef Py_buffer rows
    PyObject_GetBuffer(records, &rows, PyBUF_STRIDED_RO)
    try:
        return all_rise(<const char*>rows.buf, rows.shape[0], rows.strides[0], layout)
    finally:
        PyBuffer_Release(&rows)
