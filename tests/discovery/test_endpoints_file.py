"""What an endpoints file may hold, and what a person reads when it holds something else."""

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from picker.config.document import drain
from picker.discovery.file import EndpointsFile, parse_endpoints, read_endpoints
from picker.errors import EndpointsFileError
from picker.types import Endpoint


def parse(text: str) -> tuple[Endpoint, ...]:
    return drain(parse_endpoints(text.encode(), source="e.yaml"))


def test_all_members() -> None:
    text = """
endpoints:
- name: vllm-0
  address: 10.0.0.1
  port: 8000
  labels: {gpu: h100, "llm-d.ai/role": decode}
  namespace: prod
- {name: vllm-1, address: "2001:DB8::1", port: "8001"}
- name: vllm-2
  address: 10.0.0.1
  port: 8002
  labels:
"""
    assert parse(text) == (
        Endpoint(
            name="vllm-0",
            address="10.0.0.1",
            port=8000,
            labels={"gpu": "h100", "llm-d.ai/role": "decode"},
            namespace="prod",
        ),
        Endpoint(name="vllm-1", address="2001:db8::1", port=8001),
        Endpoint(name="vllm-2", address="10.0.0.1", port=8002),
    )


def test_an_empty_pool_is_written_out() -> None:
    assert parse("endpoints: []") == ()


def test_json_is_taken_too() -> None:
    entries = [{"name": "a", "address": "::1", "port": 1}]
    assert parse(json.dumps({"endpoints": entries}))[0].target == "[::1]:1"


