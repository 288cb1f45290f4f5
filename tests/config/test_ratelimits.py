"""The section `rateLimits`: what it comes to, and what each mistake is told."""

from pathlib import Path
from typing import Any

import pytest

from picker._core.quotas import Quota
from picker.config import load_config
from picker.config.describe import describe
from picker.config.ratelimits import RateLimitPlan, StorePlan
from picker.errors import ConfigError
from tests.support.config_samples import HEAD
from tests.support.readme import blocks
from tests.support.shared import ROOT

REQUESTS, TOTAL = (1, 0, 0, 0), (0, 1, 1, 1)


def plan_of(text: str) -> RateLimitPlan:
    return load_config(HEAD + "rateLimits:\n" + text, source="epp.yaml").rate_limits


def rules(*texts: str) -> str:
    return "  rules:\n" + "".join(f"  - {{name: r{number}, {text}}}\n" for number, text in enumerate(texts))


def only(text: str) -> dict[str, Any]:
    (rule,) = plan_of(rules(text)).rules
    return dict(rule)


def test_without_the_section_nothing_is_limited() -> None:
    assert load_config(HEAD).rate_limits == RateLimitPlan()
    assert plan_of("  rules: []\n") == RateLimitPlan()


def test_limits_by_name() -> None:
    rule = only("limits: {requestsPerSecond: 1, inputTokensPerMinute: 2k, outputTokensPerHour: 3, tokensPerDay: 1M}")
    assert (rule["source"], rule["default"], rule["absent"], rule["keys"]) == (None, 0, None, {})
    assert rule["tiers"] == [
        [("second", 1, REQUESTS), ("minute", 2000, (0, 1, 1, 0)), ("hour", 3, (0, 0, 0, 1)), ("day", 10**6, TOTAL)]
    ]


def test_weights_are_those_of_cost() -> None:
    rule = only("limits: {costPerDay: 10}, weights: {request: 0.5, cached: 0.1, output: 4}")
    assert rule["tiers"] == [[("day", 10, (0.5, 1, 0.1, 4))]]


def test_keys() -> None:
    rule = only(
        "key: {header: X-API-Key}, limits: {requestsPerMinute: 1}, withoutKey: {requestsPerMinute: 2}, keys: ["
        "{name: gold, values: [a, b], limits: {requestsPerMinute: 3}}, {name: ops, values: [c]}]"
    )
    assert rule["source"] == ("header", "x-api-key")
    assert rule["tiers"] == [[("minute", n, REQUESTS)] for n in (1, 2, 3)] + [[]]
    assert (rule["default"], rule["absent"], rule["keys"]) == (0, 1, {"a": 2, "b": 2, "c": 3})


def test_keys_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\n\n two \n")
    keys = f"[{{name: t, values: [three], file: {tmp_path / 'keys'}, limits: {{tokensPerDay: 1}}}}]"
    assert only(f"key: {{header: k}}, keys: {keys}")["keys"] == {"three": 0, "one": 0, "two": 0}


def test_claims_and_models() -> None:
    rule = only(
        "key: {claim: {namespace: envoy.filters.http.jwt_authn, path: [payload, sub]}}, models: [a], perModel: true,"
        " limits: {tokensPerMinute: 1}"
    )
    assert rule["source"] == ("claim", "envoy.filters.http.jwt_authn", ("payload", "sub"))
    assert (rule["models"], rule["per_model"]) == (("a",), True)


def test_the_core_takes_what_is_made() -> None:
    text = rules("key: {header: k}, limits: {tokensPerMinute: 1}", "limits: {requestsPerDay: 1}, models: [m]")
    Quota(seed=1).set_rules(plan_of(text).rules)


