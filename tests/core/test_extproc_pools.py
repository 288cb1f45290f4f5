"""Several pools behind one service: a stream's own is found once, and lives until the last of its streams has ended."""

import gc
import json
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picker._core.engine import Engine
from picker._core.extproc import ExtProc
from tests.model import pools as model
from tests.support import messages as m
from tests.support.builds import debug_build_only
from tests.support.exchange import assert_idle, engine_with
from tests.support.h2memory import MemoryCall, MemoryClient, server
from tests.support.h2peer import framed
from tests.support.h2service import PROCESS, REQUEST, SECOND, chunk
from tests.support.leaks import assert_flat, each_allocation_failing

NAME = "x-gateway-inference-pool"
HOST = {"ml/a": "picker-a.ml", "ml/b": "picker-b.ml", "web/a": "picker-a.web"}
RESPONSE = framed(m.response_headers()) + framed(m.response_body(b"x", end_of_stream=True))


def engine(name: str, **limits: int) -> Engine:
    """Of one endpoint, whose port says which pool it is in."""
    made = Engine(hash_seed=1, limits={"endpoints": 4, **limits})
    made.add_endpoint(f"10.0.0.1:{port(name)}", "10.0.0.1")
    return made


def port(name: str) -> int:
    return 8000 + list(HOST).index(name)


class Several:
    """A service over the pools of these names, and a connection to it."""

    def __init__(self, *names: str, by_name: bool = False, **options: Any) -> None:
        self.extproc = ExtProc(timeout_ns=10 * SECOND, by_name=by_name)
        self.engines: dict[str, Engine] = {}
        self.set(names)
        self.server = server(self.extproc, **options)
        self.client = MemoryClient(self.server)

    def set(self, names: Sequence[str]) -> None:
        self.engines = {name: self.engines.get(name) or engine(name) for name in names}
        self.extproc.set_pools([(made, (HOST[name],), name) for name, made in self.engines.items()])
        self.extproc._check()

    def open(self, authority: str = "test", *metadata: tuple[str, str]) -> MemoryCall:
        return self.client.open(PROCESS, *metadata, authority=authority)

    def ask(self, authority: str = "test", *metadata: tuple[str, str]) -> MemoryCall:
        call = self.open(authority, *metadata)
        call.send(REQUEST)
        self.extproc._check()
        return call


def said(call: MemoryCall) -> str:
    """The port that was picked, or what the client is told."""
    reply = m.parse(call.messages.popleft())
    if reply.WhichOneof("response") != "immediate_response":
        call.messages.popleft()
        (option,) = reply.request_headers.response.header_mutation.set_headers
        return str(option.header.raw_value.decode().rpartition(":")[2])
    assert (call.status, list(call.messages)) == ("OK", [])
    immediate = reply.immediate_response
    headers = {option.header.key: option.header.raw_value for option in immediate.headers.set_headers}
    assert (immediate.status.code, headers["retry-after"]) == (503, b"1")
    assert headers["x-llm-d-request-dropped-reason"] == b"rejected-no-endpoints"
    error = json.loads(immediate.body)["error"]
    assert (error["type"], error["param"], error["code"]) == ("service_unavailable", None, "unknown_pool")
    return str(error["message"])


# --- which pool ---


def test_one_pool_alone_gets_every_stream() -> None:
    several = Several("ml/a")
    for authority, metadata in (("test", ()), ("picker-b.ml", ()), ("test", ((NAME, "ml/b"),))):
        assert said(several.ask(authority, *metadata)) == "8000"
    assert (several.extproc.opened, several.extproc.picked, several.extproc.unknown) == (3, 3, 0)


def test_where_there_may_be_several_one_alone_gets_only_its_own() -> None:
    several = Several("ml/a", by_name=True)
    assert said(several.ask("picker-a.ml")) == "8000"
    assert "no pool" in said(several.ask("picker-b.ml"))
    assert (several.extproc.picked, several.extproc.unknown) == (1, 1)


def test_of_several_the_authority_says_which() -> None:
    several = Several(*HOST)
    for name, host in HOST.items():
        assert said(several.ask(f"outbound|9002||{host}.svc.cluster.local")) == str(port(name))
    assert [made.sessions for made in several.engines.values()] == [1, 1, 1]
    assert said(several.ask("picker-b:9002")) == "8001"