ENTRY = "- {name: a, address: 10.0.0.1, port: 1}\n"
MISTAKES = {
    "": "e.yaml: is empty; write a mapping, or leave the file out",
    "[]": "e.yaml:1: expected a mapping with the member endpoints; begin with 'endpoints:'",
    "{}": "e.yaml:1: endpoints: endpoints is missing; write [] if there are none",
    "endpoints:\n": "e.yaml:1: endpoints: expected a list; write [] if there are none",
    "endpoints: {}": "e.yaml:1: endpoints: expected a list; write [] if there are none",
    "endpoint: []": 'e.yaml:1: endpoint: unknown field; did you mean "endpoints"?',
    "endpoints:\n- a\n": "e.yaml:2: endpoints[0]: expected a mapping, got text",
    f"endpoints:\n{ENTRY}- name: b\n  port: 1\n": (
        'e.yaml:3: endpoints[1]: required field "address" is missing; add address'
    ),
    "endpoints:\n- name: a\n  adress: 10.0.0.1\n  port: 1\n": (
        'e.yaml:3: endpoints[0].adress: unknown field; did you mean "address"?'
    ),
    "endpoints:\n- name: a\n  address: vllm.local\n  port: 1\n": (
        "e.yaml:2: endpoints[0]: address 'vllm.local' is not an IPv4 or IPv6 literal (host names are not resolved)"
    ),
    "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: 0\n": (
        "e.yaml:2: endpoints[0]: port 0 is not between 1 and 65535"
    ),
    "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: 80x\n": (
        "e.yaml:4: endpoints[0].port: expected a whole number, got text"
    ),
    "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: true\n": (
        "e.yaml:4: endpoints[0].port: expected a whole number, got true or false"
    ),
    "endpoints:\n- name: 7\n  address: 10.0.0.1\n  port: 1\n": (
        'e.yaml:2: endpoints[0].name: expected text, got a whole number; quote it: "7"'
    ),
    "endpoints:\n- name: ''\n  address: 10.0.0.1\n  port: 1\n": "e.yaml:2: endpoints[0]: name is empty",
    "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: 1\n  labels:\n    x: y\n    gpu: 1\n": (
        'e.yaml:7: endpoints[0].labels.gpu: expected text, got a whole number; quote it: "1"'
    ),
    "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: 1\n  labels:\n    gpu:\n": (
        "e.yaml:6: endpoints[0].labels.gpu: expected text, got nothing"
    ),
    f"endpoints:\n{ENTRY}- {{name: a, address: 10.0.0.2, port: 1}}\n": (
        'e.yaml:3: endpoints[1].name: name "a" is used twice; it is taken on line 2 (endpoints[0].name)'
    ),
    f"endpoints:\n{ENTRY}\n- {{name: b, address: 10.0.0.1, port: '1'}}\n": (
        "e.yaml:4: endpoints[1].address: address 10.0.0.1:1 is used twice; it is taken on line 2 (endpoints[0].address)"
    ),
    "endpoints:\n- {name: a, address: '::1', port: 1}\n- {name: b, address: '0::1', port: 1}\n": (
        "e.yaml:3: endpoints[1].address: address [::1]:1 is used twice; it is taken on line 2 (endpoints[0].address)"
    ),
    "endpoints:\n- {name: a\n": (
        "e.yaml:3: is not valid YAML: did not find expected ',' or '}'; check the indentation and quotes there"
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(text: str) -> None:
    with pytest.raises(EndpointsFileError) as caught:
        parse(text)
    assert str(caught.value) == MISTAKES[text]
    assert caught.value.exit_code == 2


def test_limits() -> None:
    with pytest.raises(EndpointsFileError, match="10001 endpoints are given; at most 10000"):
        parse("endpoints: [" + "a," * 10_001 + "]")
    with pytest.raises(EndpointsFileError, match="larger than 1024 KiB"):
        parse("#" * (1 << 20) + "\nendpoints: []")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(EndpointsFileError, match="cannot be read: No such file or directory"):
        read_endpoints(tmp_path / "none")
    with pytest.raises(EndpointsFileError, match="cannot be read: it is not a regular file"):
        read_endpoints(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EndpointsFileError, match="cannot be read: it is not a regular file"):
        read_endpoints(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(EndpointsFileError, match="binary:1: is not UTF-8"):
        EndpointsFile(tmp_path / "binary", on_change=print).load()


def test_a_large_file_is_read_in_slices() -> None:
    entries = "".join(f"- {{name: n{i}, address: 10.0.{i >> 8}.{i & 255}, port: 1}}\n" for i in range(3000))
    steps = parse_endpoints(f"endpoints:\n{entries}".encode(), source="e")
    assert sum(1 for _ in steps) > 100


@given(
    st.lists(
        st.tuples(st.ip_addresses(), st.integers(1, 65535), st.dictionaries(st.text(max_size=4), st.text(max_size=4))),
        max_size=5,
        unique_by=lambda entry: entry[:2],
    )
)
def test_what_is_written_is_what_is_read(entries: list[tuple[object, int, dict[str, str]]]) -> None:
    written = [
        {"name": f"e{i}", "address": str(address), "port": str(port) if port % 2 else port, "labels": labels}
        for i, (address, port, labels) in enumerate(entries)
    ]
    found = parse(yaml.safe_dump({"endpoints": written}))
    assert [(e.name, e.address, e.port, e.labels) for e in found] == [
        (f"e{i}", str(address), port, labels) for i, (address, port, labels) in enumerate(entries)
    ]


MEMBERS = st.sampled_from(["endpoints", "name", "address", "port", "labels", "namespace", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["10.0.0.1", "::1", "80"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=300)
def test_any_structure_is_read_or_refused(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"endpoints": value}), json.dumps({"endpoints": [value]})):
        try:
            parse(text)
        except EndpointsFileError as error:
            assert str(error).startswith("e.yaml")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        drain(parse_endpoints(b"endpoints:\n" + data, source="e.yaml"))
    except EndpointsFileError as error:
        assert str(error).startswith("e.yaml")


# --- files that programs write ---

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(0, 70_000) | st.floats() | st.sampled_from(["", "a", "80", "é", '"', "\\"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=3,
)
PARTS = {
    "name": st.sampled_from(["a", "b", "c", "yes", "1"]) | ANYTHING,
    "address": st.sampled_from(["10.0.0.1", "10.0.0.2", "::1", "0:0::1"]) | ANYTHING,
    "port": st.sampled_from([80, 8000, "8000", 8000.0, 0]) | ANYTHING,
    "labels": st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "é"]), max_size=2) | ANYTHING,
}
WRITTEN = st.fixed_dictionaries(
    {name: values for name, values in PARTS.items() if name != "labels"},
    optional={"labels": PARTS["labels"], "namespace": st.just("ns"), "colour": st.just("red")},
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(WRITTEN, max_size=3), min_size=1, max_size=3))
def test_json_is_read_as_yaml_reads_it(files: list[list[dict[str, object]]]) -> None:
    """The short way for JSON and the long way for everything agree, also from one content of a file to the next."""
    known: dict[bytes, Endpoint] = {}
    for entries in files:
        text = json.dumps({"endpoints": entries}, ensure_ascii=False)
        try:
            short: object = drain(parse_endpoints(text.encode(), source="e", known=known))
        except EndpointsFileError as problem:
            short = str(problem)
        try:
            long: object = parse("# the long way\n" + text)
        except EndpointsFileError as problem:
            long = str(problem).replace("e.yaml:2:", "e:1:").replace("line 2", "line 1")
        assert short == long


@pytest.mark.parametrize(
    "text",
    [
        '{"endpoints": [{"name": "a", "name": "b", "address": "::1", "port": 1}]}',
        '{"endpoints": [], "endpoints": []}',
        '{"endpoints": [{"name": "a", "address": "::1", "port": NaN}]}',
        '{"endpoints": [{"name": "a", "address": "::1", "port": 1, "colour": 1}]}',
        '{"endpoints": [{"name": "a", "address": "::1", "port": 1}], "more": 1}',
        '{"endpoints": ' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_json_that_is_wrong_is_refused_all_the_same(text: str) -> None:
    with pytest.raises(EndpointsFileError):
        parse(text)


def test_entries_that_stay_are_not_read_again() -> None:
    known: dict[bytes, Endpoint] = {}

    def read(*names: str) -> tuple[Endpoint, ...]:
        entries = [{"name": name, "address": f"10.0.0.{number}", "port": 80} for number, name in enumerate(names)]
        return drain(parse_endpoints(json.dumps({"endpoints": entries}).encode(), source="e", known=known))

    before, after = read("a", "b", "c"), read("a", "d", "c")
    assert [one is other for one, other in zip(before, after, strict=True)] == [True, False, True]
    assert len(known) == 3
