"""Plugins of the body-based router in the core: what they see and change, and responses that are held for them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import bbr
from picker._core.view import PART_BODY, PART_EVENT, PART_HEADERS, View
from tests.model import bbr as model
from tests.support import messages as m
from tests.support.bodies import BASE, MODEL, BodyGateway, router_with
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, each_allocation_failing

DUPLEX, BUFFERED, PARTIAL, STREAMED, NONE = m.FULL_DUPLEX, m.BUFFERED, m.BUFFERED_PARTIAL, m.STREAMED, m.NONE
ENDINGS = ["chunk", "empty", "trailers"]
BODY = b'{ "model": "llama", "n" : [1, {"a": "x"}], "user":"me"}'
SAFE = b'{"error":{"message":"no"}}'


class Seen:
    """A plugin that notes what it sees; `act` may do something too."""

    def __init__(self, act: Callable[[View], object] = lambda view: None) -> None:
        self.parts: list[int] = []
        self.bodies: list[bytes] = []
        self.pairs: list[list[tuple[bytes, bytes]]] = []
        self._act = act

    def __call__(self, view: View) -> None:
        view._check()
        self.parts.append(view.part)
        self.bodies.append(view.body)
        self.pairs.append(view.pairs())
        self._act(view)


def through(act: Callable[[View], object], body: bytes = BODY, mode: int = DUPLEX, **change: Any) -> BodyGateway:
    """The gateway behind a request that a plugin has seen."""
    gateway = BodyGateway(router_with([act]), modes=(mode, mode), **change)
    gateway.post(body, cut=7, ending="chunk")
    return gateway


# --- requests ---


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
def test_a_plugin_sees_the_whole_request(mode: int) -> None:
    seen = Seen()
    through(seen, mode=mode).request.demand_complete()
    assert (seen.parts, seen.bodies) == ([PART_BODY], [BODY])
    assert (b":path", b"/v1/chat/completions") in seen.pairs[0]


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED, STREAMED, NONE])
@pytest.mark.parametrize("sees", [True, False])
def test_a_plugin_sees_requests_that_have_no_body(mode: int, sees: bool) -> None:
    seen = Seen(lambda view: view.edit(b"x-seen", b"1"))
    gateway = BodyGateway(router_with([seen], sees=sees), modes=(mode, mode))
    gateway.send_headers(end=True)
    assert (seen.parts, seen.bodies, gateway.headers) == ([PART_HEADERS], [b""], {"x-seen": "1"})


@pytest.mark.parametrize("mode", [STREAMED, NONE])
def test_of_bodies_that_are_not_shown_a_plugin_sees_the_headers_if_that_will_do(mode: int) -> None:
    for sees in (True, False):
        seen = Seen()
        gateway = BodyGateway(router_with([seen], sees=sees), modes=(mode, mode))
        gateway.post(BODY)
        gateway.request.demand_complete()
        assert seen.parts == ([] if sees else [PART_HEADERS])
        assert gateway.router.figures()["request"][0]["skipped"] == int(sees)
    gateway = BodyGateway(router_with([Seen()], closed=True), modes=(mode, mode))
    gateway.send_headers()
    assert gateway.error()[0] == 500


def test_bodies_of_grpc_are_not_shown() -> None:
    """They may wait for an answer before they end."""
    seen = Seen()
    gateway = BodyGateway(router_with([seen]))
    gateway.send_headers(headers={"content-type": "application/grpc"})
    gateway.send_body([b"\0\0\0\0\0"])
    gateway.request.demand_complete()
    assert seen.parts == []


def test_the_beginning_of_a_body_is_not_shown() -> None:
    seen = Seen()
    gateway = BodyGateway(router_with([seen]), modes=(PARTIAL, NONE))
    gateway.send_headers()
    gateway.send_body([BODY[:9]], ending="open")
    assert (seen.parts, gateway.immediate) == ([], None)
    gateway = BodyGateway(router_with([seen], closed=True), modes=(PARTIAL, NONE))
    gateway.send_headers()
    gateway.send_body([BODY[:9]], ending="open")
    assert gateway.error()[0] == 500


def test_a_plugin_sees_bodies_that_are_no_json_where_they_say_so() -> None:
    seen = Seen()
    gateway = BodyGateway(router_with([seen]))
    gateway.post(b"--x\r\n", headers={"content-type": "multipart/form-data; boundary=x"})
    gateway.request.demand_complete()
    assert (seen.bodies, gateway.routing()) == ([b"--x\r\n"], {})


def test_fields_are_read_by_their_path() -> None:
    found: dict[tuple[Any, ...], bytes | None] = {}

    def read(view: View) -> None:
        for path in (
            (b"model",),
            (b"n",),
            (b"n", 1, b"a"),
            (b"n", 0),
            (b"n", 2),
            (b"n", -1),
            (b"x",),
            (b"model", 0),
            (),
        ):
            found[path] = view.member(path)

    through(read)
    assert found == {
        (b"model",): b'"llama"',
        (b"n",): b'[1, {"a": "x"}]',
        (b"n", 1, b"a"): b'"x"',
        (b"n", 0): b"1",
        (b"n", 2): None,
        (b"n", -1): None,
        (b"x",): None,
        (b"model", 0): None,
        (): BODY,
    }


def test_items_of_plain_numbers_are_read_with_their_list() -> None:
    found: list[bytes | None] = []
    through(lambda view: found.extend([view.member((b"ids",)), view.member((b"ids", 0))]), b'{"ids":[1,2]}')
    assert found == [b"[1,2]", None]


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
@pytest.mark.parametrize(
    ("act", "wanted"),
    [
        (
            lambda view: view.set_member((), b"model", b'"model"', b'"travel"'),
            b'{ "model": "travel", "n" : [1, {"a": "x"}], "user":"me"}',
        ),
        (
            lambda view: view.set_member((), b"k", b'"k"', b"1"),
            b'{ "model": "llama", "n" : [1, {"a": "x"}], "user":"me","k":1}',
        ),
        (
            lambda view: view.set_member((b"n", 1), b"a", b'"a"', b"null"),
            b'{ "model": "llama", "n" : [1, {"a": null}], "user":"me"}',
        ),
        (
            lambda view: view.set_member((b"n",), 0, b"", b"[]"),
            b'{ "model": "llama", "n" : [[], {"a": "x"}], "user":"me"}',
        ),
        (lambda view: view.remove_member((), b"n"), b'{ "model": "llama", "user":"me"}'),
        (lambda view: view.remove_member((), b"model"), b'{"n" : [1, {"a": "x"}], "user":"me"}'),
        (lambda view: view.remove_member((), b"user"), b'{ "model": "llama", "n" : [1, {"a": "x"}]}'),
        (lambda view: view.remove_member((b"n", 1), b"a"), b'{ "model": "llama", "n" : [1, {}], "user":"me"}'),
    ],
)
def test_changes_stand_in_the_bodys_own_bytes(mode: int, act: Callable[[View], object], wanted: bytes) -> None:
    gateway = through(act, mode=mode, change_request=lambda _: wanted)
    gateway.request.demand_complete()
    assert bytes(gateway.request.forwarded) == wanted
    assert gateway.headers.get("content-length") == (str(len(wanted)) if mode == BUFFERED else None)
    assert gateway.routing().get(MODEL) == json.loads(wanted).get("model")


def test_what_does_not_change_is_no_change() -> None:
    through(lambda view: view.remove_member((), b"absent"), change_request=lambda body: body).request.demand_complete()


def test_every_member_of_a_name_is_changed() -> None:
    """So that no two readers of the body see different things."""
    body, wanted = b'{"a":1,"b":2, "a":3}', b'{"a":0,"b":2, "a":0}'
    gateway = through(lambda view: view.set_member((), b"a", b'"a"', b"0"), body, change_request=lambda _: wanted)
    gateway.request.demand_complete()
    gateway = through(lambda view: view.remove_member((), b"a"), body, change_request=lambda _: b'{"b":2}')
    gateway.request.demand_complete()


@pytest.mark.parametrize("parent", [(b"model",), (b"none",), (b"n", 7)])
def test_nothing_stands_where_nothing_can(parent: tuple[bytes | int, ...]) -> None:
    def act(view: View) -> None:
        with pytest.raises(LookupError):
            view.set_member(parent, b"a", b'"a"', b"1")
        with pytest.raises(LookupError):
            view.set_member(parent, 0, b"", b"1")
        with pytest.raises(LookupError):
            view.remove_member(parent, b"a")

    through(act).request.demand_complete()


def test_headers_are_set_and_removed_and_the_latest_counts() -> None:
    def act(view: View) -> None:
        view.edit(b"x-a", b"1")
        view.edit(b"x-a", b"2")
        view.edit(b"x-b", b"1")
        view.edit(b"x-b", None)
        view.edit(MODEL.encode(), b"overruled")
        assert view.edits()[:2] == [(b"x-a", b"1"), (b"x-a", b"2")]

    gateway = BodyGateway(router_with([act]))
    gateway.post(BODY, headers={"x-b": "0", BASE: "spoofed"})
    assert gateway.headers == {"x-a": "2", MODEL: "llama", BASE: "llama"}


def test_what_only_picker_may_set_is_stripped() -> None:
    gateway = BodyGateway(router_with(headers=[b"x-risk"]))
    gateway.post(BODY, headers={"x-risk": "none"})
    assert "x-risk" not in gateway.headers


def test_edits_are_limited() -> None:
    def act(view: View) -> None:
        with pytest.raises(OverflowError):
            view.edit(b"x", b"x" * (1 << 16))
        for number in range(64):
            view.edit(b"x-%d" % number, b"1")
        with pytest.raises(OverflowError):
            view.edit(b"y", b"1")
        view.undo()

    through(act).request.demand_complete()


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED, STREAMED])
def test_a_rejection_is_the_clients_answer(mode: int) -> None:
    later = Seen()
    made = router_with([lambda view: view.reject(403, SAFE), later], sees=mode != STREAMED)
    gateway = BodyGateway(made, modes=(mode, mode))
    gateway.send_headers()
    if mode != STREAMED:
        gateway.send_body([BODY])
    assert (gateway.error(), later.parts, gateway.exchange.is_over) == ((403, json.loads(SAFE)), [], True)
    assert gateway.router.figures()["rejected"] == 1


def test_a_rejection_is_an_error_of_http() -> None:
    def act(view: View) -> None:
        for status in (0, 200, 399, 600):
            with pytest.raises(ValueError, match="400 to 599"):
                view.reject(status, SAFE)

    assert through(act).immediate is None


def test_undo_takes_back_what_was_done_in_the_turn() -> None:
    def first(view: View) -> None:
        view.edit(b"x-first", b"1")
        view.set_member((), b"user", b'"user"', b'"you"')

    def second(view: View) -> None:
        view.edit(b"x-second", b"1")
        view.set_member((), b"user", b'"user"', b'"nobody"')
        view.set_member((), b"model", b'"model"', b'"other"')
        view.reject(403, SAFE)
        view.undo()
        assert view.member((b"user",)) == b'"you"'

    wanted = BODY.replace(b'"me"', b'"you"')
    gateway = BodyGateway(router_with([first, second]), change_request=lambda _: wanted)
    gateway.post(BODY)
    gateway.request.demand_complete()
    assert gateway.headers == {"x-first": "1", MODEL: "llama", BASE: "llama"}


def test_a_view_is_good_for_one_turn() -> None:
    kept: list[View] = []
    through(kept.append)
    for use in (lambda: kept[0].body, lambda: kept[0].part, kept[0].undo, lambda: kept[0].member(())):
        with pytest.raises(RuntimeError):
            use()


def test_what_the_host_raises_ends_the_exchange() -> None:
    def act(view: View) -> None:
        raise ZeroDivisionError

    made = router_with([act])
    exchange = bbr.Exchange(made)
    exchange.feed(m.request_headers())
    with pytest.raises(ZeroDivisionError):
        exchange.feed(m.request_body(BODY))
    assert m.parse(exchange.refuse(bbr.FAIL_INTERNAL)[0]).immediate_response.status.code == 500


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=4),
    st.sampled_from("abc"),
    st.sampled_from([None, 9]),
    st.sampled_from(["", " ", "\n "]),
)
def test_changed_members_equal_the_model(
    members: list[tuple[str, int]], name: str, value: int | None, blank: str
) -> None:
    """What other members say stays, in order; and the bytes beside the change stay."""
    inside = f"{blank},{blank}".join(f'"{key}"{blank}:{blank}{number}' for key, number in members)
    body = f"{blank}{{{blank}{inside}{blank}}}{blank}".encode()

    def act(view: View) -> None:
        if value is None:
            view.remove_member((), name.encode())
        else:
            view.set_member((), name.encode(), json.dumps(name).encode(), str(value).encode())

    made: list[bytes] = []
    through(lambda view: (act(view), made.append(view.body)), body, change_request=lambda _: made[0])
    wanted = [(key, value if key == name else number) for key, number in members if value is not None or key != name]
    if value is not None and name not in dict(members):
        wanted.append((name, value))
    assert json.loads(made[0], object_pairs_hook=list) == wanted


# --- responses ---


def responding(
    act: Callable[[View], object], *, mode: int = DUPLEX, sees: bool = True, closed: bool = False, **more: Any
) -> BodyGateway:
    """A gateway whose request has passed; `act` sees responses."""
    change = {key: more.pop(key) for key in ("change_response",) if key in more}
    made = router_with((), [act], sees=sees, closed=closed, **more)
    gateway = BodyGateway(made, modes=(STREAMED, mode), **change)
    gateway.send_headers(headers={"x-of-request": "1"}, end=True)
    assert not gateway.exchange.is_over
    return gateway


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED, STREAMED, NONE])
def test_a_plugin_for_headers_delays_nothing(mode: int) -> None:
    seen = Seen(lambda view: view.edit(b"x-seen", b"1"))
    gateway = responding(seen, mode=mode, sees=False)
    gateway.answer_headers()
    assert (seen.parts, gateway.response_headers) == ([PART_HEADERS], {"x-seen": "1"})
    gateway.answer_body([b"data: x", b"\n\n"])
    gateway.response.demand_complete()
    assert len(seen.parts) == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_json_is_held_whole_for_a_plugin_that_sees_bodies(ending: str) -> None:
    seen = Seen(lambda view: (view.edit(b"x-seen", b"1"), view.set_member((), b"user", b'"user"', b'"-"')))
    gateway = responding(seen, change_response=lambda body: body.replace(b'"me"', b'"-"'))
    gateway.answer_headers(kind="application/json")
    assert not gateway.response.headers_answered
    gateway.response.change = bytes  # nothing is forwarded before the end
    gateway.answer_body([BODY[:9]], ending="open")
    assert not gateway.response.headers_answered
    gateway.response.change = lambda body: body.replace(b'"me"', b'"-"')
    gateway.answer_body([BODY[9:]], ending=ending)
    gateway.response.demand_complete()
    assert (seen.parts, seen.bodies, gateway.response_headers) == ([PART_BODY], [BODY], {"x-seen": "1"})
    assert gateway.router.buffered_bytes == 0


def test_in_buffered_mode_the_body_comes_whole() -> None:
    seen = Seen(lambda view: view.set_member((), b"user", b'"user"', b'"nobody"'))
    gateway = responding(seen, mode=BUFFERED, change_response=lambda body: body.replace(b'"me"', b'"nobody"'))
    gateway.respond([BODY], ending="chunk")
    gateway.response.demand_complete()
    assert gateway.response_headers == {"content-length": str(len(BODY) + 4)}


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
def test_a_response_without_a_body_is_seen_too(mode: int) -> None:
    seen = Seen()
    gateway = responding(seen, mode=mode)
    gateway.answer_headers(204, end=True)
    gateway.response.demand_complete()
    assert (seen.parts, gateway.exchange.state) == ([PART_HEADERS], bbr.STATE_ENDED)


def test_responses_that_are_no_json_are_seen_as_bytes() -> None:
    found: list[bytes | None] = []
    gateway = responding(lambda view: found.extend([view.body, view.member((b"a",))]))
    gateway.respond([b"not", b" json"])
    gateway.response.demand_complete()
    assert found == [b"not json", None]


def test_a_plugin_sees_the_request_of_a_response() -> None:
    found: list[Any] = []
    gateway = responding(lambda view: found.extend([view.pairs(), view.pairs(True), view.edits(True)]))
    gateway.respond([b"{}"])
    assert (b":status", b"200") in found[0]
    assert (b"x-of-request", b"1") in found[1]
    assert found[2] == []


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
def test_a_response_is_rejected_before_its_first_byte(mode: int, kind: str) -> None:
    gateway = responding(lambda view: view.reject(451, SAFE), mode=mode)
    gateway.answer_headers(200, kind)
    gateway.response.send("body", b"data: {}\n\n", True)
    gateway.take(gateway.feed(m.response_body(b"data: {}\n\n", end_of_stream=True), 0))
    assert gateway.error() == (451, json.loads(SAFE))


# --- streams ---

STREAM = b'data: {"a": "1"}\n\n: ping\r\n\r\nevent: x\ndata: {"a": "2"}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("cut", [1, 5, len(STREAM)])
def test_of_a_stream_each_event_is_seen_and_goes_on_at_once(cut: int, ending: str) -> None:
    found: list[bytes | None] = []
    seen = Seen(lambda view: found.append(view.member((b"a",))))
    gateway = responding(seen)
    gateway.answer_headers()
    for at in range(0, len(STREAM), cut):
        gateway.answer_body([STREAM[at : at + cut]], ending="open")
        done = sum(map(len, seen.bodies))
        assert bytes(gateway.response.forwarded) == STREAM[:done]
        assert len(STREAM[: at + cut]) - done < 30
    gateway.answer_body([b""] if ending == "chunk" else [], ending=ending)
    gateway.response.demand_complete()
    assert seen.bodies == model.events(STREAM)
    assert found == [b'"1"', None, b'"2"', None]
    assert set(seen.parts) == {PART_EVENT}


def test_events_are_changed_in_place() -> None:
    def act(view: View) -> None:
        if view.member((b"a",)) == b'"2"':
            view.set_member((), b"a", b'"a"', b'"***"')

    gateway = responding(act, change_response=lambda body: body.replace(b'"2"', b'"***"'))
    gateway.answer_headers()
    gateway.answer_body([STREAM[:30], STREAM[30:]])
    gateway.response.demand_complete()


def test_in_buffered_mode_a_stream_is_seen_event_by_event_too() -> None:
    seen = Seen()
    gateway = responding(seen, mode=BUFFERED)
    gateway.answer_headers()
    gateway.answer_body([STREAM], ending="chunk")
    gateway.response.demand_complete()
    assert seen.bodies == model.events(STREAM)


def test_the_headers_of_a_stream_wait_for_its_first_event_only() -> None:
    gateway = responding(Seen())
    gateway.answer_headers()
    gateway.answer_body([b"data: {}"], ending="open")
    assert not gateway.response.headers_answered
    gateway.answer_body([b"\n\n"], ending="open")
    assert gateway.response.headers_answered


def test_a_stream_that_has_begun_is_cut() -> None:
    """Too late for another answer: the client must see that it is not whole."""

    def act(view: View) -> None:
        if b"bad" in view.body:
            assert not view.may_reject
            view.reject(403, SAFE)

    gateway = responding(act)
    gateway.answer_headers()
    gateway.answer_body([b"data: good\n\n"], ending="open")
    assert gateway.feed(m.response_body(b"data: bad\n\ndata: more\n\n"), 0) == []
    assert (gateway.exchange.is_cut, gateway.immediate) == (True, None)
    assert gateway.router.figures()["cut"] == 1


@settings(max_examples=200)
@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: {}", b"x"]), max_size=12), st.integers(1, 4))
def test_events_end_where_the_model_says(pieces: list[bytes], cut: int) -> None:
    stream = b"".join(pieces)
    seen = Seen()
    gateway = responding(seen)
    gateway.answer_headers()
    gateway.answer_body([stream[at : at + cut] for at in range(0, len(stream), cut)])
    gateway.response.demand_complete()
    assert seen.bodies == model.events(stream)
    gateway.close()


# --- what cannot be shown ---


def assert_unseen(gateway: BodyGateway, seen: Seen) -> None:
    gateway.response.demand_complete()
    assert (seen.parts, gateway.router.figures()["response"][0]["skipped"]) == ([], 1)
    assert gateway.router.buffered_bytes == 0


def test_a_body_over_the_cap_passes_unseen() -> None:
    seen = Seen()
    gateway = responding(seen, body_bytes=10)
    gateway.respond([b"x" * 8, b"y" * 8, b"z" * 8])
    assert_unseen(gateway, seen)


def test_an_event_over_the_cap_passes_unseen_with_all_that_follows() -> None:
    seen = Seen()
    gateway = responding(seen, event_bytes=10)
    gateway.answer_headers()
    gateway.answer_body([b"data: xxxx", b"xxxx", b"\n\ndata: more\n\n"])
    assert_unseen(gateway, seen)


def test_responses_over_what_all_may_hold_pass_unseen() -> None:
    seen = Seen()
    gateway = responding(seen, buffered_bytes=10)
    gateway.respond([b"x" * 8, b"y" * 8])
    assert_unseen(gateway, seen)
    buffered = responding(seen, mode=BUFFERED, buffered_bytes=10)
    buffered.respond([b"x" * 18], ending="chunk")
    assert_unseen(buffered, seen)


@pytest.mark.parametrize("mode", [STREAMED, NONE])
def test_modes_that_show_no_whole_body_pass_unseen(mode: int) -> None:
    seen = Seen()
    gateway = responding(seen, mode=mode)
    gateway.respond([b"{", b"}"])
    assert_unseen(gateway, seen)


def encoded(gateway: BodyGateway) -> None:
    gateway.answer_headers(kind="application/json", headers={"content-encoding": "gzip"})


def test_encoded_bodies_pass_unseen() -> None:
    seen = Seen()
    gateway = responding(seen)
    encoded(gateway)
    gateway.answer_body([b"\x1f\x8b"])
    assert_unseen(gateway, seen)


def test_what_must_be_seen_and_cannot_does_not_pass() -> None:
    gateway = responding(Seen(), closed=True)
    encoded(gateway)
    assert gateway.error()[0] == 500
    for options in ({"body_bytes": 10}, {"buffered_bytes": 10}):
        gateway = responding(Seen(), closed=True, **options)
        gateway.answer_headers(kind="application/json")
        gateway.answer_body([b"x" * 11], ending="open")
        assert gateway.error()[0] == 500
    gateway = responding(Seen(), closed=True, mode=STREAMED)
    gateway.answer_headers(kind="application/json")
    assert gateway.error()[0] == 500
    gateway = responding(Seen(), closed=True, event_bytes=10)
    gateway.answer_headers()
    gateway.answer_body([b"data: 1\n\n", b"data: xxxxxxxxx"], ending="open")
    assert gateway.exchange.is_cut


# --- memory ---


def whole() -> None:
    """Both directions, with everything a plugin may do."""

    def on_request(view: View) -> None:
        view.edit(b"x-a", b"1")
        view.set_member((), b"user", b'"user"', b'"you"')
        view.undo()
        view.set_member((), b"user", b'"user"', b'"you"')

    def on_response(view: View) -> None:
        if view.part == PART_EVENT and view.member((b"a",)):
            view.remove_member((), b"a")

    exchange = bbr.Exchange(router_with([on_request], [on_response]))
    try:
        exchange.feed(m.request_headers())
        exchange.feed(m.request_body(BODY))
        exchange.feed(m.response_headers())
        exchange.feed(m.response_body(STREAM[:40]))
        exchange.feed(m.response_body(STREAM[40:]))
    finally:
        exchange.close()
        exchange._check()


def test_leaves_nothing_behind() -> None:
    assert_flat(whole, calls=50)


@debug_build_only
def test_memory_that_is_not_there() -> None:
    assert each_allocation_failing(whole) > 20