def test_metadata_says_it_before_the_authority() -> None:
    several = Several(*HOST)
    assert said(several.ask("picker-a.ml", (NAME, "web/a"))) == "8002"
    assert said(several.ask("picker-a.ml", (NAME, ""))) == "8000"
    assert said(several.ask("picker-a.ml", (NAME, "ml/b"), (NAME, "web/a"))) == "8001"
    assert said(several.ask("picker-b.ml")) == "8001"  # nothing is left of what the one before has said


@pytest.mark.parametrize(
    ("authority", "metadata", "text"),
    [
        ("test:9002", (), "the endpoint picker serves no pool for the authority 'test:9002'"),
        ("picker-a.ml", ((NAME, "ml/c"),), "the endpoint picker serves no pool named 'ml/c'"),
        (
            "picker-a:1",
            (),
            "the endpoint picker serves more than one pool for the authority 'picker-a:1':"
            " name one in the gRPC metadata x-gateway-inference-pool",
        ),
        ('a"b\\c%s\x7f', (), "the endpoint picker serves no pool for the authority 'a?b?c%s?'"),
        ("a" * 160, (), f"the endpoint picker serves no pool for the authority '{'a' * 160}'"),
        ("a" * 161, (), f"the endpoint picker serves no pool for the authority '{'a' * 160}...'"),
        (
            "picker-a.ml." + "a" * 4000,
            (),
            f"the endpoint picker serves no pool for the authority 'picker-a.ml.{'a' * 148}...'",
        ),
        ("picker-a.ml", ((NAME, "n" * 4000),), f"the endpoint picker serves no pool named '{'n' * 160}...'"),
    ],
)
def test_a_pool_that_is_not_known_is_503(authority: str, metadata: tuple[tuple[str, str], ...], text: str) -> None:
    several = Several(*HOST)
    call = several.open(authority, *metadata)
    several.client.exchange()
    assert (call.status, several.extproc.open, several.extproc.unknown) == ("", 1, 1)  # until the request comes
    call.send(REQUEST)
    assert said(call) == text
    several.client.pass_time(SECOND)
    assert (several.extproc.open, several.extproc.opened, several.extproc.picked) == (0, 1, 0)
    for made in several.engines.values():
        assert made.stats()["series"] == []


def test_no_pool_at_all_is_503_too() -> None:
    several = Several()
    assert said(several.ask("picker-a.ml")) == "the endpoint picker serves no pool for the authority 'picker-a.ml'"
    several.set(["ml/a"])
    assert said(several.ask("picker-a.ml")) == "8000"


def test_who_only_watches_is_let_go_without_a_word() -> None:
    several = Several(*HOST)
    message = m.ext_proc.ProcessingRequest.FromString(m.request_headers())
    message.observability_mode = True
    call = several.open()
    call.send(framed(message.SerializeToString()))
    assert (call.status, list(call.messages)) == ("OK", [])


def test_what_is_no_message_is_an_error_for_strangers_too() -> None:
    several = Several(*HOST)
    call = several.open()
    call.send(framed(b"\xff\xff"))
    assert (call.status, list(call.messages)) == ("INVALID_ARGUMENT", [])
    assert several.extproc.open == 0


@pytest.mark.parametrize("way", ["late", "half closed", "reset", "impatient", "closed", "stopped"])
def test_strangers_end_like_others(way: str) -> None:
    several = Several(*HOST)
    call = several.open("test", *([("grpc-timeout", "3S")] if way == "impatient" else []))
    several.client.exchange()
    if way == "late":
        several.client.pass_time(10 * SECOND)
        assert said(call).startswith("the endpoint picker serves no pool")
    elif way == "half closed":
        call.send(end_stream=True)
        assert call.status == "OK"
    elif way == "reset":
        call.reset()
    elif way == "impatient":
        several.client.pass_time(3 * SECOND)
        assert call.status == "DEADLINE_EXCEEDED"
    elif way == "stopped":
        several.client.connection.stop()
        several.client.exchange()
        assert call.status == "UNAVAILABLE"
    several.client.connection.wake()
    several.client.close()
    assert (several.extproc.open, several.server.open_calls) == (0, 0)
    several.extproc._check()


