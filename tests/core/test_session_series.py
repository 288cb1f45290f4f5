"""Where requests are counted: by model, by the priority of their objective, and by whose they are."""

import pytest

from tests.support.crowd import Crowd, asks
from tests.support.rig import SECOND, Rig, chat

Counts = dict[tuple[str, str, str], int]


def counted(rig: Rig, what: str = "requests") -> Counts:
    """By model, priority and fairness id; without those of which there are none."""
    rows = rig.engine.stats()["series"]
    return {(one["model"], one["priority"], one["fairness_id"]): one[what] for one in rows if one[what]}


@pytest.fixture
def crowd() -> Crowd:
    """What was counted to begin with is forgotten by `since`."""
    return Crowd()


def since(before: Counts, after: Counts) -> Counts:
    return {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key, 0)}


def test_each_model_priority_and_tenant_has_a_series(crowd: Crowd) -> None:
    assert counted(crowd) == {
        (model, priority, tenant): 1 for model in ("qwen",) for priority in ("0", "10") for tenant in "ab"
    }
    before = counted(crowd)
    for model, tenant, objective in (("qwen", "a", ""), ("qwen", "a", "vip"), ("llama", "a", ""), ("llama", "", "")):
        crowd.pick(chat(model=model), headers=asks(tenant, objective))
    assert since(before, counted(crowd)) == {
        ("qwen", "0", "a"): 1,
        ("qwen", "10", "a"): 1,
        ("llama", "0", "a"): 1,
        ("llama", "0", "default-flow"): 1,
    }


def test_a_request_under_way_is_where_it_will_be_counted(crowd: Crowd) -> None:
    session = crowd.ask("a", "vip")
    assert counted(crowd, "running") == {("qwen", "10", "a"): 1}
    crowd.finish(session)
    assert counted(crowd, "running") == {}


def test_who_is_not_served_has_no_series_but_its_priority_is_told(crowd: Crowd) -> None:
    before = counted(crowd)
    crowd.ask("a")
    for tenant in ("a", "stranger"):
        crowd.ask(tenant, "batch").close(crowd.now_ns)
        crowd.pick(chat(model="nobody-knows"), headers=asks(tenant, "batch"))
    assert since(before, counted(crowd)) == {("qwen", "-1", "other"): 2, ("other", "-1", "other"): 2}
    (found,) = [one for one in crowd.engine.stats()["series"] if one["model"] == "other" and one["priority"] == "-1"]
    assert found["failures"] == {"Saturated": 2}


def test_who_is_served_at_last_has_a_series(crowd: Crowd) -> None:
    first, second = crowd.ask("a"), crowd.ask("stranger")
    assert counted(crowd, "waiting") == {("qwen", "0", "other"): 1}
    crowd.finish(first)
    assert crowd.go_on() == [second]
    crowd.finish(second)
    assert counted(crowd)["qwen", "0", "stranger"] == 1
    assert counted(crowd, "waiting") == counted(crowd, "running") == {}


def test_a_request_whose_model_nobody_knows_has_its_priority(crowd: Crowd) -> None:
    before = counted(crowd)
    crowd.pick(b"", path="/v1/unknown", headers=asks("a", "vip"))
    assert since(before, counted(crowd)) == {("", "10", "a"): 1}


@pytest.mark.parametrize("ends", ["closed", "timed out"])
def test_nobody_waits_who_has_gone(crowd: Crowd, ends: str) -> None:
    crowd.ask("a")
    waiting = [crowd.ask(tenant, "vip") for tenant in ("a", "b")]
    assert counted(crowd, "waiting") == {("qwen", "10", "a"): 1, ("qwen", "10", "b"): 1}
    if ends == "timed out":
        crowd.now_ns += 6 * SECOND
        assert sorted(map(id, crowd.go_on())) == sorted(map(id, waiting))
    for session in waiting:
        session.close(crowd.now_ns)
    assert counted(crowd, "waiting") == counted(crowd, "waiting_bytes") == {}
    crowd.engine._check()


def test_tenants_are_shown_as_text_that_any_page_can_hold(crowd: Crowd) -> None:
    crowd.pick(chat(model="qwen"), headers=asks("naïve\t" + "x" * 100, ""))
    (name,) = {tenant for _, _, tenant in counted(crowd)} - {"a", "b"}
    assert name == "na??ve?" + "x" * 57


def test_a_decision_says_whose_it_was_and_how_long_it_waited(crowd: Crowd) -> None:
    first, second = crowd.ask("a"), crowd.ask("b", "vip")
    crowd.now_ns += 2 * SECOND
    crowd.finish(first)
    assert crowd.go_on() == [second]
    late, soon = crowd.engine.decisions(2)
    assert (late["fairness_id"], late["priority"], late["waited_s"]) == ("b", 10, 2.0)
    assert (soon["fairness_id"], soon["priority"], soon["waited_s"]) == ("a", 0, 0.0)
