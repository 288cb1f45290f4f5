# What another process may see of an engine: its figures as bytes.
from libc.stdint cimport int64_t, uint8_t, uint32_t

from picker._core.credits cimport credit_rules_t, credit_t
from picker._core.endpoints cimport PK_TARGET_BYTES, endpoint_t

ctypedef struct seen_t:
    # One endpoint as the metrics page shows it.
    uint32_t slot
    uint32_t target_size
    uint8_t target[PK_TARGET_BYTES]
    double fleet_rate
    endpoint_t endpoint
    credit_rules_t rules
    credit_t credit