def test_a_pool_that_is_full_refuses_for_itself_alone() -> None:
    several = Several(*HOST)
    small = engine("ml/a", sessions=1, surplus=1)
    several.extproc.set_pools([(small, ("picker-a.ml",), "ml/a"), (several.engines["ml/b"], ("picker-b.ml",), "ml/b")])
    calls = [several.ask("picker-a.ml") for _ in range(3)]
    assert said(calls[0]) == "8000"
    assert m.parse(calls[1].messages.popleft()).immediate_response.status.code == 429
    assert said(several.ask("picker-b.ml")) == "8001"
    several.extproc._check()


# --- pools come and go ---


def test_streams_of_a_pool_that_goes_end_well() -> None:
    several = Several(*HOST)
    opened, answered = several.open("picker-a.ml"), several.ask("picker-a.ml")
    opened.send(framed(m.request_headers()))
    assert said(answered) == "8000"
    old = several.engines["ml/a"]
    several.set(["ml/b", "web/a"])
    assert (several.extproc.sweep(), old.sessions, several.extproc.open) == (1, 2, 2)
    assert said(several.ask("picker-a.ml")).endswith("'picker-a.ml'")
    opened.send(chunk(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}') + framed(m.request_body(b"")))
    assert said(opened) == "8000"
    for call in (opened, answered):
        call.send(RESPONSE, end_stream=True)
        assert call.status == "OK"
    assert_idle(old)
    assert (sum(row["requests"] for row in old.stats()["series"]), several.extproc.sweep()) == (2, 0)
    several.extproc._check()


def test_a_pool_that_goes_is_freed_behind_its_last_stream() -> None:
    class Marked:
        """Kept by the engine as its plugin host."""

        def __call__(self, *_: Any) -> None:
            return None

    several = Several(*HOST)
    marked = Marked()
    gone = weakref.ref(marked)
    several.engines["ml/a"].set_policy([(30, 1.0, (), 0)], plugins=marked)
    del marked
    call = several.ask("picker-a.ml")
    several.set(["ml/b"])
    gc.collect()
    assert gone() is not None
    call.reset()
    assert several.extproc.sweep() == 0
    gc.collect()
    assert gone() is None


def test_a_pool_that_comes_back_while_its_streams_run_is_the_same() -> None:
    several = Several("ml/a", "ml/b")
    kept, call = several.engines["ml/a"], several.ask("picker-a.ml")
    several.set(["ml/b"])
    several.engines["ml/a"] = kept
    several.set(["ml/b", "ml/a"])
    assert (several.extproc.sweep(), several.extproc.open) == (0, 1)
    assert said(several.ask("picker-a.ml")) == "8000"
    call.reset()
    assert several.extproc.open == 1


def test_the_pools_may_change_while_a_plugin_is_asked() -> None:
    """The pool it runs for is gone when it answers: the stream still ends there."""
    several = Several(*HOST)

    def host(*_: Any) -> list[float]:
        several.set(["ml/b"])
        return [1.0]

    several.engines["ml/a"].set_policy([(20, 1.0, (), 0), (30, 1.0, (), 0)], plugins=host)
    old = several.engines["ml/a"]
    call = several.ask("picker-a.ml")
    assert said(call) == "8000"
    call.send(RESPONSE, end_stream=True)
    assert call.status == "OK"
    assert_idle(old)
    assert several.extproc.sweep() == 0


@pytest.mark.parametrize(
    ("pools", "error", "text"),
    [
        ([("engine", (), "x")], TypeError, "pool 'x' has no Engine"),
        ([(0, (), "x"), (0, (), "y")], ValueError, "pool 'y' is that of another"),
        ([(0, (), "x"), (1, (), "x")], ValueError, "two pools 'x'"),
        ([(0, ("",), "x")], ValueError, "names no service"),
    ],
)
def test_what_cannot_be_changes_nothing(pools: list[Any], error: type[Exception], text: str) -> None:
    several = Several(*HOST)
    engines = list(several.engines.values())
    given = [(engines[made] if isinstance(made, int) else made, hosts, name) for made, hosts, name in pools]
    with pytest.raises(error, match=text):
        several.extproc.set_pools(given)
    several.extproc._check()
    assert said(several.ask("picker-b.ml")) == "8001"


# --- figures ---


def test_the_time_of_picks_is_shared_among_pools() -> None:
    several = Several("ml/a", "ml/b")
    streams = [several.ask("picker-a.ml"), several.ask("picker-a.ml"), several.ask("picker-b.ml")]
    several.set(["ml/b"])  # also by one that is gone
    several.extproc.count_scheduling(0.003)
    several.extproc.count_scheduling(1.0)  # nothing was picked since
    assert (several.extproc.picked, len(streams)) == (3, 3)
    counted = several.engines["ml/b"].stats()["scheduling_s"]
    assert (counted[0][-1][1], pytest.approx(counted[1])) == (1, 0.001)


# --- whatever happens ---


class PoolsMachine(RuleBasedStateMachine):
    """Streams and pools come and go; where each stream goes is what the model says."""

    def __init__(self) -> None:
        super().__init__()
        self.several = Several()
        self.every: list[Engine] = []
        self.streams: list[tuple[MemoryCall, Engine]] = []
        self.opened = self.unknown = 0

    @rule(names=st.lists(st.sampled_from(list(HOST)), unique=True))
    def set(self, names: list[str]) -> None:
        self.several.set(names)
        self.every += [made for made in self.several.engines.values() if made not in self.every]

    @rule(name=st.sampled_from(["", *HOST, "no/such"]), host=st.sampled_from([*HOST.values(), "picker-a", "test"]))
    def ask(self, name: str, host: str) -> None:
        several = self.several
        pools = [(each, (HOST[each],)) for each in several.engines]
        found = 0 if len(pools) == 1 else model.PoolNames(pools).find(name.encode(), host.encode())
        call = several.ask(host, *([(NAME, name)] if name else []))
        told = said(call)
        self.opened += 1
        self.unknown += found < 0
        assert told == str(port(pools[found][0])) if found >= 0 else "serves" in told
        if found >= 0:
            self.streams.append((call, several.engines[pools[found][0]]))

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), resets=st.booleans())
    def end(self, data: st.DataObject, resets: bool) -> None:
        call, _ = self.streams.pop(data.draw(st.integers(0, len(self.streams) - 1)))
        if resets:
            call.reset()
        else:
            call.send(RESPONSE, end_stream=True)
            assert call.status == "OK"

    @rule()
    def sweep(self) -> None:
        served = set(map(id, self.several.engines.values()))
        assert self.several.extproc.sweep() == len({id(made) for _, made in self.streams} - served)

    @invariant()
    def equal(self) -> None:
        extproc = self.several.extproc
        extproc._check()
        assert (extproc.open, extproc.opened, extproc.unknown) == (len(self.streams), self.opened, self.unknown)
        assert extproc.picked == self.opened - self.unknown
        for made in self.every:
            assert made.sessions == sum(of is made for _, of in self.streams)


PoolsMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestPools = PoolsMachine.TestCase


KEPT = [engine(name) for name in HOST]


def churn() -> None:
    """Pools of engines that stay: what is left behind would be the service's."""
    extproc = ExtProc(timeout_ns=SECOND)
    client = MemoryClient(server(extproc))
    extproc.set_pools([(made, (HOST[name],), name) for name, made in zip(HOST, KEPT, strict=True)])
    for host in (*HOST.values(), "test", "picker-a"):
        client.open(PROCESS, authority=host).send(REQUEST)
    client.open(PROCESS, authority="nobody")
    extproc.set_pools([(KEPT[2], (), "web/a")])
    client.pass_time(SECOND)
    extproc.sweep()
    client.close()


def test_leaks_nothing() -> None:
    churn()
    assert_flat(churn, calls=3)


def test_streams_of_a_pool_that_is_let_go_of_end_before_it() -> None:
    """All of it garbage at once: what is collected first keeps what is collected later from nothing it needs."""
    several = Several("ml/a", "ml/b")
    several.ask("picker-a.ml")
    several.set(["ml/b"])
    kept: list[Any] = [several, several.client.connection]
    kept.append(kept)  # last in line, with the connection
    del several, kept
    gc.collect()


def test_pools_that_come_and_go_leave_nothing_behind() -> None:
    extproc = ExtProc(engine_with(), timeout_ns=SECOND)

    def swap() -> None:
        extproc.set_pools([(engine("ml/a"), ("a.b",), "ml/a"), (engine("ml/b"), (), "ml/b")])

    swap()  # as many as there will be
    assert_flat(swap, calls=5)


@debug_build_only
def test_survives_failing_allocations() -> None:
    churn()
    assert each_allocation_failing(churn) > 50
    for made in KEPT:
        assert (made.sessions, made.in_flight) == (0, 0)
