import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from picker._core.promtext import PromSpec
from tests.model import promtext as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations
from tests.support.shared import SHARED, needs_shared


def read(page: bytes, name: str = "m", *labels: str, combine: str = "sum", **filters: str) -> model.Found | None:
    spec = PromSpec([(name, filters, combine, labels)])
    return spec.scan(page)[0]


def value(page: bytes, **more: str) -> float | None:
    found = read(page, **more)
    return None if found is None else found[0]


# --- what a page may look like ---


@pytest.mark.parametrize(
    "line",
    [
        b"m 5",
        b"m\t5.0\n",
        b"m 5 1700000000000\n",
        b"m 5\r\n",
        b"  m   5e0  \n",
        b"m{} 5\n",
        b"m{}5\n",
        b"m { } 5\n",
        b'm{a="x",b="y",} 5\n',
        b'm{ a = "x" , b = "y" } 5\n',
        b'm{a="}\\"{,"} 5\n',
        b"# HELP m 7\n\n \n#m 8\nm 5\nmm 9\nm_total 9\n",
    ],
)
def test_reads_every_spelling_of_a_sample(line: bytes) -> None:
    assert value(line) == 5.0


@pytest.mark.parametrize(
    "line",
    [
        b"m",
        b"m ",
        b"m x",
        b"m 1 2 3",
        b"m 1x",
        b"m 1 x",
        b"m{",
        b"m{ 1",
        b'm{a="x} 1',
        b'm{a="x\\"} 1',
        b'm{a="x"',
        b'm{a="x" b="y"} 1',
        b'm{a="x"} ',
        b"m{a=x} 1",
        b"m{a} 1",
        b'm{="x"} 1',
        b'm{0a="x"} 1',
        b"m{,} 1",
        b'm{"quoted",a="x"} 1',
        b'm{a="line\nbreak"} 1',
    ],
)
def test_a_malformed_line_costs_only_itself(line: bytes) -> None:
    spec = PromSpec([("m", {}, "sum", ()), ("n", {}, "sum", ())])
    assert spec.scan(b"m 1\nn 2\n" + line + b"\nm 4\n") == [(5.0, ()), (2.0, ())]
    assert spec.malformed == 1
    spec.scan(b"m 1\n")
    assert spec.malformed == 0


def test_lines_nobody_wants_are_not_judged() -> None:
    spec = PromSpec([("m", {}, "sum", ())])
    assert spec.scan(b"other{ broken\nm2{\n}\n\xff\x00\nm 1") == [(1.0, ())]
    assert spec.malformed == 0


def test_an_empty_page_has_nothing() -> None:
    assert read(b"") is None
    assert PromSpec([]).scan(b"m 1") == []


# --- values ---


def test_infinite_values_count_and_nan_means_no_value() -> None:
    assert value(b"m NaN\n") is None
    assert value(b'm{e="0"} NaN\nm{e="1"} 3\n') == 3.0
    assert value(b"m +Inf\n") == math.inf
    assert value(b"m -Inf\nm 1\n", combine="max") == 1.0


def test_data_parallel_series_combine_as_asked() -> None:
    page = b'm{engine="0"} 0.25\nm{engine="1"} 0.5\nm{engine="2"} 0.125\n'
    assert read(page, "m", "engine", combine="sum") == (0.875, (b"0",))
    assert read(page, "m", "engine", combine="max") == (0.5, (b"1",))
    assert read(page, "m", "engine", combine="newest") == (0.5, (b"1",))


def test_of_equal_values_max_keeps_the_first_and_newest_the_last() -> None:
    page = b'm{l="a"} 7\nm{l="b"} 7\nm{l="c"} 6\n'
    assert read(page, "m", "l", combine="max") == (7.0, (b"a",))
    assert read(page, "m", "l", combine="newest") == (7.0, (b"b",))


# --- labels ---


