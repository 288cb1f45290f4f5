# Compiled scheduling pipeline: filters, scorers, picker.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from picker._core.endpoints cimport endpoints_t

# What a step does. The names of the peers' plugins are in picker/policy/native.py.
cdef enum:
    PK_FILTER_LABELS = 1       # bits: label selectors the endpoint must match, all of them
    PK_FILTER_PREFIX = 2       # params: least match ratio, chance to explore, greatest penalty s, tokens per second
    PK_FILTER_PLUGIN = 3       # a Python filter: the pipeline stops here and is resumed
    PK_FILTER_LOAD = 4         # params: most waiting, KV usage, requests, tokens booked; 0 = any; none left: all stay
    PK_SCORE_QUEUE = 10
    PK_SCORE_RUNNING = 11
    PK_SCORE_KV = 12
    PK_SCORE_PREFIX = 13       # params: weight of match length, scale in tokens
    PK_SCORE_LORA = 14
    PK_SCORE_LOAD_AWARE = 15   # params: threshold in requests
    PK_SCORE_TOKEN_LOAD = 16   # params: threshold in tokens
    PK_SCORE_ACTIVE = 17       # params: idle threshold in requests, greatest score of a busy endpoint
    PK_SCORE_SESSION = 18
    PK_SCORE_TTFT = 19         # params: weights of a resident token, an unknown request, a token to compute
    PK_SCORE_PLUGIN = 20       # a Python scorer
    PK_PICK_MAX = 30
    PK_PICK_WEIGHTED = 31
    PK_PICK_RANDOM = 32
    PK_PICK_PLUGIN = 33        # a Python picker

cdef enum:
    PK_NEED_PLUGIN = 1         # frame.step is a Python plugin's: run it, then resume behind it
    PK_MAX_STEPS = 32
    PK_MAX_CHOSEN = 8
    PK_STEP_PARAMS = 4

ctypedef struct step_t:
    int kind
    double weight              # scorers only; never negative
    double params[PK_STEP_PARAMS]
    uint64_t bits

ctypedef struct pipeline_t:
    step_t steps[PK_MAX_STEPS]
    uint32_t count
    uint32_t wanted            # endpoints to choose, 1..PK_MAX_CHOSEN

ctypedef struct frame_t:
    # One run of the pipeline. Rows of `scores` belong to steps, columns to candidates.
    uint32_t* slots            # candidates, in slot order
    double* totals             # weighted sums
    double* scores             # PK_MAX_STEPS rows of `capacity` columns; only scorers' mean anything
    size_t capacity            # candidates there is room for
    uint32_t count             # candidates
    uint32_t step              # where to resume
    # the request
    const uint32_t* match      # by slot: leading index blocks held; NULL = no prompt
    uint32_t block_tokens      # tokens per index block
    int64_t prompt_tokens      # never negative
    uint64_t adapter           # hash of the model name
    uint64_t session           # hash of the session token; 0 = none
    int64_t now_ns
    # the answer: slots in order of preference
    uint32_t chosen[PK_MAX_CHOSEN]
    uint32_t chosen_count
    double best                # total of the first choice
    double runner_up           # greatest total among the others; -1 = there is none

cdef int frame_reserve(frame_t* frame, uint32_t candidates) noexcept nogil
cdef void frame_free(frame_t* frame) noexcept nogil
cdef void frame_keep(frame_t* frame, uint32_t index, uint32_t place) noexcept nogil
cdef void frame_skip(frame_t* frame, const pipeline_t* pipeline, uint64_t* random) noexcept nogil
cdef int64_t frame_uncached(const frame_t* frame, uint32_t slot) noexcept nogil
cdef uint64_t random_next(uint64_t* state) noexcept nogil
cdef double random_unit(uint64_t* state) noexcept nogil
cdef int pipeline_run(
    const pipeline_t* pipeline, const endpoints_t* table, frame_t* frame, uint64_t* random
) noexcept nogil


cdef int pipeline_fill(pipeline_t* pipeline, object steps, uint32_t wanted) except -1
cdef int frame_answer(frame_t* frame, const pipeline_t* pipeline, object answer) except -1


cdef class Pipeline:
    cdef pipeline_t _pipeline
    cdef frame_t _frame
    cdef endpoints_t _table
    cdef uint32_t* _match
    cdef uint64_t _random

    cdef int _add(self, int number, dict described) except -1
    cdef int _ask(self, plugin) except -1
    cdef void _start(self) noexcept
