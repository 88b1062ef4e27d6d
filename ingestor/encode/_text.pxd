# cython: cdivision=True
"""Integers, prices and literals as text.

Every ``put_*`` writes at `at`, without looking at where the buffer ends (`Output.reserve` has
seen to that), and returns where the next byte goes.
"""

from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from ingestor.encode._layout cimport (
    N_CONDITIONS, UNDEF_EXCHANGE, UNDEF_PRICE, UNDEF_SEQUENCE, Conditions
)

cdef extern from *:
    """
    static const char PAIRS[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
        "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
        "8081828384858687888990919293949596979899";
    """
    const char PAIRS[]

cdef struct Text:
    const char* data
    Py_ssize_t size


cdef inline char* put(char* at, const char* literal) noexcept:
    cdef size_t size = strlen(literal)
    memcpy(at, literal, size)
    return at + size


cdef inline char* put_text(char* at, Text text) noexcept:
    memcpy(at, text.data, text.size)
    return at + text.size


cdef inline void put_four(char* at, uint32_t value) noexcept:
    memcpy(at, PAIRS + 2 * (value // 100), 2)
    memcpy(at + 2, PAIRS + 2 * (value % 100), 2)


cdef inline void put_eight(char* at, uint32_t value) noexcept:
    put_four(at, value // 10000)
    put_four(at + 4, value % 10000)


cdef inline char* put_below_1e4(char* at, uint32_t value) noexcept:
    if value >= 1000:
        put_four(at, value)
        return at + 4
    if value >= 100:
        at[0] = 48 + value // 100
        memcpy(at + 1, PAIRS + 2 * (value % 100), 2)
        return at + 3
    if value >= 10:
        memcpy(at, PAIRS + 2 * value, 2)
        return at + 2
    at[0] = 48 + value
    return at + 1


cdef inline char* put_below_1e8(char* at, uint32_t value) noexcept:
    if value < 10000:
        return put_below_1e4(at, value)
    at = put_below_1e4(at, value // 10000)
    put_four(at, value % 10000)
    return at + 4


cdef inline char* put_uint(char* at, uint64_t value) noexcept:
    if value < 100000000:
        return put_below_1e8(at, <uint32_t>value)
    at = put_uint_above(at, value // 100000000)
    put_eight(at, value % 100000000)
    return at + 8


cdef inline char* put_uint_above(char* at, uint64_t value) noexcept:
    if value < 100000000:
        return put_below_1e8(at, <uint32_t>value)
    at = put_below_1e4(at, <uint32_t>(value // 100000000))
    put_eight(at, value % 100000000)
    return at + 8


cdef inline char* put_int(char* at, int64_t value) noexcept:
    if value < 0:
        at[0] = b"-"
        return put_uint(at + 1, -<uint64_t>value)
    return put_uint(at, <uint64_t>value)


cdef inline char* put_price(char* at, int64_t price_e9) noexcept:
    cdef uint64_t magnitude = <uint64_t>price_e9
    if price_e9 < 0:
        at[0] = b"-"
        at += 1
        magnitude = -magnitude
    at = put_uint(at, magnitude // 1000000000)
    at[0] = b"."
    return put_places(at + 1, magnitude % 1000000000)


cdef inline char* put_places(char* at, uint32_t fraction_e9) noexcept:
    """Nine decimal places without the zeros at their end, but at least one."""
    cdef char* end
    if fraction_e9 % 10000000 == 0:
        memcpy(at, PAIRS + 2 * (fraction_e9 // 10000000), 2)
        end = at + 2
    else:
        at[0] = 48 + fraction_e9 // 100000000
        put_eight(at + 1, fraction_e9 % 100000000)
        end = at + 9
    while end > at + 1 and (end - 1)[0] == b"0":
        end -= 1
    return end


cdef inline char* put_price_or_null(char* at, int64_t price_e9) noexcept:
    return put(at, b"null") if price_e9 == UNDEF_PRICE else put_price(at, price_e9)


cdef inline char* put_exchange(char* at, int16_t exchange) noexcept:
    return put(at, b"null") if exchange == UNDEF_EXCHANGE else put_int(at, exchange)


cdef inline char* put_sequence(char* at, uint64_t sequence) noexcept:
    return put(at, b"null") if sequence == UNDEF_SEQUENCE else put_uint(at, sequence)


cdef inline char* put_aggressor(char* at, int aggressor) noexcept:
    if aggressor == 1:
        return put(at, b"1")
    return put(at, b"-1") if aggressor == -1 else put(at, b"0")


cdef inline char* put_conditions(char* at, const Conditions* conditions) noexcept:
    at = put(at, b"[")
    for index in range(min(conditions.count, <uint8_t>N_CONDITIONS)):
        if index:
            at = put(at, b",")
        at = put_uint(at, conditions.items[index])
    return put(at, b"]")


cdef inline char* put_letter(char* at, uint8_t letter) noexcept:
    at[0] = at[2] = b'"'
    at[1] = <char>letter
    return at + 3


cdef inline char* put_action(char* at, uint8_t action) noexcept:
    if action in (b"A", b"C", b"M", b"T", b"R", b"F"):
        return put_letter(at, action)
    return put(at, b"null")


cdef inline char* put_side(char* at, uint8_t side) noexcept:
    return put_letter(at, side) if side in (b"A", b"B", b"N") else put(at, b"null")