def test_filters_choose_series_and_compare_unescaped_values() -> None:
    page = b'm{type="waiting"} 1\nm{type="scheduled"} 2\nm{type="a\\"b\\\\\\nc"} 4\nm 8\n'
    assert value(page, type="waiting") == 1.0
    assert value(page, type="scheduled") == 2.0
    assert value(page, type='a"b\\\nc') == 4.0
    assert value(page, type="wait") is None
    assert value(page) == 15.0


def test_every_filter_must_hold() -> None:
    page = b'm{a="1",b="2"} 1\nm{a="1",b="3"} 2\nm{a="1"} 4\n'
    assert value(page, a="1", b="2") == 1.0
    assert value(page, a="1") == 7.0
    assert value(page, a="1", b="2", c="3") is None


def test_wants_of_one_name_are_served_from_one_line() -> None:
    wants = [("m", {"k": "a"}, "sum", ()), ("n", {}, "sum", ()), ("m", {"k": "b"}, "sum", ("k",)), ("m", {}, "max", ())]
    spec = PromSpec(wants)
    spec._check()
    assert len(spec) == 4
    assert spec.scan(b'm{k="a"} 1\nm{k="b"} 2\n') == [(1.0, ()), None, (2.0, (b"b",)), (2.0, ())]


def test_captured_labels_are_unescaped_and_absent_ones_are_none() -> None:
    page = b'm{a="x\\\\y\\"z\\n",b="",c="\\x\xc3\xa9"} 1\n'
    assert read(page, "m", "a", "b", "c", "d") == (1.0, (b'x\\y"z\n', b"", b"\\x\xc3\xa9", None))


def test_of_a_label_given_twice_the_first_is_captured() -> None:
    assert read(b'm{a="1",a="2"} 1\n', "m", "a", a="2") == (1.0, (b"1",))


# --- specs ---


def test_refuses_specs_that_could_never_match() -> None:
    for bad in ("", "0m", "m m", "m{", "é"):
        with pytest.raises(ValueError, match="not a valid name"):
            PromSpec([(bad, {}, "sum", ())])
    with pytest.raises(ValueError, match="not a valid name"):
        PromSpec([("m", {"a:b": "x"}, "sum", ())])
    with pytest.raises(ValueError, match="not a valid name"):
        PromSpec([("m", {}, "sum", ("a b",))])
    with pytest.raises(ValueError, match="combine must be"):
        PromSpec([("m", {}, "mean", ())])
    with pytest.raises(TypeError):
        PromSpec([(b"m", {}, "sum", ())])  # type: ignore[list-item]


def test_limits_are_errors() -> None:
    letters = "abcdefghi"
    assert len(PromSpec([("m", {}, "sum", ())] * 32)) == 32
    with pytest.raises(OverflowError):
        PromSpec([("m", {}, "sum", ())] * 33)
    with pytest.raises(OverflowError):
        PromSpec([("m", dict.fromkeys(letters[:5], "x"), "sum", ())])
    with pytest.raises(OverflowError):
        PromSpec([("m", {}, "sum", tuple(letters))])


def test_all_wants_filters_and_captures_at_once() -> None:
    names = [f"m{index}" for index in range(32)]
    spec = PromSpec([(name, dict.fromkeys("abcd", "x"), "sum", tuple("abcdefgh")) for name in names])
    spec._check()
    line = "{" + ",".join(f'{letter}="x"' for letter in "hgfedcba") + "} 3\n"
    expected = (3.0, (b"x",) * 8)
    assert spec.scan("".join(name + line for name in names).encode()) == [expected] * 32


# --- against the model and against the library ---

WANTS: list[model.Want] = [
    ("m", {}, "sum", ("a",)),
    ("m", {"a": "x"}, "max", ("a", "b")),
    ("m", {"b": 'q"\\\n'}, "newest", ("b",)),
    ("mm", {}, "newest", ("a", "b")),
    ("a:b", {"a": "", "b": "x"}, "sum", ()),
]
PIECES = ["m", "mm", "a:b", " ", "\t", "{", "}", "{}", 'a="', '="', '"', ",", "\\", "\n", "\r\n", "\r", "#"]
PIECES += ["1", "0.5", "1e3", "NaN", "+Inf", "-", "b=", "\nm ", '\nmm{b="', '"} 2\n', '{a="x"}', ',b="q\\"\\\\\\n"']
PIECES += ['a:b{a="",b="x"} 1\n']
SOUP = st.lists(st.sampled_from(PIECES), max_size=40).map(lambda pieces: "".join(pieces).encode())
NAMES = st.sampled_from(["m", "mm", "a:b", "n"])
TEXTS = st.text(st.sampled_from('xq"\\\n,}{= é'), max_size=4)
SAMPLES = st.tuples(NAMES, st.dictionaries(st.sampled_from("abc"), TEXTS, max_size=3), st.floats())


