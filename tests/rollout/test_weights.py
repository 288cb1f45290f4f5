"""Weights of routes and rewrites: what moves, what stays, and that a rollback leaves no trace."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from picker.errors import UsageError
from picker.rollout.machine import Plan
from picker.rollout.weights import are_same, current, expected, in_words, original_of, with_weights
from tests.rollout.objects import ADAPTERS, PLAN, pool_ref, rewrite, route, target

OLD, NEW = "default/old", "default/new"


def moved(found: dict[str, Any], plan: Plan, share: int) -> dict[str, Any]:
    """The object with its weights so, when nothing moved before."""
    changed = copy.deepcopy(found)
    changed["spec"]["rules"] = with_weights(found, plan, original_of(found, plan), share)
    return changed


def test_the_new_pool_is_added_to_every_rule_of_the_old_one() -> None:
    found = route([pool_ref("old")], [pool_ref("other")], [pool_ref("old", port=8000)])
    rules = moved(found, PLAN, 10)["spec"]["rules"]
    assert rules[0]["backendRefs"] == [pool_ref("old", weight=90), pool_ref("new", weight=10)]
    assert rules[1] == found["spec"]["rules"][1]
    assert rules[2]["backendRefs"] == [pool_ref("old", port=8000, weight=90), pool_ref("new", port=8000, weight=10)]
    assert rules[0]["matches"] == found["spec"]["rules"][0]["matches"]


def test_a_rollback_restores_all_but_a_backend_without_weight() -> None:
    """Which stays, so that gateways do not cut off what it still answers."""
    for found, left in (
        (route([pool_ref("old")], [pool_ref("other")]), [pool_ref("new", weight=0)]),
        (route([pool_ref("old", weight=7), pool_ref("new", weight=0), pool_ref("third", weight=3)]), []),
    ):
        original = original_of(found, PLAN)
        changed = found
        for share in (10, 50, 100, 0):
            changed = {**changed, "spec": {**changed["spec"], "rules": with_weights(changed, PLAN, original, share)}}
        refs = changed["spec"]["rules"][0]["backendRefs"]
        before = found["spec"]["rules"][0]["backendRefs"]
        assert refs == [*before, *left]
        assert changed["spec"]["rules"][1:] == found["spec"]["rules"][1:]
        assert are_same(current(changed, PLAN, original), current(found, PLAN, original))


def test_what_others_have_stays_their_part() -> None:
    found = route([pool_ref("old", weight=3), {"name": "svc", "port": 80, "weight": 1}])
    weights = expected(found, PLAN, original_of(found, PLAN), 50)[0]
    assert weights == {OLD: 3, "Service default/svc:80": 2, NEW: 3}


def test_a_rule_that_sends_the_old_pool_nothing_is_left_alone() -> None:
    found = route([pool_ref("old", weight=0), pool_ref("third", weight=1)], [pool_ref("old")])
    assert list(original_of(found, PLAN)) == [1]


def test_pools_of_another_namespace_are_told_apart() -> None:
    plan = replace(PLAN, old="models/old", new="models/new", new_group="inference.networking.x-k8s.io")
    found = route([pool_ref("old", namespace="models"), pool_ref("old", weight=5)])
    refs = moved(found, plan, 10)["spec"]["rules"][0]["backendRefs"]
    assert refs[2] == {**pool_ref("new", namespace="models", weight=1), "group": "inference.networking.x-k8s.io"}
    assert [ref["weight"] for ref in refs] == [9, 50, 1]


def test_one_side_twice_in_a_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="rule 0 of the HTTPRoute names default/old twice"):
        original_of(route([pool_ref("old"), pool_ref("old")]), PLAN)


def test_targets_of_a_rewrite_have_no_weight_of_0() -> None:
    found = rewrite(target("review-v1"))
    assert original_of(rewrite(target("review-v1"), model="another"), ADAPTERS) == {}
    targets = [moved(found, ADAPTERS, share)["spec"]["rules"][0]["targets"] for share in (0, 10, 100)]
    assert targets == [
        [target("review-v1")],
        [target("review-v1", weight=90), target("review-v2", weight=10)],
        [target("review-v2", weight=100)],
    ]


def test_the_old_target_comes_back_after_100_per_cent() -> None:
    found = rewrite(target("review-v1", weight=5))
    original = original_of(found, ADAPTERS)
    everything = {**found, "spec": {**found["spec"], "rules": with_weights(found, ADAPTERS, original, 100)}}
    assert with_weights(everything, ADAPTERS, original, 0) == found["spec"]["rules"]


def test_what_somebody_else_did_is_seen() -> None:
    found = route([pool_ref("old")])
    original = original_of(found, PLAN)
    ours = expected(found, PLAN, original, 10)
    changed = moved(found, PLAN, 10)
    assert are_same(current(changed, PLAN, original), ours)
    changed["spec"]["rules"][0]["backendRefs"][1]["weight"] = 60
    assert not are_same(current(changed, PLAN, original), ours)
    changed["spec"]["rules"] = []
    assert in_words(current(changed, PLAN, original)) == "rule 0: gone"


def test_what_somebody_adds_beside_the_weights_stays() -> None:
    found = route([pool_ref("old")])
    original = original_of(found, PLAN)
    changed = moved(found, PLAN, 10)
    changed["spec"]["rules"][0]["timeouts"] = {"request": "5s"}
    changed["spec"]["rules"][0]["backendRefs"][1]["filters"] = [{"type": "RequestMirror"}]
    rules = with_weights(changed, PLAN, original, 50)
    assert rules[0]["timeouts"] == {"request": "5s"}
    assert rules[0]["backendRefs"][1] == pool_ref("new", weight=50, filters=[{"type": "RequestMirror"}])


@given(
    st.integers(1, 3000), st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 3000)), st.integers(1, 100)
)
@settings(max_examples=200, deadline=None)
def test_shares_come_out_as_asked(old: int, others: dict[str, int], share: int) -> None:
    found = route([pool_ref("old", weight=old), *(pool_ref(name, weight=weight) for name, weight in others.items())])
    now = expected(found, PLAN, original_of(found, PLAN), share)[0]
    both = now[OLD] + now[NEW]
    assert now[NEW] * 100 == both * share
    assert both * (old + sum(others.values())) == old * sum(now.values())


@given(st.integers(1, 1_000_000), st.integers(0, 1_000_000), st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_weights_an_api_server_would_not_take_are_rounded(old: int, other: int, share: int) -> None:
    found = route([pool_ref("old", weight=old), pool_ref("other", weight=other)])
    now = expected(found, PLAN, original_of(found, PLAN), share)[0]
    assert all(isinstance(weight, int) and 0 <= weight <= 1_000_000 for weight in now.values())
    assert (now[NEW] > 0, now[OLD] > 0, now["default/other"] > 0) == (True, share < 100, other > 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["old", "InferencePool", "review", "review-v1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["spec", "rules", "backendRefs", "targets", "name", "kind", "matches", "model", "value", "weight"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["spec", "metadata"]), json_values))
@settings(max_examples=300, deadline=None)
def test_whatever_an_object_holds_nothing_but_usage_errors_come_of_it(found: dict[str, Any]) -> None:
    for plan in (PLAN, ADAPTERS):
        try:
            original = original_of(found, plan)
            current(found, plan, original)
            with_weights(found, plan, original, 10)
        except UsageError:
            continue
