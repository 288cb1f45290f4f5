"""From the text of a configuration to where a request goes: the formulas of PEER 5 and the vectors of PROTOCOL 4.6."""

from typing import Any

import pytest

from picker._core.session import Session
from picker.policy.compile import ROLE_LABEL
from tests.support import messages
from tests.support.config_samples import HEAD
from tests.support.rig import SECOND, Rig, chat, endpoint, target


def config(*plugins: str, picker: str = "max-score-picker") -> str:
    """Plugins as `type`, `weight*type` or `type{parameters}`, and a picker."""
    declared, used = [], []
    for plugin in (*plugins, picker):
        weight, _, rest = plugin.rpartition("*") if plugin[0].isdigit() else ("", "", plugin)
        name, _, parameters = rest.partition("{")
        declared.append(f"- {{type: {name}" + (f", parameters: {{{parameters}}}" if parameters else "}"))
        used.append(f"  - {{pluginRef: {name}" + (f", weight: {weight}}}" if weight else "}"))
    return HEAD + "plugins:\n{}\nschedulingProfiles:\n- name: p\n  plugins:\n{}\n".format(
        "\n".join(declared), "\n".join(used)
    )


def pods(count: int, *plugins: str, **how: Any) -> Rig:
    return Rig(config(*plugins, **how), [endpoint(number + 1) for number in range(count)])


def picked(rig: Rig, **how: Any) -> int:
    """The number of the pod picked; 0 when the request was refused."""
    where = rig.pick(**how)
    return int(where.split(":")[0].rpartition(".")[2]) if where else 0


# --- golden vectors: queue, KV, prefix and LoRA scorers of equal weight ---

FOUR = ("queue-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer", "lora-affinity-scorer")
STATES: dict[str, tuple[list[tuple[int, float, str]], int]] = {
    "lower queue and KV": ([(3, 0.2, ""), (0, 0.1, ""), (10, 0.2, "")], 2),
    "active LoRA, low queue": ([(0, 0.2, "foo,bar"), (0, 0.1, "foo,T"), (10, 0.2, "foo,bar")], 2),
    "LoRA affinity beats KV": ([(10, 0.2, "foo,bar"), (10, 0.4, "foo,T"), (10, 0.3, "foo")], 2),
    "no shedding by default": ([(6, 0.2, "foo,bar,T"), (0, 0.85, "foo"), (10, 0.9, "foo")], 1),
    "two pods with the adapter": ([(4, 0.2, "foo,bar,T"), (4, 0.85, "foo,T")], 1),
}


def golden(states: list[tuple[int, float, str]]) -> Rig:
    rig = pods(len(states), *FOUR)
    load_golden(rig, states)
    return rig


def load_golden(rig: Rig, states: list[tuple[int, float, str]]) -> None:
    for number, (waiting, kv_usage, adapters) in enumerate(states, 1):
        running = tuple(adapters.split(",")) if adapters else ()
        rig.load(number, waiting=waiting, kv_usage=kv_usage, max_lora=2, running_adapters=running)


@pytest.mark.parametrize("name", STATES)
def test_golden_vectors(name: str) -> None:
    states, expected = STATES[name]
    assert picked(golden(states), body=chat(model="T")) == expected


def subset_of(*numbers: int) -> list[str]:
    return [target(number) for number in numbers]


@pytest.mark.parametrize(
    ("subset", "expected"),
    [(subset_of(1, 2, 3), 2), (subset_of(3), 3), (subset_of(99), 0), ([], 0), ("192.168.1.1, 192.168.1.3", 1)],
)
def test_golden_subsets(subset: list[str] | str, expected: int) -> None:
    rig = golden(STATES["lower queue and KV"][0])
    assert picked(rig, subset=subset) == expected


def test_golden_body_that_is_not_looked_into() -> None:
    rig = golden(STATES["lower queue and KV"][0])
    session, replies = rig.send(b"\x00 any bytes", path="/v1/audio/transcriptions")
    assert session.destination == target(2)
    assert replies[1].request_body.response.body_mutation.streamed_response.body == b"\x00 any bytes"
    rig.finish(session)


