"""Pods and a pool to endpoints; and a table of them, against working everything out again each time."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.kube.objects import Pod, PoolSpec
from picker.kube.pods import Difference, EndpointTable, active_ports, endpoints_of
from picker.types import Endpoint


def pod(name: str = "a", address: str = "10.0.0.1", **more: Any) -> Pod:
    given = {"uid": f"uid-{name}", "labels": {"app": "m"}, "is_ready": True, "namespace": "n"} | more
    return Pod(name=name, address=address, **given)


def pool(*ports: int, **labels: str) -> PoolSpec:
    return PoolSpec(namespace="n", name="pool", ports=ports or (8000,), labels=labels or {"app": "m"})


def targets(made: tuple[Endpoint, ...]) -> list[str]:
    return [endpoint.target for endpoint in made]


# --- a pod ---


def test_a_ready_pod_is_an_endpoint() -> None:
    labels = {"app": "m", "llm-d.ai/role": "decode", "llm-d.ai/engine-type": "sglang"}
    (made,) = endpoints_of(pod(labels=labels, restarts=2), pool())
    assert made == Endpoint(
        name="a", namespace="n", address="10.0.0.1", port=8000, labels=labels, incarnation="uid-a/2"
    )


@pytest.mark.parametrize(
    "other",
    [
        pod(is_ready=False),
        pod(address=""),
        pod(labels={}),
        pod(labels={"app": "other"}),
        pod(active_ports=""),
        pod(active_ports="9000"),
    ],
    ids=["not ready", "no address", "no labels", "other labels", "drained", "another port"],
)
def test_these_are_none(other: Pod) -> None:
    assert endpoints_of(other, pool()) == ()


def test_all_labels_of_the_pool_must_match() -> None:
    assert endpoints_of(pod(labels={"app": "m", "tier": "b"}), pool(app="m", tier="a")) == ()
    assert endpoints_of(pod(labels={"app": "m", "tier": "a", "x": "y"}), pool(app="m", tier="a"))


def test_without_labels_the_server_has_chosen() -> None:
    spec = PoolSpec(namespace="n", name="picker", ports=(8000,))
    assert targets(endpoints_of(pod(labels={}), spec)) == ["10.0.0.1:8000"]


def test_each_port_is_an_endpoint_of_its_own() -> None:
    ports = tuple(range(8000, 8008))
    made = endpoints_of(pod(), pool(*ports))
    assert [(each.name, each.port) for each in made] == [(f"a-rank-{rank}", 8000 + rank) for rank in range(8)]
    assert {each.incarnation for each in made} == {"uid-a/0"}


def test_addresses_may_be_of_either_family() -> None:
    assert targets(endpoints_of(pod(address="fd00:0::1"), pool(8000, 8001))) == ["[fd00::1]:8000", "[fd00::1]:8001"]


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="not an IPv4 or IPv6 literal"):
        endpoints_of(pod(address="example.com"), pool())


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (None, (8000, 8001, 8002)),
        ("8000,8002", (8000, 8002)),
        (" 8002 , 8000 ", (8000, 8002)),
        ("8001,9999", (8001,)),
        ("", ()),
        ("  ", ()),
        ("9999", ()),
    ],
)
def test_an_annotation_leaves_some_ports(said: str | None, left: tuple[int, ...]) -> None:
    assert active_ports(said, (8000, 8001, 8002)) == left


@pytest.mark.parametrize("said", ["8000;8001", "all", "8000,", "0", "65536", "-1", "８000", "8000 8001"])
def test_an_annotation_that_is_no_list_counts_as_none(said: str) -> None:
    with pytest.raises(ValueError, match="is not a port"):
        active_ports(said, (8000, 8001))
    assert len(endpoints_of(pod(active_ports=said), pool(8000, 8001))) == 2


def test_ranks_keep_their_names_whichever_are_active() -> None:
    made = endpoints_of(pod(active_ports="8002,8001"), pool(8000, 8001, 8002))
    assert [each.name for each in made] == ["a-rank-1", "a-rank-2"]


# --- the table ---


def table(spec: PoolSpec | None = None, told: tuple[Endpoint, ...] = (), **pods: Pod) -> EndpointTable:
    made = EndpointTable(spec or pool(), told)
    made.replace(spec or pool(), {("n", name): each for name, each in pods.items()})
    return made


def confirmed(made: EndpointTable) -> Difference:
    difference = made.difference()
    made.confirm(difference)
    assert made.difference() == ((), ())
    return difference


def test_a_list_is_one_difference_to_what_was_told() -> None:
    made = table(a=pod("a", "10.0.0.1"), b=pod("b", "10.0.0.2"))
    assert (confirmed(made).gone, len(made.told)) == ((), 2)
    made.replace(pool(), {("n", "b"): pod("b", "10.0.0.2"), ("n", "c"): pod("c", "10.0.0.3")})
    gone, come = confirmed(made)
    assert (targets(gone), targets(come)) == (["10.0.0.1:8000"], ["10.0.0.3:8000"])


def test_what_was_told_before_a_restart_is_not_told_again() -> None:
    told = (*endpoints_of(pod("a", "10.0.0.1"), pool()), *endpoints_of(pod("b", "10.0.0.2"), pool()))
    made = table(told=told, b=pod("b", "10.0.0.2"), c=pod("c", "10.0.0.3"))
    gone, come = made.difference()
    assert (targets(gone), targets(come)) == (["10.0.0.1:8000"], ["10.0.0.3:8000"])


def test_a_difference_stays_until_it_is_confirmed() -> None:
    made = table(a=pod())
    assert made.difference() == made.difference()
    made.change(("n", "a"), None)
    assert made.difference() == ((), ())


def test_other_labels_are_told_and_nothing_goes() -> None:
    made = table(a=pod())
    confirmed(made)
    made.change(("n", "a"), pod(labels={"app": "m", "zone": "x"}))
    gone, come = confirmed(made)
    assert (gone, come[0].labels["zone"]) == ((), "x")


@pytest.mark.parametrize("other", [pod(uid="second"), pod(restarts=1)], ids=["replaced", "restarted"])
def test_a_pod_born_again_is_another_endpoint(other: Pod) -> None:
    made = table(a=pod())
    (before,) = confirmed(made).come
    made.change(("n", "a"), other)
    gone, come = confirmed(made)
    assert gone == (before,)
    assert come[0].key != before.key


def test_the_younger_of_two_has_the_address() -> None:
    old, new = pod("old", created="2026-01-01T00:00:00Z"), pod("new", created="2026-01-01T00:00:01Z")
    made = table(old=old)
    confirmed(made)
    made.change(("n", "new"), new)
    gone, come = confirmed(made)
    assert ([each.name for each in gone], [each.name for each in come]) == (["old"], ["new"])
    made.change(("n", "old"), None)
    assert made.difference() == ((), ())
    made.change(("n", "old"), old)
    assert made.difference() == ((), ())
    made.change(("n", "new"), pod("new", is_ready=False, created="2026-01-01T00:00:01Z"))
    gone, come = confirmed(made)
    assert ([each.name for each in gone], [each.name for each in come]) == (["new"], ["old"])


def test_pods_of_one_address_and_other_ports_do_not_meet() -> None:
    """As on the host's network."""
    made = table(pool(8000, 8001), a=pod("a", active_ports="8000"), b=pod("b", active_ports="8001"))
    assert sorted(each.name for each in confirmed(made).come) == ["a-rank-0", "b-rank-1"]


