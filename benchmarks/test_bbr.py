from collections.abc import Callable

from benchmarks.test_session import chat
from picker._core.bbr import Exchange, Router
from tests.support import messages
from tests.support.bodies import SPOOFED, router


def request(made: Router, body: bytes, chunk: int) -> Callable[[], None]:
    """One request, its body in chunks, as Envoy sends it in full duplex."""
    sent = [messages.request_headers(headers={**SPOOFED, **{f"x-header-{n}": "some value" for n in range(8)}})]
    sent += [messages.request_body(body[at : at + chunk], end_of_stream=False) for at in range(0, len(body), chunk)]
    sent.append(messages.request_body(b""))

    def run() -> None:
        exchange = Exchange(made)
        for message in sent:
            exchange.feed(message)
        exchange.close()

    return run


def test_a_small_request(seconds: Callable[..., float], target: Callable[..., None]) -> None:
    took = seconds(request(router(), chat(900), 1 << 16))
    target("bbr: a request of 1 KB, whole", took * 1e6, 10, "us")


def test_a_large_request(seconds: Callable[..., float], target: Callable[..., None]) -> None:
    took = seconds(request(router(), chat(400_000), 1 << 15))
    target("bbr: a request of 400 KB, whole", took * 1e3, 1, "ms")


def test_a_chunk_of_a_response(seconds: Callable[..., float], target: Callable[..., None]) -> None:
    """Where the gateway sends responses although nobody looks at them: one message there and back."""
    exchange = Exchange(router())
    for message in (messages.request_headers(), messages.response_headers()):
        exchange.feed(message)
    chunk = messages.response_body(b"data: " + b"x" * 300 + b"\n\n")
    target("bbr: a chunk of a response", seconds(lambda: exchange.feed(chunk)) * 1e6, 1, "us")
