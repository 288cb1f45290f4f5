"""Model rewriting: from the model a client asks for to the one that serves it, and how often that was decided.

Invariants: at most one rule per model and one for all others, the first of each that was given; a table changes as a
    whole, and what it counted stays with the same object, model and target.
Cost: a decision is a hash of the name and O(targets of the rule); it allocates when the generic rule meets a new name.
Memory: owns everything in it, bounded by PK_REWRITE_* and by `limit` names that clients think of.
Threads: one at a time; the engine holds its lock.
Source: InferenceModelRewrite v1alpha2 of the Gateway API Inference Extension; precedence is settled by the caller.
"""
cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from picker._core.alloc cimport PK_E_LIMIT, PK_E_MISSING, PK_E_NOMEM, PK_OK, pk_alloc, pk_free, pk_grow
from picker._core.codec cimport buffer_append, buffer_free, codec_utf8
from picker._core.hashing cimport hash_xxh64
from picker._core.stats cimport PK_MODEL_BYTES, PK_MOST_MODELS

cdef enum:
    OTHER = 0                  # number of the models without a counter of their own

# --- C kernel: a set of names ---


cdef inline slice_t _text(const buffer_t* text, span_t span) noexcept nogil:
    cdef slice_t slice
    slice.data = text.data + span.at
    slice.size = span.size
    return slice


cdef inline bint _same(slice_t one, slice_t other) noexcept nogil:
    return one.size == other.size and (one.size == 0 or memcmp(one.data, other.data, one.size) == 0)


cdef int _write(buffer_t* text, slice_t name, span_t* span) noexcept nogil:
    """Append a name. PK_OK or PK_E_NOMEM."""
    span.at, span.size = <uint32_t>text.size, <uint32_t>name.size
    return buffer_append(text, name.data, name.size)


cdef void names_free(names_t* names) noexcept nogil:
    buffer_free(&names.text)
    pk_free(names.spans)
    pk_free(names.table)
    memset(names, 0, sizeof(names_t))


cdef uint32_t _place(const names_t* names, slice_t name) noexcept nogil:
    """Where in the table the name is, or would be."""
    cdef uint32_t at = <uint32_t>hash_xxh64(name.data, name.size, 0) & names.mask
    while names.table[at] and not _same(_text(&names.text, names.spans[names.table[at] - 1]), name):
        at = (at + 1) & names.mask
    return at


cdef int64_t names_find(const names_t* names, slice_t name) noexcept nogil:
    """Its number, or PK_E_MISSING."""
    cdef uint32_t number = names.table[_place(names, name)] if names.count else 0
    return <int64_t>number - 1 if number else PK_E_MISSING


cdef int _widen(names_t* names) noexcept nogil:
    """A table at most half full with one more name."""
    cdef uint32_t i, size = 2 * names.mask + 2 if names.table != NULL else 8
    cdef uint32_t* table
    if names.table != NULL and 2 * (names.count + 1) <= names.mask + 1:
        return PK_OK
    table = <uint32_t*>pk_alloc(size, sizeof(uint32_t))
    if table == NULL:
        return PK_E_NOMEM
    pk_free(names.table)
    names.table, names.mask = table, size - 1
    for i in range(names.count):
        table[_place(names, _text(&names.text, names.spans[i]))] = i + 1
    return PK_OK


cdef int64_t names_add(names_t* names, slice_t name) noexcept nogil:
    """Its number, a new one if need be; PK_E_LIMIT or PK_E_NOMEM if there can be none."""
    cdef int64_t number = names_find(names, name)
    if number >= 0:
        return number
    if names.count >= names.limit or names.text.size + name.size > UINT32_MAX:
        return PK_E_LIMIT
    if _widen(names) != PK_OK:
        return PK_E_NOMEM
    if pk_grow(<void**>&names.spans, &names.room, names.count + 1, sizeof(span_t)) != PK_OK:
        return PK_E_NOMEM
    if _write(&names.text, name, &names.spans[names.count]) != PK_OK:
        return PK_E_NOMEM
    names.table[_place(names, name)] = names.count + 1
    names.count += 1
    return names.count - 1


# --- C kernel: rules ---


cdef void rewrites_init(rewrites_t* rewrites, uint32_t limit) noexcept nogil:
    """No rules. The generic one will count by `limit` models (at most PK_MOST_MODELS), and all others as `other`."""
    memset(rewrites, 0, sizeof(rewrites_t))
    rewrites.models.limit = PK_REWRITE_RULES
    rewrites.seen.limit = limit + 1