def test_golden_passthrough_parser() -> None:
    """The parser, on the path of an API picker knows: the body goes on unread, and no model has series of its own."""
    text = config(*FOUR).replace("plugins:\n", "plugins:\n- {type: passthrough-parser}\n", 1)
    rig = Rig(text + "requestHandler: {parsers: [{pluginRef: passthrough-parser}]}\n", [endpoint(n) for n in (1, 2, 3)])
    load_golden(rig, STATES["lower queue and KV"][0])
    session, replies = rig.send(b'{"model": "m", "not what"', path="/v1/chat/completions")
    assert session.destination == target(2)
    assert replies[1].request_body.response.body_mutation.streamed_response.body == b'{"model": "m", "not what"'
    assert rig.engine.decisions(1)[0]["model"] == ""
    rig.finish(session)


def test_golden_body_in_two_chunks_and_a_rewrite_header() -> None:
    """The adapter that counts is the one the request is sent to."""
    rig = golden(STATES["two pods with the adapter"][0])
    session = Session(rig.engine, rig.now_ns)
    replies = session.feed(messages.request_headers(headers={"x-gateway-model-name-rewrite": "T"}), rig.now_ns)
    body = chat(model="my-model")
    for part, end in ((body[:20], False), (body[20:], True)):
        replies += session.feed(messages.request_body(part, end_of_stream=end), rig.now_ns)
    assert session.destination == target(1)
    pieces = [messages.parse(reply).request_body.response.body_mutation.streamed_response for reply in replies[1:]]
    assert b"".join(piece.body for piece in pieces) == chat(model="T")
    session.close(rig.now_ns)


def test_golden_rewrite_rule() -> None:
    rig = golden(STATES["active LoRA, low queue"][0])
    rig.engine.set_rewrites([("rules", "my-model", (("T", None),))])
    session, replies = rig.send(chat(model="my-model"))
    assert session.destination == target(2)
    assert replies[1].request_body.response.body_mutation.streamed_response.body == chat(model="T")
    rig.finish(session)


@pytest.mark.parametrize("body", [b"no json", b'{"messages": [{"role": "user", "content": "hi"}]}'])
def test_golden_body_that_cannot_be_placed_is_400(body: bytes) -> None:
    _, (reply,) = golden(STATES["lower queue and KV"][0]).send(body)
    assert reply.immediate_response.status.code == 400


def test_golden_no_endpoint_is_503() -> None:
    _, (reply,) = golden(STATES["lower queue and KV"][0]).send(subset=subset_of(99))
    assert reply.immediate_response.status.code == 503


def test_golden_headers_alone_and_no_endpoint_is_503() -> None:
    """Where the reference answers 500."""
    session = Session(Rig(config(*FOUR), []).engine, 0)
    (reply,) = session.feed(messages.request_headers("/", method="GET", end_of_stream=True), 0)
    assert messages.parse(reply).immediate_response.status.code == 503


def test_golden_headers_alone_are_picked_for_like_any_other() -> None:
    """Where the reference picks at random."""
    rig = golden(STATES["lower queue and KV"][0])
    session = Session(rig.engine, rig.now_ns)
    session.feed(messages.request_headers("/", method="GET", end_of_stream=True), rig.now_ns)
    assert session.destination == target(2)


# --- each formula, seen in the scores of the pick ---


def load_three(rig: Rig) -> None:
    rig.load(1, waiting=4, running=2, kv_usage=0.5)
    rig.load(2, waiting=0, running=6, kv_usage=0.9)
    rig.load(3, waiting=8, running=0, kv_usage=0.1)


