from benchmarks.cases.case import Action, Case, Growth
from benchmarks.cases.data import chat
from picker._core.bbr import Exchange, Router
from picker._core.view import View
from tests.support import messages
from tests.support.bodies import SPOOFED, router, router_with

CHUNK = messages.response_body(b"data: " + b"x" * 300 + b"\n\n")


def request(made: Router, body: bytes, piece: int = 1 << 15) -> Action:
    """One request, its body in pieces, as Envoy sends it in full duplex."""
    sent = [messages.request_headers(headers={**SPOOFED, **{f"x-header-{n}": "some value" for n in range(8)}})]
    sent += [messages.request_body(body[at : at + piece], end_of_stream=False) for at in range(0, len(body), piece)]
    sent.append(messages.request_body(b""))

    def run() -> None:
        exchange = Exchange(made)
        for message in sent:
            exchange.feed(message)
        exchange.close()

    return run


def response() -> Action:
    """Where the gateway sends responses although nobody looks at them: one message there and back."""
    exchange = Exchange(router())
    for message in (messages.request_headers(), messages.response_headers()):
        exchange.feed(message)
    return lambda: exchange.feed(CHUNK)


def edited() -> Action:
    """A plugin that sets a member of the body, and a header."""

    def plugin(view: View) -> None:
        view.edit(b"x-seen", b"yes")
        if view.body:
            view.set_member((), b"user", b'"user"', b'"someone"')

    return request(router_with([plugin]), chat(20_000))


CASES = [
    Case("bbr: a request of 1 KB, whole", lambda: request(router(), chat(900)), limit=10),
    Case("bbr: a request of 400 KB, whole", lambda: request(router(), chat(400_000)), "ms", 1),
    Case("bbr: a chunk of a response", response, limit=1),
    Case("bbr: a request of 20 KB that a plugin edits", edited),
]
GROWTHS = [Growth("bbr: a request of n bytes", lambda n: request(router(), chat(n)), 1 << 15, "n")]
