# Who there is in a schedule: bands, flows, groups, lanes.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from picker._core.codec cimport slice_t
from picker._core.schedule cimport band_rules_t, band_t, flow_t, lane_t, queued_t, schedule_t

cdef void lanes_init(schedule_t* schedule, uint32_t most_flows) noexcept nogil
cdef void lanes_free(schedule_t* schedule) noexcept nogil
cdef int lanes_reserve_bands(schedule_t* schedule, uint32_t bands) noexcept nogil
cdef int lanes_reserve(schedule_t* schedule, band_t* band, const queued_t* item) noexcept nogil
cdef int lanes_reserve_order(const schedule_t* schedule, const band_t* band, int order) noexcept nogil

cdef band_t* lanes_band(const schedule_t* schedule, int32_t priority) noexcept nogil
cdef band_t* lanes_add_band(schedule_t* schedule, int32_t priority, const band_rules_t* rules) noexcept nogil
cdef void lanes_drop_band(schedule_t* schedule, band_t* band) noexcept nogil

cdef flow_t* lanes_wake_flow(schedule_t* schedule, band_t* band, uint64_t id, slice_t name) noexcept nogil
cdef void lanes_rest_flow(schedule_t* schedule, band_t* band, flow_t* flow, uint64_t turn) noexcept nogil
cdef void lanes_forget_idle(schedule_t* schedule, band_t* band) noexcept nogil
cdef void lanes_forget_all_idle(schedule_t* schedule, band_t* band) noexcept nogil
cdef lane_t* lanes_lane(schedule_t* schedule, band_t* band, flow_t* flow, uint64_t id) noexcept nogil
cdef void lanes_drop(schedule_t* schedule, lane_t* lane) noexcept nogil
