"""Pools: engines, policies and endpoints by name, told to shells, reconfigured all together or not at all."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from picker._core.engine import Engine
from picker._core.score import PICK_MAX, SCORE_QUEUE
from picker._core.session import Session
from picker.config import load_config
from picker.errors import ConfigError
from picker.extproc.route import Route
from picker.policy.compile import ROLE_LABEL, Policy, compile_policy
from picker.pools import Pools, Recipe
from tests.support import messages
from tests.support.config_samples import HEAD
from tests.support.rig import endpoint, target

PLAIN = HEAD + "plugins: [{type: queue-scorer}]"
FILTERED = HEAD + "plugins: [{type: decode-filter}, {type: queue-scorer}]"
PREFILLS = {ROLE_LABEL: "prefill"}


def install(engine: Engine, policy: Policy) -> None:
    engine.set_policy(policy.steps, wanted=policy.wanted, plugins=policy.host)


def recipe(text: str = PLAIN, **other: Any) -> Recipe:
    def make_engine(name: str, policy: Policy) -> Engine:
        return Engine(hash_seed=1, limits={"endpoints": 8})

    made: dict[str, Callable[..., Any]] = {
        "policy": lambda name: compile_policy(load_config(text, source="epp.yaml"), installed={}),
        "engine": make_engine,
        "install": install,
    }
    return Recipe(**{**made, **other})


def eligible(pools: Pools, name: str) -> set[str]:
    """Where requests to that pool go: the engine breaks ties at random, from the same seed each time."""
    found = set()
    for _ in range(64):
        session = Session(pools[name].engine, 1)
        session.feed(messages.request_headers("/v1/models", end_of_stream=True), 1)
        found.add(session.destination)
        session.close(1)
    return found


def test_pools_are_opened_and_closed_by_name() -> None:
    pools = Pools(recipe())
    first, second = pools.open("a/x", ["x.a"]), pools.open("b/x", ["x.b", "y.b"])
    assert (list(pools), len(pools), pools["b/x"]) == ([first, second], 2, second)
    assert ("a/x" in pools, "x" in pools, pools.get("x")) == (True, False, None)
    assert pools.routes == ((first.engine, ("x.a",), "a/x"), (second.engine, ("x.b", "y.b"), "b/x"))
    first.pool.set_endpoints([endpoint(1)])
    assert (len(first.engine.endpoints(0)), len(second.engine.endpoints(0))) == (1, 0)
    pools.close("a/x")
    assert list(pools) == [second]
    with pytest.raises(KeyError, match="a/x"):
        pools.close("a/x")
    again = pools.open("a/x")
    assert again.engine is not first.engine
    assert again.pool.endpoints == ()


def test_a_pool_that_is_open_is_called_by_other_names() -> None:
    pools = Pools(recipe())
    first = pools.open("a/x", ["x.a"])
    heard: list[Sequence[Route]] = []
    pools.subscribe(heard.append)
    assert pools.open("a/x", ["x.a"]) is first
    assert pools.open("a/x", ["y.a"]) is first
    pools.open("b/x")
    pools.close("a/x")
    assert [[(names, name) for _, names, name in routes] for routes in heard] == [
        [(("x.a",), "a/x")],
        [(("y.a",), "a/x")],
        [(("y.a",), "a/x"), ((), "b/x")],
        [((), "b/x")],
    ]


def test_what_a_shell_refuses_is_not_opened() -> None:
    pools = Pools(recipe())
    pools.open("a/x", ["x.a"])
    told: list[list[str]] = []

    def refuse(routes: Sequence[Route]) -> None:
        if any("bad" in names for _, names, _ in routes):
            raise ValueError("bad")
        told.append([name for _, _, name in routes])

    pools.subscribe(refuse)
    with pytest.raises(ValueError, match="bad"):
        pools.open("b/x", ["bad"])
    with pytest.raises(ValueError, match="bad"):
        pools.open("a/x", ["bad"])
    assert [(served.name, served.authorities) for served in pools] == [("a/x", ("x.a",))]
    assert told == [["a/x"]] * 3


def test_there_is_a_bound() -> None:
    pools = Pools(recipe(), most=2)
    pools.open("a")
    pools.open("b")
    with pytest.raises(OverflowError, match="at most 2 pools: 'c'"):
        pools.open("c")
    pools.close("a")
    pools.open("c")


def test_what_cannot_be_made_is_not_opened() -> None:
    def fail(name: str) -> Policy:
        raise ConfigError("no", source="epp.yaml")

    pools = Pools(recipe(policy=fail))
    with pytest.raises(ConfigError):
        pools.open("a")
    assert len(pools) == 0


def test_a_closed_pool_is_freed() -> None:
    pools = Pools(recipe())
    gone = weakref.ref(pools.open("a").pool)
    pools.close("a")
    gc.collect()
    assert gone() is None


def test_other_policies_are_in_force_everywhere_and_labels_follow() -> None:
    pools = Pools(recipe())
    for name in ("a", "b"):
        pools.open(name).pool.set_endpoints([endpoint(1), endpoint(2, PREFILLS)])
    assert eligible(pools, "a") == eligible(pools, "b") == {target(1), target(2)}
    engines = [served.engine for served in pools]
    pools.reconfigure(recipe(FILTERED))
    assert eligible(pools, "a") == eligible(pools, "b") == {target(1)}
    assert [served.engine for served in pools] == engines
    assert {served.policy.names for served in pools} == {("decode-filter", "queue-scorer", "max-score-picker")}
    pools.open("c").pool.set_endpoints([endpoint(1), endpoint(2, PREFILLS)])
    assert eligible(pools, "c") == {target(1)}
    pools["a"].pool.change(come=[endpoint(3), endpoint(4, PREFILLS)])
    assert eligible(pools, "a") == {target(1), target(3)}
    pools.reconfigure(recipe())
    assert eligible(pools, "a") == {target(1), target(2), target(3), target(4)}


def test_each_pool_has_a_policy_of_its_own() -> None:
    pools = Pools(recipe())
    assert pools.open("a").policy is not pools.open("b").policy
    pools.reconfigure(recipe())
    assert pools["a"].policy is not pools["b"].policy


def refused_by_the_core(name: str) -> Policy:
    """Compiles, as it were; no engine takes it."""
    policy = compile_policy(load_config(PLAIN, source="epp.yaml"), installed={})
    return (
        policy
        if name == "a"
        else type(policy)(
            steps=((SCORE_QUEUE, 1.0, (), 0), (SCORE_QUEUE, -1.0, (), 0), (PICK_MAX, 1.0, (), 0)),
            names=("one", "two", "three"),
            wanted=1,
            selectors=(),
            host=None,
            prior_rate=1.0,
            session_header="x",
            flow=policy.flow,
        )
    )


def refused_when_compiled(name: str) -> Policy:
    if name == "b":
        raise ConfigError("no", source="epp.yaml")
    return refused_by_the_core("a")


@pytest.mark.parametrize("policy", [refused_by_the_core, refused_when_compiled])
def test_a_policy_that_is_refused_leaves_the_old_ones_everywhere(policy: Callable[[str], Policy]) -> None:
    pools = Pools(recipe(FILTERED))
    for name in ("a", "b"):
        pools.open(name).pool.set_endpoints([endpoint(1)])
    before = [served.policy for served in pools]
    installed: list[Engine] = []

    def count(engine: Engine, policy: Policy) -> None:
        install(engine, policy)
        installed.append(engine)

    with pytest.raises((ValueError, ConfigError)):
        pools.reconfigure(recipe(policy=policy, install=count))
    assert [served.policy for served in pools] == before
    assert not {served.engine for served in pools} & set(installed)
    assert pools.open("c").policy.names == before[0].names
