# Prompts into the hash chain, from the tape.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from picker._core.digests cimport places_t
from picker._core.hashing cimport chain_feed, chain_t
from picker._core.scan cimport scan_t

cdef enum:
    PK_MESSAGE_MARK = 0x1E     # before each message, between prompts
    PK_PART_MARK = 0x1F        # before content, each part of it, and the other members


cdef inline void feed_mark(chain_t* chain, uint8_t mark) noexcept nogil:
    chain_feed(chain, &mark, 1)


cdef void feed_value(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil
cdef void feed_said(const scan_t* scan, uint32_t index, const char* who, size_t size, chain_t* chain) noexcept nogil
cdef void feed_messages(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil
cdef void feed_prompt(const scan_t* scan, uint32_t index, places_t* places, chain_t* chain) noexcept nogil
cdef void feed_media(const scan_t* scan, uint32_t index, chain_t* chain) noexcept nogil
cdef void find_places(const scan_t* scan, uint32_t index, places_t* places) noexcept nogil