cdef void rewrites_free(rewrites_t* rewrites) noexcept nogil:
    buffer_free(&rewrites.text)
    pk_free(rewrites.rules)
    pk_free(rewrites.choices)
    pk_free(rewrites.tallies)
    names_free(&rewrites.models)
    names_free(&rewrites.seen)
    memset(rewrites, 0, sizeof(rewrites_t))


cdef bint rewrites_any(const rewrites_t* rewrites) noexcept nogil:
    """Are there rules at all?"""
    return rewrites.models.count != 0 or rewrites.generic.count != 0


cdef int64_t _seen(rewrites_t* rewrites, slice_t model) noexcept nogil:
    """The row of a model in the generic rule's tallies, zeroed when new; that of `other` when it cannot have one."""
    cdef size_t targets = rewrites.generic.count, old = rewrites.seen.count
    cdef int64_t row
    if model.size > PK_MODEL_BYTES or not codec_utf8(model):
        return OTHER
    if pk_grow(<void**>&rewrites.tallies, &rewrites.tally_room, (old + 1) * targets, sizeof(uint64_t)) != PK_OK:
        return OTHER
    row = names_add(&rewrites.seen, model)
    if row == <int64_t>old:
        memset(rewrites.tallies + old * targets, 0, targets * sizeof(uint64_t))
    return row if row >= 0 else OTHER


cdef uint32_t _draw(const choice_t* choices, uint32_t count, uint64_t random) noexcept nogil:
    """Which one, in proportion to the weights."""
    cdef uint64_t mark = random % choices[count - 1].edge
    cdef uint32_t drawn = 0
    while choices[drawn].edge <= mark:
        drawn += 1
    return drawn


cdef int rewrites_choose(rewrites_t* rewrites, slice_t model, uint64_t random, buffer_t* target) noexcept nogil:
    """Decide and count: PK_OK and the target's name in `target`, PK_E_MISSING (`target` untouched) or PK_E_NOMEM.

    `model` and `target` are plain UTF-8; an empty model meets the generic rule only. `random`: 64 random bits.
    """
    cdef int64_t number = names_find(&rewrites.models, model)
    cdef const rule_t* rule = &rewrites.rules[number] if number >= 0 else &rewrites.generic
    cdef choice_t* choice
    cdef slice_t name
    cdef uint32_t drawn
    if rule.count == 0:
        return PK_E_MISSING
    drawn = _draw(rewrites.choices + rule.first, rule.count, random)
    choice = &rewrites.choices[rule.first + drawn]
    name = _text(&rewrites.text, choice.target)
    target.size = 0
    if buffer_append(target, name.data, name.size) != PK_OK:
        return PK_E_NOMEM
    if number >= 0:
        choice.count += 1
    else:
        number = _seen(rewrites, model)         # may move the tallies
        rewrites.tallies[<size_t>number * rule.count + drawn] += 1
    return PK_OK


# --- C kernel: making a table ---


cdef int _begin_rule(rewrites_t* rewrites, rule_t* rule, slice_t object_name) noexcept nogil:
    rule.first, rule.count = rewrites.choice_count, 0
    return _write(&rewrites.text, object_name, &rule.object_name)


cdef int _add_choice(rewrites_t* rewrites, rule_t* rule, slice_t target, uint64_t weight) noexcept nogil:
    """One more target of the rule added last."""
    cdef uint64_t before = rewrites.choices[rewrites.choice_count - 1].edge if rule.count else 0
    cdef bint is_generic = rule == &rewrites.generic
    cdef choice_t* choice
    if pk_grow(
        <void**>&rewrites.choices, &rewrites.choice_room, rewrites.choice_count + 1, sizeof(choice_t)
    ) != PK_OK:
        return PK_E_NOMEM
    choice = &rewrites.choices[rewrites.choice_count]
    choice.edge, choice.count = before + weight, 0
    choice.rule = PK_REWRITE_RULES if is_generic else rewrites.models.count - 1
    if _write(&rewrites.text, target, &choice.target) != PK_OK:
        return PK_E_NOMEM
    rewrites.choice_count += 1
    rule.count += 1
    return PK_OK


cdef int _add_rule(rewrites_t* rewrites, const slice_t* model, rule_t** rule) noexcept nogil:
    """Where the rule for `model` (NULL: any) is to be written; NULL if an earlier one stands in its way."""
    cdef int64_t number
    rule[0] = NULL
    if model == NULL:
        if rewrites.generic.count == 0:
            rule[0] = &rewrites.generic
        return PK_OK
    if names_find(&rewrites.models, model[0]) >= 0:
        return PK_OK
    if pk_grow(
        <void**>&rewrites.rules, &rewrites.rule_room, rewrites.models.count + 1, sizeof(rule_t)
    ) != PK_OK:
        return PK_E_NOMEM
    number = names_add(&rewrites.models, model[0])
    if number < 0:
        return <int>number
    rule[0] = &rewrites.rules[number]
    return PK_OK