@pytest.mark.parametrize(
    ("weights", "expected", "scores"),
    [
        ((1, 0, 0, 0), 2, (1.0, 0.0, 0.1, 0.5)),
        ((0, 1, 0, 0), 3, (0.0, 1.0, 0.9, 0.25)),
        ((0, 0, 1, 0), 3, (0.0, 1.0, 0.9, 0.25)),
        ((0, 0, 0, 1), 2, (1.0, 0.0, 0.1, 0.5)),
        ((3, 3.1, 1, 0), 1, (0.5, 2 / 3, 0.5, 0.375)),
    ],
)
def test_scraped_load(weights: tuple[float, ...], expected: int, scores: tuple[float, ...]) -> None:
    names = (
        "queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer", "load-aware-scorer",
    )  # fmt: skip
    plugins = [f"{weight}*{name}" for weight, name in zip(weights, names, strict=True)]
    rig = pods(3, *plugins[:3], plugins[3] + "{threshold: 16}")
    load_three(rig)
    assert picked(rig) == expected
    assert rig.scores() == pytest.approx(dict(zip(names, scores, strict=True)))
    (decision,) = rig.engine.decisions(1)
    assert decision["total"] == pytest.approx(sum(w * s for w, s in zip(weights, scores, strict=True)))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_prefix_share_and_length(weight: float) -> None:
    rig = pods(3, f"prefix-cache-scorer{{matchLengthWeight: {weight}, matchLengthScaleTokens: 4000}}")
    shared = "s" * 8192
    first = picked(rig, body=chat(shared))
    assert picked(rig, body=chat(shared + "x" * 4096)) == first
    (decision,) = rig.engine.decisions(1)
    cached, prompt = decision["cached_tokens"], decision["prompt_tokens"]
    assert 1900 <= cached <= 2048 and 3072 <= prompt <= 3200
    expected = (1 - weight) * cached / prompt + weight * min(1, cached / 4000) ** 2
    assert rig.scores() == pytest.approx({"prefix-cache-scorer": expected})


@pytest.mark.parametrize(
    ("running", "waiting", "max_lora", "expected"),
    [(("T",), (), 1, 1.0), (("foo",), (), 2, 0.8), (("foo",), ("T",), 2, 0.6), (("foo",), ("bar",), 2, 0.0)],
)
def test_lora(running: tuple[str, ...], waiting: tuple[str, ...], max_lora: int, expected: float) -> None:
    rig = pods(1, "lora-affinity-scorer")
    rig.load(1, waiting=0, max_lora=max_lora, running_adapters=running, waiting_adapters=waiting)
    rig.pick(chat(model="T"))
    assert rig.scores() == {"lora-affinity-scorer": expected}


def test_requests_under_way() -> None:
    rig = pods(2, "active-request-scorer{maxBusyScore: 0.5}")
    first, _ = rig.send()
    second, _ = rig.send()
    assert {first.destination, second.destination} == {target(1), target(2)}
    third, _ = rig.send()
    assert rig.scores() == {"active-request-scorer": 0.0}  # each has one; one is the most
    rig.finish(second if third.destination == first.destination else first)
    rig.send()
    assert rig.scores() == {"active-request-scorer": 1.0}  # the one that is free now


def test_requests_under_way_up_to_a_threshold() -> None:
    rig = pods(1, "active-request-scorer{idleThreshold: 1}")
    for expected in (1.0, 1.0, 0.0):
        rig.send()
        assert rig.scores() == {"active-request-scorer": expected}


def test_tokens_under_way() -> None:
    rig = pods(2, "token-load-scorer{queueThresholdTokens: 10000}")
    busy, _ = rig.send(chat("a" * 16384))
    (first,) = rig.engine.decisions(1)
    assert rig.scores()["token-load-scorer"] == pytest.approx(1 - first["prompt_tokens"] / 10000)
    other, _ = rig.send(chat("b" * 8192))
    assert other.destination != busy.destination
    third, _ = rig.send(chat("c" * 8192))
    (decision,) = rig.engine.decisions(1)
    assert third.destination == other.destination  # 2,048 + 2,048 tokens are still fewer than 4,096 + 2,048
    assert rig.scores()["token-load-scorer"] == pytest.approx(1 - 2 * decision["prompt_tokens"] / 10000)