def test_other_ports_of_the_pool_are_a_difference() -> None:
    pods = {("n", "a"): pod()}
    made = table(pool(8000), a=pod())
    confirmed(made)
    made.replace(pool(8000, 8001), pods)
    gone, come = confirmed(made)
    assert ([each.name for each in gone], [each.name for each in come]) == (["a"], ["a-rank-0", "a-rank-1"])


def test_what_cannot_be_read_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    made = table(a=pod(active_ports="all"))
    made.change(("n", "a"), pod(active_ports="all", restarts=1))
    assert caplog.text.count("pod n/a: active-ports annotation: 'all' is not a port; all ports count") == 1
    made.change(("n", "a"), pod(address="nowhere"))
    assert "pod n/a is left out" in caplog.text
    assert made.difference() == ((), ())


PODS = st.builds(
    lambda uid, address, is_ready, restarts, ports, app: pod(
        "x",
        address,
        uid=uid,
        is_ready=is_ready,
        restarts=restarts,
        active_ports=ports,
        labels={"app": app},
        created=uid,
    ),
    st.sampled_from("uvw"),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "", "nowhere"]),
    st.booleans(),
    st.integers(0, 1),
    st.sampled_from([None, None, "1", "2", "bad"]),
    st.sampled_from("mmo"),
)
STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), PODS | st.none()) | st.sampled_from([(1,), (1, 2), (2, 3)]), max_size=25
)


def obvious(spec: PoolSpec, pods: Mapping[Any, Pod]) -> dict[str, Endpoint]:
    found: dict[str, tuple[tuple[str, str], Endpoint]] = {}
    for each in pods.values():
        if each.address == "nowhere":
            continue
        for endpoint in endpoints_of(each, spec):
            if endpoint.target not in found or found[endpoint.target][0] <= (each.created, each.uid):
                found[endpoint.target] = (each.created, each.uid), endpoint
    return {target: endpoint for target, (_, endpoint) in found.items()}


@given(STEPS, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_what_is_told_is_what_there_is(steps: Any, rng: Any) -> None:
    spec, pods = pool(1), {}
    made = EndpointTable(spec)
    told: dict[str, Endpoint] = {}
    for step in steps:
        if isinstance(step[0], int):
            spec = pool(*step)
            made.replace(spec, pods)
        else:
            name, after = step
            unique = after and Pod(
                **{f: getattr(after, f) for f in after.__struct_fields__} | {"uid": after.uid + name}
            )
            pods.pop(("n", name), None)
            pods |= {("n", name): unique} if unique else {}
            made.change(("n", name), unique)
        if rng.random() < 0.7:
            gone, come = confirmed(made)
            for endpoint in gone:
                assert told.pop(endpoint.target) == endpoint
            for endpoint in come:
                assert told.get(endpoint.target) != endpoint
                told[endpoint.target] = endpoint
            assert told == obvious(spec, pods)
            assert {each.target: each for each in made.told} == told