def test_a_store(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    redis = f"{{url: 'rediss://h:6379/1', passwordFile: {tmp_path / 'password'}, prefix: p}}"
    plan = plan_of(
        f"  store: {{redis: {redis}, timeout: 50ms, onFailure: failClosed}}\n"
        "  maxCounters: 9\n  outputEstimate: learned\n"
    )
    assert plan.store == StorePlan("rediss://h:6379/1", "p", 0.05, "failClosed", "secret")
    assert (plan.max_counters, plan.bounds_output) == (9, False)
    assert "secret" not in repr(plan)
    plan = plan_of("  store: {redis: {url: 'redis://h'}}\n")
    assert plan.store == StorePlan("redis://h", "picker", 0.1, "local")


def test_it_is_told_in_words_without_keys() -> None:
    config = load_config(
        HEAD
        + "rateLimits:\n"
        + rules(
            "key: {header: k}, models: [m, n], perModel: true, limits: {requestsPerMinute: 1, tokensPerDay: 5k},"
            " keys: [{name: t, values: [sk-1, sk-2], limits: {costPerHour: 7}}, {name: u, values: [sk-3]}]",
            "key: {claim: {namespace: n, path: [a, b]}}, withoutKey: {inputTokensPerDay: 2}",
            "limits: {outputTokensPerSecond: 9}",
        )
    )
    text = describe(config)
    assert text[text.index("rate limits") :].splitlines()[:11] == [
        "rate limits, counted in memory, by each replica",
        "  r0: keys in header k each model of m, n",
        "    each key: 1 requests a minute, 5000 tokens a day",
        "    2 named: 7 tokens a hour",
        "    1 named: no limits",
        "  r1: keys in claim n a.b",
        "    without a key: 2 input tokens a day",
        "  r2: all requests",
        "    together: 9 output tokens a second",
    ]
    assert "sk-" not in text


def test_the_configurations_its_page_shows(tmp_path: Path) -> None:
    for name in ("keys/team-a", "keys/monitoring", "redis/password"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    page = (ROOT / "docs" / "rate-limits.md").read_text()
    shown = [text for text in blocks(page, "yaml") if "EndpointPickerConfig" in text]
    plans = [load_config(text.replace("/etc/picker", str(tmp_path))).rate_limits for text in shown]
    assert [len(plan.rules) for plan in plans] == [2, 1, 1]
    assert plans[2].store is not None and plans[2].store.password == "redis/password"


LIMIT = "limits: {requestsPerMinute: 1}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (rules("limits: {requestPerMinute: 1}"), "rateLimits.rules[0].limits.requestPerMinute: unknown field"),
        (rules("limits: {requestsPerMinute: -1}"), "is not a quantity"),
        (rules("limits: {}"), "limits nothing"),
        (rules(f"key: {{}}, {LIMIT}"), "one of the two"),
        (rules(f"key: {{header: 'a b'}}, {LIMIT}"), "not a header's name"),
        (rules(f"key: {{claim: {{namespace: n, path: [a, b, c, d, e]}}}}, {LIMIT}"), "1 to 4 steps"),
        (rules(f"{LIMIT}, withoutKey: {{requestsPerDay: 1}}"), "no key is looked for"),
        (rules(f"{LIMIT}, key: {{header: k}}, keys: [{{name: t}}]"), "has no values"),
        (rules(f"{LIMIT}, key: {{header: k}}, keys: [{{name: t, values: [sk-1, sk-1]}}]"), "is there twice"),
        (rules(f"{LIMIT}, key: {{header: k}}, keys: [{{name: t, file: /nowhere}}]"), "cannot be read"),
        (rules(f"{LIMIT}, weights: {{input: 2000}}"), "out of range"),
        (rules("limits: {tokensPerDay: 1, costPerDay: 2}"), "twice"),
        (rules(*[LIMIT] * 17), "at most 16 limits"),
        (f"  rules: [{{name: a, {LIMIT}}}, {{name: a, {LIMIT}}}]\n", "there twice"),
        (f"  rules: [{{name: 'a\"', {LIMIT}}}]\n", "not a rule's name"),
        ("  store: {}\n", "redis"),
        ("  store: {redis: {url: 'http://h'}}\n", "no URL of a Redis"),
        ("  store: {redis: {url: 'redis://h', prefix: 'a{b'}}\n", "no braces"),
        ("  store: {redis: {url: 'redis://h'}, timeout: 1h}\n", "1ms to 10s"),
        ("  store: {redis: {url: 'redis://h'}, onFailure: no}\n", "onFailure"),
        ("  maxCounters: 0\n", "at least 1"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"epp\.yaml:\d+") as told:
        plan_of(text)
    assert says in str(told.value)
    assert "sk-1" not in str(told.value), "keys are never told"