def test_a_session_stays_where_its_token_says() -> None:
    rig = pods(5, "session-affinity-scorer{headerName: X-Stick}")
    session, _ = rig.send()
    where = session.destination
    (mutation,) = rig.finish(session)[0].response_headers.response.header_mutation.set_headers
    assert mutation.header.key == "x-stick"
    token = mutation.header.raw_value.decode()
    for _ in range(8):
        assert rig.pick(headers={"x-stick": token}) == where
        assert rig.scores() == {"session-affinity-scorer": 1.0}
    rig.pick(headers={"x-stick": "bm9ib2R5"})
    assert rig.scores() == {"session-affinity-scorer": 0.0}


def test_the_default_policy_avoids_work_under_way_and_returns_to_what_is_cached() -> None:
    rig = Rig(HEAD, [endpoint(1), endpoint(2)])
    busy, _ = rig.send(chat("a" * 40_000))
    other = rig.pick(chat("b" * 400))
    assert other != busy.destination
    rig.finish(busy)
    assert rig.pick(chat("a" * 40_000)) == busy.destination
    assert rig.scores() == {"ttft-scorer": 1.0}


# --- filters ---


def test_label_filters_narrow_the_pool() -> None:
    text = config("label-selector-filter{matchLabels: {zone: a}}", "decode-filter", "kv-cache-utilization-scorer")
    roles = [("b", "decode"), ("a", "decode"), ("a", "prefill"), ("a", "")]
    labels = [{"zone": zone, ROLE_LABEL: role} if role else {"zone": zone} for zone, role in roles]
    rig = Rig(text, [endpoint(number, has) for number, has in enumerate(labels, 1)])
    for number, kv_usage in enumerate((0.1, 0.5, 0.2, 0.3), 1):
        rig.load(number, waiting=0, kv_usage=kv_usage)
    assert picked(rig) == 4  # decode or no role, in zone a, the lower KV use
    rig.pool.set_endpoints([endpoint(1, {"zone": "b"}), endpoint(4, {"zone": "c"})])
    _, (reply,) = rig.send()
    assert reply.immediate_response.status.code == 503


def test_prefix_affinity_keeps_to_the_warm_endpoint_unless_it_is_too_busy() -> None:
    filtered = "prefix-cache-affinity-filter{maxTTFTPenaltyMs: 1000, peakPrefillThroughput: 1000}"
    rig = pods(3, filtered, "active-request-scorer")
    warm = picked(rig, body=chat("w" * 4096))
    light, _ = rig.send(chat("w" * 4096))  # in flight with nothing to prefill: the scorer alone would go elsewhere
    assert light.destination == target(warm)
    assert picked(rig, body=chat("w" * 4096)) == warm
    heavy, _ = rig.send(chat("w" * 4096 + "x" * 800))  # still warm (84 %), and now some 200 tokens are booked
    assert heavy.destination == target(warm)
    assert picked(rig, body=chat("w" * 4096)) == warm  # 0.2 s behind: less than the penalty of 1 s
    for letter in "abcd":
        assert rig.send(chat("w" * 4096 + letter * 800))[0].destination == target(warm)
    assert picked(rig, body=chat("w" * 4096)) != warm


# --- pickers ---


def test_several_endpoints_come_in_order_of_preference() -> None:
    rig = pods(4, "queue-scorer", picker="max-score-picker{maxNumOfEndpoints: 3}")
    for number, waiting in enumerate((5, 1, 9, 3), 1):
        rig.load(number, waiting=waiting)
    assert rig.pick() == f"{target(2)},{target(4)},{target(1)}"


def test_random_reaches_everyone() -> None:
    rig = pods(4, picker="random-picker")
    assert {picked(rig) for _ in range(100)} == {1, 2, 3, 4}


def test_weighted_random_follows_the_scores() -> None:
    rig = pods(3, "kv-cache-utilization-scorer", picker="weighted-random-picker")
    for number, kv_usage in enumerate((0.25, 0.75, 1.0), 1):
        rig.load(number, waiting=0, kv_usage=kv_usage)
    counts = [0, 0, 0, 0]
    for _ in range(400):
        rig.now_ns += SECOND // 100
        counts[picked(rig)] += 1
    assert counts[3] == 0
    assert 260 < counts[1] < 340  # 3 of 4; the seed is fixed