cdef int _reserve_other(rewrites_t* rewrites) noexcept nogil:
    """The row for models without one of their own is there from the first."""
    cdef slice_t other
    cdef size_t targets = rewrites.generic.count
    if targets == 0:
        return PK_OK
    other.data, other.size = <const uint8_t*>b"other", 5
    if pk_grow(<void**>&rewrites.tallies, &rewrites.tally_room, targets, sizeof(uint64_t)) != PK_OK:
        return PK_E_NOMEM
    memset(rewrites.tallies, 0, targets * sizeof(uint64_t))
    return PK_OK if names_add(&rewrites.seen, other) == OTHER else PK_E_NOMEM


# --- C kernel: counts ---


cdef int64_t _choice_of(
    const rewrites_t* rewrites, const rule_t* rule, uint32_t place, slice_t target
) noexcept nogil:
    """Index of a target among those of the rule, or PK_E_MISSING. It is looked for at `place` first."""
    cdef uint32_t i, at
    for i in range(rule.count):
        at = (place + i) % rule.count
        if _same(_text(&rewrites.text, rewrites.choices[rule.first + at].target), target):
            return at
    return PK_E_MISSING


cdef bint _same_object(
    const rewrites_t* one, const rule_t* rule, const rewrites_t* other, const rule_t* other_rule
) noexcept nogil:
    return _same(_text(&one.text, rule.object_name), _text(&other.text, other_rule.object_name))


cdef void _carry_rule(
    rewrites_t* fresh, const rule_t* rule, const rewrites_t* old, const rule_t* old_rule
) noexcept nogil:
    cdef uint32_t i
    cdef int64_t found
    if not _same_object(fresh, rule, old, old_rule):
        return
    for i in range(rule.count):
        found = _choice_of(old, old_rule, i, _text(&fresh.text, fresh.choices[rule.first + i].target))
        if found >= 0:
            fresh.choices[rule.first + i].count = old.choices[old_rule.first + found].count


cdef void _carry_generic(rewrites_t* fresh, rewrites_t* old) noexcept nogil:
    """The names seen so far, and their counts for the targets that stay. Without memory counting starts anew."""
    cdef size_t targets = fresh.generic.count, were = old.generic.count, row
    cdef uint32_t i
    cdef int64_t found
    cdef names_t seen = fresh.seen
    if targets == 0 or were == 0 or not _same_object(fresh, &fresh.generic, old, &old.generic):
        return
    if pk_grow(<void**>&fresh.tallies, &fresh.tally_room, old.seen.count * targets, sizeof(uint64_t)) != PK_OK:
        return
    memset(fresh.tallies, 0, old.seen.count * targets * sizeof(uint64_t))
    for i in range(fresh.generic.count):
        found = _choice_of(old, &old.generic, i, _text(&fresh.text, fresh.choices[fresh.generic.first + i].target))
        for row in range(old.seen.count if found >= 0 else 0):
            fresh.tallies[row * targets + i] = old.tallies[row * were + <size_t>found]
    fresh.seen = old.seen
    old.seen = seen


cdef void rewrites_carry(rewrites_t* fresh, rewrites_t* old) noexcept nogil:
    """Take over what `old` counted; `old` is good for nothing but to be freed then."""
    cdef uint32_t i
    cdef int64_t number
    for i in range(fresh.models.count):
        number = names_find(&old.models, _text(&fresh.models.text, fresh.models.spans[i]))
        if number >= 0:
            _carry_rule(fresh, &fresh.rules[i], old, &old.rules[number])
    _carry_generic(fresh, old)


cdef bint rewrites_name(const rewrites_t* rewrites, uint32_t index, slice_t* name) noexcept nogil:
    """The index-th of the models that rules name, targets first; False behind the last."""
    if index < rewrites.choice_count:
        name[0] = _text(&rewrites.text, rewrites.choices[index].target)
        return True
    index -= rewrites.choice_count
    if index < rewrites.models.count:
        name[0] = _text(&rewrites.models.text, rewrites.models.spans[index])
        return True
    return False


cdef void _copy_names(tally_t* out, slice_t object_name, slice_t model, slice_t target) noexcept nogil:
    out.object_size, out.model_size = <uint32_t>object_name.size, <uint32_t>model.size
    out.target_size = <uint32_t>target.size
    memcpy(out.names, object_name.data, object_name.size)
    memcpy(out.names + PK_MODEL_BYTES, model.data, model.size)
    memcpy(out.names + 2 * PK_MODEL_BYTES, target.data, target.size)


