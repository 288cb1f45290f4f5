"""The pool: discovery's endpoints bound to the engine's slots."""

import logging
from typing import Any

import pytest

from picker._core.engine import Engine
from picker.policy.compile import ROLE_LABEL
from picker.pool import Pool
from picker.types import Endpoint, ScrapedLoad
from tests.support.config_samples import HEAD
from tests.support.rig import Rig, chat, endpoint, target

FILTERED = HEAD + "plugins: [{type: decode-filter}, {type: queue-scorer}]"


def rig(count: int = 2, text: str = HEAD, **limits: int) -> Rig:
    return Rig(text, [endpoint(number + 1) for number in range(count)], limits=limits)


def views(made: Rig) -> dict[str, dict[str, Any]]:
    return {view["target"]: view for view in made.engine.endpoints(made.now_ns)}


def test_endpoints_come_and_go() -> None:
    made = rig(2)
    made.pool.set_endpoints([endpoint(2), endpoint(3)])
    assert [each.target for each in made.pool.endpoints] == [target(2), target(3)]
    assert sorted(views(made)) == [target(2), target(3)]
    made.pool.set_endpoints([])
    assert (made.pool.endpoints, views(made), made.pick()) == ((), {}, "")
    made.pool.set_endpoints(iter([endpoint(4)]))
    assert made.pick() == target(4)


def test_those_that_stay_keep_what_is_known_of_them() -> None:
    made = rig(1)
    made.load(1, waiting=3, running=4, kv_usage=0.5)
    session, _ = made.send(chat("p" * 4096))
    before = views(made)[target(1)]
    made.pool.set_endpoints([endpoint(2), endpoint(1)])
    assert views(made)[target(1)] == before
    made.pool.set_endpoints([endpoint(1, {"zone": "a"})])  # other labels
    assert views(made)[target(1)] == before
    assert made.engine.index_blocks > 0
    made.finish(session)
    assert views(made)[target(1)]["requests"] == 0


@pytest.mark.parametrize(
    "other",
    [
        endpoint(1, name="pod-9"),
        Endpoint(name="pod-1", namespace="elsewhere", address="192.168.1.1", port=8000),
    ],
    ids=["name", "namespace"],
)
def test_the_same_address_under_another_name_starts_empty(other: Endpoint) -> None:
    made = rig(1)
    made.load(1, waiting=3, running=4, kv_usage=0.5)
    session, _ = made.send(chat("p" * 4096))
    before = views(made)[target(1)]
    made.pool.set_endpoints([other])
    after = views(made)[target(1)]
    assert after["generation"] != before["generation"]
    assert (after["requests"], after["prefill_tokens"], after["waiting"], after["picks"]) == (0, 0, -1.0, 0)
    assert made.engine.index_blocks == 0
    made.finish(session)  # which releases what was booked on the old one, not on this
    assert views(made)[target(1)]["requests"] == 0


def test_labels_are_followed() -> None:
    made = rig(2, FILTERED)
    made.pool.set_endpoints([endpoint(1, {ROLE_LABEL: "prefill"}), endpoint(2)])
    assert {made.pick() for _ in range(8)} == {target(2)}
    made.pool.set_endpoints([endpoint(1), endpoint(2, {ROLE_LABEL: "encode"})])
    assert {made.pick() for _ in range(8)} == {target(1)}


def test_ipv6_and_ports_are_told_apart() -> None:
    made = Rig(HEAD, [])
    made.pool.set_endpoints(
        [
            Endpoint(name="a", address="fd00::1", port=8000),
            Endpoint(name="a-rank-1", address="fd00::1", port=8001),
        ]
    )
    assert sorted(views(made)) == ["[fd00::1]:8000", "[fd00::1]:8001"]
    assert made.pick(subset=["[fd00::1]:8001"]) == "[fd00::1]:8001"
    assert made.pick(subset=["fd00::1"]).startswith("[fd00::1]:800")


