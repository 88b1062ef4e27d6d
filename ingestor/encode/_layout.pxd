"""The dtypes of `ingestor.model.records` as packed C structs, for records that are read in place."""

from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
)

cdef enum:
    FUTURES_TRADE = 0x00
    MBP10 = 0x0A
    STOCK_TRADE = 0xE0
    STOCK_QUOTE = 0xE1
    OPTION_TRADE = 0xE2
    N_RTYPES = 256
    N_LEVELS = 10
    N_CONDITIONS = 8
    FLAG_SNAPSHOT = 32
    UNDEF_EXCHANGE = -1

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "records are little-endian and read in place; the reference encoder serves here"
    #endif
    #define UNDEF_PRICE INT64_MAX
    #define UNDEF_SEQUENCE UINT64_MAX
    """
    const int64_t UNDEF_PRICE
    const uint64_t UNDEF_SEQUENCE

cdef packed struct Head:
    uint8_t length
    uint8_t rtype
    uint16_t publisher_id
    uint32_t instrument_id
    uint64_t ts_event_ns

cdef packed struct Level:
    int64_t bid_px_e9
    int64_t ask_px_e9
    uint32_t bid_sz
    uint32_t ask_sz
    uint32_t bid_ct
    uint32_t ask_ct

cdef packed struct FuturesTrade:
    Head head
    int64_t price_e9
    uint32_t size
    uint8_t action
    uint8_t side
    uint8_t flags
    uint8_t depth
    uint64_t ts_recv_ns
    int32_t ts_in_delta_ns
    uint32_t sequence

cdef packed struct Mbp10:
    FuturesTrade update
    Level levels[N_LEVELS]

cdef packed struct Live:
    Head head
    uint64_t ts_recv_ns
    uint64_t sequence

cdef packed struct Conditions:
    uint8_t count
    uint16_t items[N_CONDITIONS]

cdef packed struct StockTrade:
    Live live
    int64_t price_e9
    uint32_t size
    int16_t exchange
    int8_t aggressor
    Conditions conditions

cdef packed struct StockQuote:
    Live live
    int64_t bid_px_e9
    int64_t ask_px_e9
    uint32_t bid_sz
    uint32_t ask_sz
    int16_t bid_exch
    int16_t ask_exch
    uint32_t reserved

cdef packed struct OptionTrade:
    Live live
    int64_t price_e9
    int64_t opt_bid_e9
    int64_t opt_ask_e9
    uint32_t size
    int16_t exchange
    int8_t aggressor
    Conditions conditions