cdef int rewrites_tally(const rewrites_t* rewrites, uint32_t index, tally_t* out) noexcept nogil:
    """The index-th counter: 1 and a copy, 0 if it has counted nothing, -1 behind the last."""
    cdef const choice_t* choice
    cdef const rule_t* rule = &rewrites.generic
    cdef slice_t model
    cdef size_t at = index
    if at < rewrites.choice_count:
        choice = &rewrites.choices[at]
        if choice.count == 0:
            return 0
        rule = &rewrites.rules[choice.rule]
        model = _text(&rewrites.models.text, rewrites.models.spans[choice.rule])
        out.count = choice.count
    else:
        at -= rewrites.choice_count
        if at >= <size_t>rewrites.seen.count * rule.count:
            return -1
        if rewrites.tallies[at] == 0:
            return 0
        choice = &rewrites.choices[rule.first + at % rule.count]
        model = _text(&rewrites.seen.text, rewrites.seen.spans[at // rule.count])
        out.count = rewrites.tallies[at]
    _copy_names(out, _text(&rewrites.text, rule.object_name), model, _text(&rewrites.text, choice.target))
    return 1


# --- Python face ---


cdef bytes _name(object text, str what):
    cdef bytes made = text.encode()
    if not 0 < len(made) <= PK_MODEL_BYTES:
        raise ValueError(f"a {what} has 1 to {PK_MODEL_BYTES} bytes: {text[:80]!r}")
    return made


cdef slice_t _slice(bytes name) noexcept:
    cdef slice_t slice
    slice.data, slice.size = <const uint8_t*>name, <size_t>len(name)
    return slice


cdef dict _weights(object targets):
    """Each target once, with a weight; weights are all given or none, and none or nothing but nought is alike."""
    cdef dict weights = {}
    given = [weight for _, weight in targets if weight is not None]
    if given and len(given) < len(targets):
        raise ValueError("either all targets have a weight or none")
    if not 1 <= len(targets) <= PK_REWRITE_TARGETS:
        raise ValueError(f"a rule has 1 to {PK_REWRITE_TARGETS} targets, not {len(targets)}")
    for target, weight in targets:
        if weight is not None and not 0 <= weight <= PK_REWRITE_WEIGHT:
            raise ValueError(f"a weight is 0 to {PK_REWRITE_WEIGHT}, not {weight}")
        name = _name(target, "target")
        weights[name] = weights.get(name, 0) + (weight if any(given) else 1)
    return weights


cdef int _raise(int code) except -1:
    if code == PK_E_LIMIT:
        raise OverflowError(f"at most {PK_REWRITE_RULES} models can have rules")
    if code == PK_E_NOMEM:
        raise MemoryError("no memory for rewrite rules")
    return 0


cdef int _fill_rule(rewrites_t* rewrites, object name, object model, object targets) except -1:
    cdef bytes object_name = _name(name, "name")
    cdef bytes asked = b"" if model is None else _name(model, "model")
    cdef dict weights = _weights(targets)
    cdef slice_t model_name = _slice(asked)
    cdef rule_t* rule
    if rewrites.choice_count + len(weights) > PK_REWRITE_CHOICES:
        raise OverflowError(f"at most {PK_REWRITE_CHOICES} targets in all rules")
    _raise(_add_rule(rewrites, NULL if model is None else &model_name, &rule))
    if rule == NULL:
        return 0
    _raise(_begin_rule(rewrites, rule, _slice(object_name)))
    for target, weight in weights.items():
        _raise(_add_choice(rewrites, rule, _slice(target), weight))
    return _raise(_reserve_other(rewrites)) if rule == &rewrites.generic else 0


cdef int rewrites_extend(rewrites_t* rewrites, object rules) except -1:
    """Add `rules` below those there are: (name of the object, model or None for any, ((target, weight or None), ...)).

    They stand by precedence: the first for a model counts. Raises ValueError, OverflowError or MemoryError; then
    there are no rules any more.
    """
    cdef uint32_t limit = rewrites.seen.limit
    try:
        for number, (name, model, targets) in enumerate(rules):
            try:
                _fill_rule(rewrites, name, model, targets)
            except ValueError as error:
                raise ValueError(f"rule {number}: {error}") from None
    except BaseException:
        rewrites_free(rewrites)
        rewrites_init(rewrites, limit - 1)
        raise
    return 0


cdef tuple tally_view(const tally_t* tally):
    """(name of the object, model asked for, target, decisions)."""
    cdef const uint8_t* names = tally.names
    return (
        names[:tally.object_size].decode(),
        names[PK_MODEL_BYTES:PK_MODEL_BYTES + tally.model_size].decode(),
        names[2 * PK_MODEL_BYTES:2 * PK_MODEL_BYTES + tally.target_size].decode(),
        tally.count,
    )


@cython.final
@cython.auto_pickle(False)
cdef class Rewrites:
    """Rules as they are made, a piece at a time, to be given to an engine.

    `limit`: models that the generic rule counts by name, 2**20 at most; further ones are `other`. `rules`: (name of the
    object, model or None for any, ((target, weight or None), ...)) each, by precedence: the first for a model counts.
    ValueError or OverflowError for what no rules can be, MemoryError.
    """

    def __cinit__(self, rules=(), *, uint32_t limit=1000):
        self._limit = min(limit, <uint32_t>PK_MOST_MODELS)
        rewrites_init(&self._rewrites, self._limit)
        rewrites_extend(&self._rewrites, rules)

    def __dealloc__(self):
        rewrites_free(&self._rewrites)

    def replace(self, rules) -> None:
        """Other rules from now on. What was counted for an object, a model and a target that stay is kept.

        ValueError or OverflowError for what no rules can be, MemoryError; the old ones then stay.
        """
        cdef rewrites_t fresh, old = self._rewrites
        rewrites_init(&fresh, self._limit)
        rewrites_extend(&fresh, rules)
        rewrites_carry(&fresh, &old)
        self._rewrites = fresh
        rewrites_free(&old)

    def extend(self, rules) -> None:
        """More rules, below those there are. ValueError, OverflowError or MemoryError; there are none then."""
        rewrites_extend(&self._rewrites, rules)

    def choose(self, bytes model not None, uint64_t random):
        """The model to ask for instead of `model` (plain UTF-8, b"" if there is none), or None; counts."""
        cdef buffer_t target
        cdef int code
        memset(&target, 0, sizeof(buffer_t))
        code = rewrites_choose(&self._rewrites, _slice(model), random, &target)
        try:
            _raise(code)
            return target.data[:target.size] if code == PK_OK else None
        finally:
            buffer_free(&target)

    def counts(self) -> list:
        """(name of the object, model asked for, target, decisions) for all that has been decided."""
        cdef tally_t tally
        cdef uint32_t index = 0
        cdef int found = rewrites_tally(&self._rewrites, 0, &tally)
        cdef list rows = []
        while found >= 0:
            if found:
                rows.append(tally_view(&tally))
            index += 1
            found = rewrites_tally(&self._rewrites, index, &tally)
        return rows

    def __len__(self):
        """Rules in force."""
        return self._rewrites.models.count + (self._rewrites.generic.count > 0)

    def _check(self) -> None:
        """Assert the invariants."""
        cdef const rewrites_t* rewrites = &self._rewrites
        cdef uint32_t i, choices = rewrites.generic.count
        _check_names(&rewrites.models)
        _check_names(&rewrites.seen)
        assert (rewrites.seen.count > 0) == (rewrites.generic.count > 0)
        assert rewrites.seen.count <= self._limit + 1
        assert rewrites.tally_room >= <size_t>rewrites.seen.count * rewrites.generic.count
        _check_rule(rewrites, &rewrites.generic, PK_REWRITE_RULES)
        for i in range(rewrites.models.count):
            assert rewrites.rules[i].count > 0
            _check_rule(rewrites, &rewrites.rules[i], i)
            choices += rewrites.rules[i].count
        assert choices == rewrites.choice_count <= PK_REWRITE_CHOICES


cdef int _check_names(const names_t* names) except -1:
    cdef uint32_t i, used = 0
    assert names.count <= names.limit and (names.count == 0 or 2 * names.count <= names.mask + 1)
    for i in range(names.count):
        assert names_find(names, _text(&names.text, names.spans[i])) == i
    for i in range(names.mask + 1 if names.table != NULL else 0):
        used += names.table[i] != 0
    assert used == names.count
    return 0


cdef int _check_rule(const rewrites_t* rewrites, const rule_t* rule, uint32_t number) except -1:
    cdef uint32_t i
    cdef uint64_t edge = 0
    for i in range(rule.first, rule.first + rule.count):
        assert rewrites.choices[i].rule == number
        assert rewrites.choices[i].edge >= edge
        edge = rewrites.choices[i].edge
    assert rule.count == 0 or edge > 0
    return 0