def test_a_change_touches_what_it_names_and_nothing_else() -> None:
    made = rig(3)
    before = views(made)
    made.pool.change(gone=[target(1), target(9)], come=[endpoint(3, {"zone": "a"}), endpoint(4)])
    after = views(made)
    assert sorted(after) == [target(2), target(3), target(4)]
    assert (after[target(2)], after[target(3)]) == (before[target(2)], before[target(3)])
    assert {each.target: each.labels for each in made.pool.endpoints}[target(3)] == {"zone": "a"}
    made.pool.change(come=[endpoint(2, name="pod-9")])
    assert views(made)[target(2)]["generation"] != before[target(2)]["generation"]


# --- limits ---


def test_beyond_the_limit_endpoints_are_left_out_until_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    made = rig(3, endpoints=2)
    assert [each.target for each in made.pool.endpoints] == [target(1), target(2)]
    assert "192.168.1.3:8000 left out: at most 2 endpoints" in caplog.text
    made.pool.set_endpoints([endpoint(3), endpoint(2)])
    assert sorted(views(made)) == [target(2), target(3)]


def test_who_was_left_out_comes_in_when_another_goes() -> None:
    made = rig(3, endpoints=2)
    made.pool.change(gone=[target(1)])
    assert [each.target for each in made.pool.endpoints] == [target(2), target(3)]
    made.pool.change(come=[endpoint(4)])
    made.pool.change(gone=[target(4), target(2)])
    assert [each.target for each in made.pool.endpoints] == [target(3)]


def test_who_was_left_out_is_told_of_too() -> None:
    made = rig(3, endpoints=2)
    assert [each.target for each in made.pool.told] == [target(1), target(2), target(3)]
    made.pool.change(gone=[target(3)])
    assert made.pool.told == made.pool.endpoints


def test_a_name_too_long_for_a_session_token_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    made = Rig(HEAD, [endpoint(1, name="n" * 500), endpoint(2, name="n" * 253)])
    assert [each.target for each in made.pool.endpoints] == [target(2)]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# --- what the scraper tells ---


def test_scrapes_reach_the_engine() -> None:
    made = rig(2)
    made.now_ns = 5_000_000_000
    made.load(1, waiting=3, running=4, kv_usage=0.5, max_lora=2)
    known = views(made)[target(1)]
    assert (known["waiting"], known["running"], known["kv_usage"], known["max_lora"]) == (3.0, 4.0, 0.5, 2.0)
    assert known["scraped_ns"] == 5_000_000_000
    made.load(1, running=1)
    known = views(made)[target(1)]
    assert (known["waiting"], known["running"], known["kv_usage"], known["max_lora"]) == (-1.0, 1.0, -1.0, -1.0)
    assert views(made)[target(2)]["scraped_ns"] == 0


def test_the_size_of_the_cache_bounds_what_the_index_thinks_it_holds() -> None:
    made = rig(1)
    made.pick(chat("p" * 65_536))
    assert made.engine.index_blocks > 250
    made.load(1, waiting=0, num_blocks=100, block_size_tokens=16)  # 1,600 tokens: 25 index blocks, and a part of one
    assert made.engine.index_blocks <= 26
    made.load(1, waiting=0, num_blocks=0, block_size_tokens=16)
    made.load(1, waiting=0, num_blocks=10**18, block_size_tokens=10**18)
    made.pick(chat("q" * 65_536))
    assert made.engine.index_blocks > 250


def test_endpoints_that_have_gone_or_were_replaced_are_let_be() -> None:
    made = rig(1)
    session, _ = made.send()
    other = endpoint(1, name="pod-9")
    made.pool.observe(other.key, ScrapedLoad(waiting=7))
    assert views(made)[target(1)]["waiting"] == -1.0
    made.pool.set_endpoints([])
    made.pool.observe(endpoint(1).key, ScrapedLoad(waiting=7))
    made.finish(session)


def test_the_clock_is_the_processs_own_by_default() -> None:
    made = rig(0)
    pool = Pool(Engine(hash_seed=1), made.policy)
    pool.set_endpoints([endpoint(1)])
    pool.observe(endpoint(1).key, ScrapedLoad(waiting=1))
    assert pool.endpoints == (endpoint(1),)
