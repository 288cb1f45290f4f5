"""What the conformance suite asks of a picker (PROTOCOL 4.3), where a configuration declares it and nowhere else."""

from collections.abc import Mapping
from typing import Any

import pytest

from picker._core.session import Session
from picker.types import Endpoint
from tests.support import messages
from tests.support.config_samples import HEAD
from tests.support.rig import Rig, chat

FILTER = HEAD + "plugins: [{type: header-based-testing-filter}, {type: random-picker}]"
PLAIN = HEAD + "plugins: [{type: random-picker}]"
ENDPOINTS = [
    Endpoint(name="a", address="10.0.0.1", port=3000),
    Endpoint(name="a", address="10.0.0.1", port=3002),
    Endpoint(name="b", address="10.0.0.2", port=3000),
    Endpoint(name="c", address="fd00::1", port=3000),
]
ALL = {endpoint.target for endpoint in ENDPOINTS}
TRIES = 60


def selecting(value: str) -> Mapping[str, str]:
    return {"test-epp-endpoint-selection": value}


def where(config: str, **how: Any) -> set[str]:
    """Where many requests go; "" where one is refused."""
    rig = Rig(config, ENDPOINTS)
    return {rig.pick(chat(), **how) for _ in range(TRIES)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.2:3000", {"10.0.0.2:3000"}),
        ("10.0.0.1", {"10.0.0.1:3000", "10.0.0.1:3002"}),
        ("10.0.0.1:3002, 10.0.0.2", {"10.0.0.1:3002", "10.0.0.2:3000"}),
        ("[fd00::1]:3000", {"[fd00::1]:3000"}),
        ("fd00::1,10.0.0.2:3000", {"[fd00::1]:3000", "10.0.0.2:3000"}),
        ("192.168.9.9,10.0.0.2:3000", {"10.0.0.2:3000"}),  # of another pool
        ("10.0.0.1,10.0.0.2,fd00::1", ALL),
        ("192.168.9.9", {""}),
        ("10.0.0.2:9", {""}),
        ("", {""}),
    ],
)
def test_the_header_says_which_endpoints_to_pick_from(value: str, expected: set[str]) -> None:
    assert where(FILTER, headers=selecting(value)) == expected


def test_without_the_plugin_the_header_changes_nothing() -> None:
    assert where(PLAIN, headers=selecting("10.0.0.2:3000")) == ALL
    assert where(PLAIN, headers=selecting("192.168.9.9")) == ALL
    assert where(PLAIN, headers=selecting("10.0.0.2"), subset=["fd00::1"]) == {"[fd00::1]:3000"}


def test_a_plugin_that_is_in_no_profile_changes_nothing_either() -> None:
    unused = FILTER + "\nschedulingProfiles: [{name: p, plugins: [{pluginRef: random-picker}]}]"
    assert where(unused, headers=selecting("10.0.0.2:3000")) == ALL


def test_without_the_header_all_is_as_ever() -> None:
    assert where(FILTER) == ALL
    assert where(FILTER, subset=["fd00::1"]) == {"[fd00::1]:3000"}


def test_the_header_wins_over_the_gateways_hint() -> None:
    assert where(FILTER, headers=selecting("10.0.0.2"), subset=["fd00::1"]) == {"10.0.0.2:3000"}


def test_it_wins_wherever_the_hint_comes() -> None:
    session = Session(Rig(FILTER, ENDPOINTS).engine, 0)
    session.feed(messages.request_headers(headers=selecting("10.0.0.2")), 0)
    late = messages.ext_proc.ProcessingRequest.FromString(messages.request_body(chat()))
    late.metadata_context.filter_metadata["envoy.lb.subset_hint"].update(
        {"x-gateway-destination-endpoint-subset": ["fd00::1"]}
    )
    session.feed(late.SerializeToString(), 0)
    assert session.destination == "10.0.0.2:3000"


def test_a_request_without_a_body_is_steered_too() -> None:
    rig = Rig(FILTER, ENDPOINTS)
    for _ in range(TRIES):
        session = Session(rig.engine, 0)
        session.feed(messages.request_headers("/", end_of_stream=True, headers=selecting("10.0.0.1:3002")), 0)
        assert session.destination == "10.0.0.1:3002"


def test_a_gateways_hint_that_is_ignored_is_no_reason_to_ignore_the_header() -> None:
    rig = Rig(FILTER, ENDPOINTS)
    rig.engine.set_policy(rig.policy.steps, ignore_subset=True, reads_test_header=True)
    found = {rig.pick(headers=selecting("10.0.0.2"), subset=["fd00::1"]) for _ in range(TRIES)}
    assert found == {"10.0.0.2:3000"}


# --- who has served ---

VERIFIER = HEAD + "plugins: [{type: destination-endpoint-served-verifier}, {type: random-picker}]"
HEADER = "x-conformance-test-served-endpoint"
NO_NAMESPACE = "fail: missing envoy lb metadata"
NO_ENDPOINT = "fail: missing destination endpoint served metadata"


def told(config: str, answer: bytes) -> dict[str, str]:
    """The headers set on a response."""
    session, _ = Rig(config, ENDPOINTS).send()
    (reply,) = session.feed(answer, 0)
    mutation = messages.parse(reply).response_headers.response.header_mutation
    return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}


def with_metadata(namespace: str, **values: Any) -> bytes:
    message = messages.ext_proc.ProcessingRequest.FromString(messages.response_headers())
    message.metadata_context.filter_metadata[namespace].update(values)
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (messages.response_headers(served="10.0.0.2:3000"), "10.0.0.2:3000"),
        (messages.response_headers(500, served="192.168.9.9:1"), "192.168.9.9:1"),
        (messages.response_headers(end_of_stream=True, served="[fd00::1]:3000"), "[fd00::1]:3000"),
        (messages.response_headers(), NO_NAMESPACE),
        (with_metadata("elsewhere", a="b"), NO_NAMESPACE),
        (with_metadata("envoy.lb", a="b"), NO_ENDPOINT),
        (with_metadata("envoy.lb"), NO_ENDPOINT),
        (messages.with_served(messages.response_headers(), 7.0), NO_ENDPOINT),
    ],
)
def test_a_client_is_told_who_the_gateway_says_has_served(answer: bytes, expected: str) -> None:
    assert told(VERIFIER, answer) == {HEADER: expected}


def test_beside_a_session_token() -> None:
    text = HEAD + "plugins: [{type: session-affinity-scorer}, {type: destination-endpoint-served-verifier}]"
    found = told(text, messages.response_headers(served="10.0.0.2:3000"))
    assert (set(found), found[HEADER]) == ({"x-session-token", HEADER}, "10.0.0.2:3000")


def test_without_the_plugin_no_client_is_told() -> None:
    assert told(PLAIN, messages.response_headers(served="10.0.0.2:3000")) == {}
    assert told(FILTER, messages.response_headers()) == {}