def render(name: str, labels: dict[str, str], number: float) -> str:
    escaped = {key: text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for key, text in labels.items()}
    inside = ",".join(f'{key}="{text}"' for key, text in escaped.items())
    return f"{name}{{{inside}}} {number!r}\n"


def same(page: bytes) -> None:
    spec = PromSpec(WANTS)
    found, malformed = model.scan(WANTS, page)
    assert repr(spec.scan(page)) == repr(found)  # repr: nan equals nan, -0.0 is not 0.0
    assert spec.malformed == malformed
    spec._check()


@given(SOUP)
def test_equals_the_model_on_anything(page: bytes) -> None:
    same(page)


@given(st.lists(SAMPLES, max_size=8))
def test_equals_the_model_on_valid_pages(samples: list[tuple[str, dict[str, str], float]]) -> None:
    page = "".join(render(*sample) for sample in samples)
    same(page.encode())
    spec = PromSpec(WANTS)
    spec.scan(page.encode())
    assert spec.malformed == 0


@given(st.lists(st.tuples(TEXTS, TEXTS, st.floats(allow_nan=False)), max_size=6))
def test_reads_what_the_client_library_writes(series: list[tuple[str, str, float]]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("m", "Help with \\ and\nnewline", ["a", "b"], registry=registry)
    for a, b, number in series:
        gauge.labels(a, b).set(number)
    page = generate_latest(registry)
    samples = [sample for family in text_string_to_metric_families(page.decode()) for sample in family.samples]
    if not samples:
        assert read(page) is None
        return
    best = max(samples, key=lambda sample: sample.value)
    expected = (best.value, (best.labels["a"].encode(), best.labels["b"].encode()))
    assert read(page, "m", "a", "b", combine="max") == expected


@needs_shared
def test_reads_a_real_page() -> None:
    page = (SHARED / "reference" / "vllm_metrics.txt").read_bytes()
    wants: list[model.Want] = [
        ("vllm:num_requests_running", {}, "sum", ()),
        ("vllm:num_requests_waiting", {"engine": "0"}, "sum", ("model_name",)),
        ("vllm:kv_cache_usage_perc", {}, "max", ()),
        ("vllm:cache_config_info", {}, "sum", ("block_size", "num_gpu_blocks")),
        ("vllm:lora_requests_info", {}, "newest", ("max_lora", "running_lora_adapters", "waiting_lora_adapters")),
    ]
    found = PromSpec(wants).scan(page)
    assert found == model.scan(wants, page)[0]
    assert found == [
        (6.0, ()),
        (0.0, (b"tiny",)),
        (0.0008392462043183002, ()),
        (1.0, (b"32", b"65536")),
        (1795294098.5956545, (b"2", b"lora1", b"lora1")),
    ]


# --- memory ---


def test_leaks_nothing() -> None:
    page = b'm{a="x\\n",b="y"} 1\nmm 2\n' * 5 + b"m{\n"

    def use() -> None:
        PromSpec(WANTS).scan(page)

    def refuse() -> None:
        with pytest.raises(ValueError, match="not a valid name"):
            PromSpec([*WANTS, ("", {}, "sum", ())])

    assert_flat(use)
    assert_flat(refuse)


@debug_build_only
def test_survives_failing_allocations() -> None:
    wants = [("m" * 9, {"a": "x" * 50}, "sum", ("b" * 100,))]
    assert failing_allocations(lambda: PromSpec(wants).scan(b"")) == 3
