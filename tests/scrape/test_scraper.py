import asyncio
from typing import Any

import pytest
import uvloop
from aiohttp import web

from picker.config.settings import ScrapeSettings
from picker.scrape import Scraper
from picker.scrape.engines import EngineTable
from picker.types import Endpoint, ScrapedLoad
from tests.scrape.support import PAGE, Handler, Server, Sink, scraping, serving
from tests.support.virtual_time import pass_time, virtual

LOAD = ScrapedLoad(waiting=3.0, running=2.0)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- what is asked, and how often ---


@virtual
async def test_an_idle_endpoint_is_scraped_at_once_and_then_every_two_seconds() -> None:
    async with serving() as server:
        sink = Sink()
        async with scraping(sink, server.endpoint()) as scraper:
            await sink.count(4)
        assert sink.heard == [("a", LOAD)] * 4
        assert server.gaps() == [2.0, 2.0, 2.0]
        assert (scraper.scrapes, sum(scraper.failures.values())) == (4, 0)


@virtual
async def test_a_busy_endpoint_is_scraped_five_times_a_second() -> None:
    async with serving() as server:
        sink = Sink(busy=True)
        async with scraping(sink, server.endpoint()):
            await sink.count(4)
        assert server.gaps() == [0.2, 0.2, 0.2]


@virtual
async def test_work_at_an_idle_endpoint_is_noticed_within_a_busy_interval() -> None:
    async with serving() as server:
        sink = Sink()
        async with scraping(sink, server.endpoint()):
            await sink.count(1)
            await pass_time(0.9)
            sink.is_busy = True
            await sink.count(3)
            sink.is_busy = False
            await sink.count(4)
        assert server.gaps() == [1.0, 0.2, 2.0]


@virtual
async def test_pauses_are_jittered() -> None:
    async with serving() as server:
        sink = Sink(busy=True)
        async with scraping(sink, server.endpoint(), jitter=1.0):
            await sink.count(3)
        assert server.gaps() == [0.18, 0.18]


@virtual
async def test_one_connection_serves_all_scrapes() -> None:
    async with serving() as server:
        sink = Sink()
        async with scraping(sink, server.endpoint()):
            await sink.count(5)
        assert len(set(map(id, server.connections))) == 1


@virtual
async def test_plain_text_is_asked_for() -> None:
    async with serving() as server:
        sink = Sink()
        async with scraping(sink, server.endpoint()):
            await sink.count(1)
        assert server.headers[0]["Accept"] == "text/plain;version=0.0.4"
        assert server.headers[0]["Accept-Encoding"] == "identity"


@virtual
async def test_path_and_port_can_be_set() -> None:
    async with serving() as server:
        sink = Sink()
        settings = ScrapeSettings(port=server.port, path="/metrics?all=1")
        elsewhere = Endpoint(name="a", address="127.0.0.1", port=1)
        async with scraping(sink, elsewhere, settings=settings):
            await sink.count(1)
        assert sink.loads() == [LOAD]


@virtual
async def test_the_engine_label_chooses_the_series() -> None:
    async with serving() as server:
        sink = Sink()
        server.body = PAGE + b"sglang:num_queue_reqs 7\n"
        endpoint = server.endpoint("s", **{"inference.networking.k8s.io/engine-type": "sglang"})
        async with scraping(sink, endpoint):
            await sink.count(1)
        assert sink.loads() == [ScrapedLoad(waiting=7.0)]


class Counting(uvloop.Loop):
    """Counts the timers set."""

    timers = 0

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(*args, **kwargs)


def test_uvloop_is_not_kept_busy_by_waiting() -> None:
    """Its clock ticks in milliseconds: a timer for less would fire at once, and be set again, until the next tick."""
    settings = ScrapeSettings(busy_interval_s=0.0503, idle_interval_s=0.1007)
    loop = Counting()

    async def body() -> None:
        async with asyncio.timeout(20.0), serving() as server:
            sink = Sink()
            async with scraping(sink, *(server.endpoint(f"e{index}") for index in range(5)), settings=settings):
                await sink.count(25)
            assert sink.reasons() == []

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(body())
    assert 4 <= loop.timers <= 60


# --- failures ---


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@virtual
async def test_a_hanging_endpoint_times_out_and_is_left_alone_for_longer_and_longer() -> None:
    async with serving() as server:
        server.handler = hang
        sink = Sink(busy=True)
        async with scraping(sink, server.endpoint()) as scraper:
            await sink.count(9)
        assert sink.reasons() == ["timeout"] * 9
        assert server.gaps() == [1.2, 1.4, 1.8, 2.6, 4.2, 7.4, 11.0, 11.0]
        assert scraper.failures["timeout"] == 9
        assert scraper.seconds == pytest.approx(9.0)


@virtual
async def test_a_recovered_endpoint_is_scraped_as_before() -> None:
    async with serving() as server:
        sink = Sink(busy=True)
        server.handler = failing(500)
        async with scraping(sink, server.endpoint()):
            await sink.count(4)
            server.handler = server.page
            await sink.count(7)
            server.handler = failing(500)
            await sink.count(9)
        assert sink.reasons() == ["http_status"] * 6
        assert server.gaps() == [0.2, 0.4, 0.8, 1.6, 0.2, 0.2, 0.2, 0.2]


def failing(status: int) -> Handler:
    async def fail(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=PAGE, headers={"Location": "/metrics"})

    return fail


@pytest.mark.parametrize("status", [204, 301, 404, 503])
def test_only_200_is_an_answer(status: int) -> None:
    @virtual
    async def run() -> None:
        async with serving() as server:
            server.handler = failing(status)
            sink = Sink()
            async with scraping(sink, server.endpoint()):
                await sink.count(1)
            assert sink.heard == [("a", "http_status")]

    run()


@virtual
async def test_nobody_listening_is_a_failure_to_connect() -> None:
    async with serving() as server:
        endpoint = server.endpoint()
    sink = Sink()
    async with scraping(sink, endpoint) as scraper:
        await sink.count(2)
    assert sink.reasons() == ["connect"] * 2
    assert scraper.failures["connect"] == 2


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", b"HTTP/1.1 200 OK\r\n\xff:\r\n"],
)
def test_what_is_no_whole_http_answer_is_a_failure(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    @virtual
    async def run() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sink = Sink()
        async with server, scraping(sink, Endpoint(name="a", address="127.0.0.1", port=port)):
            await sink.count(1)
        assert sink.heard == [("a", "http")]

    run()


@virtual
async def test_a_page_without_the_engines_series_is_a_failure() -> None:
    async with serving() as server:
        server.body = b"python_info 1\n"
        sink = Sink()
        async with scraping(sink, server.endpoint()):
            await sink.count(1)
        assert sink.heard == [("a", "no_series")]


# --- pages of all sizes and speeds ---


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_page_is_not_read_to_its_end(chunked: bool) -> None:
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={} if chunked else {"Content-Length": str(1 << 40)})
        await response.prepare(request)
        while chunked:
            await response.write(PAGE * 100)
            sent += len(PAGE) * 100
        return await hang(request)

    @virtual
    async def run() -> None:
        async with serving() as server:
            server.handler = flood
            sink = Sink()
            async with scraping(sink, server.endpoint(), settings=ScrapeSettings(page_bytes_max=100_000)):
                await sink.count(2)
            assert sink.reasons() == ["too_large"] * 2
            assert len(set(map(id, server.connections))) == 2

    run()
    assert sent < 100 << 20


@virtual
async def test_a_page_of_just_the_largest_size_is_read() -> None:
    async with serving() as server:
        server.body = PAGE + b"#" * (100_000 - len(PAGE))
        sink = Sink()
        async with scraping(sink, server.endpoint(), settings=ScrapeSettings(page_bytes_max=100_000)):
            await sink.count(1)
            server.body += b"#"
            await sink.count(2)
        assert sink.heard == [("a", LOAD), ("a", "too_large")]


def dripping(server: Server, pause_s: float) -> Handler:
    """Sends the page in four pieces, with a pause before each."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        size = len(server.body) // 4 + 1
        for start in range(0, len(server.body), size):
            await pass_time(pause_s)
            await response.write(server.body[start : start + size])
        return response

    return drip


@virtual
async def test_a_slow_page_is_read_and_takes_half_of_the_time_at_most() -> None:
    async with serving() as server:
        server.handler = dripping(server, 0.2)
        sink = Sink(busy=True)
        async with scraping(sink, server.endpoint()) as scraper:
            await sink.count(3)
            sink.is_busy = False
            await sink.count(5)
        assert sink.loads() == [LOAD] * 5
        assert server.gaps() == [1.6, 1.6, 2.0, 2.0]
        assert scraper.seconds == pytest.approx(4.0)


@virtual
async def test_a_very_slow_page_is_read_more_rarely_even_when_idle() -> None:
    async with serving() as server:
        server.handler = dripping(server, 0.5)
        sink = Sink()
        async with scraping(sink, server.endpoint(), settings=ScrapeSettings(timeout_s=3.0)):
            await sink.count(3)
        assert server.gaps() == [4.0, 4.0]


@virtual
async def test_a_page_that_never_ends_times_out() -> None:
    async with serving() as server:
        server.handler = dripping(server, 0.4)
        sink = Sink()
        async with scraping(sink, server.endpoint()):
            await sink.count(1)
        assert sink.heard == [("a", "timeout")]


# --- many endpoints, coming and going ---


@virtual
async def test_no_more_than_so_many_at_once_and_never_two_of_one() -> None:
    async with serving() as server:
        server.handler = dripping(server, 0.1)
        sink = Sink(busy=True)
        endpoints = [server.endpoint(f"e{index}") for index in range(6)]
        async with scraping(sink, *endpoints, settings=ScrapeSettings(concurrency=3)):
            await sink.count(18)
        assert server.most_at_once == 3
        assert sorted(name for name, _ in sink.heard[:6]) == [endpoint.name for endpoint in endpoints]


@virtual
async def test_a_hanging_endpoint_does_not_hold_up_the_others() -> None:
    async with serving() as hanging, serving() as server:
        hanging.handler = hang
        sink = Sink(busy=True)
        async with scraping(sink, hanging.endpoint("h"), server.endpoint("a")):
            await sink.count(5)
        assert sink.heard == [("a", LOAD)] * 5
        assert server.gaps() == [0.2] * 4


@virtual
async def test_endpoints_that_stay_go_on_undisturbed() -> None:
    async with serving() as server, serving() as other:
        sink = Sink(busy=True)
        async with scraping(sink, server.endpoint("a")) as scraper:
            await sink.count(2)
            scraper.set_endpoints([server.endpoint("a"), other.endpoint("b")])
            await sink.count(6)
        assert server.gaps() == [0.2, 0.2, 0.2]
        assert len(set(map(id, server.connections))) == 1
        assert len(other.asked) >= 2


@virtual
async def test_an_endpoint_removed_during_its_scrape_is_heard_of_no_more() -> None:
    async with serving() as server, serving() as other:
        reached = asyncio.Event()

        async def reach(request: web.Request) -> web.StreamResponse:
            reached.set()
            return await hang(request)

        server.handler = reach
        sink = Sink()
        async with scraping(sink, server.endpoint("gone")) as scraper:
            await reached.wait()
            scraper.set_endpoints([other.endpoint("b")])
            await sink.count(3)
            assert sum(scraper.failures.values()) == 0
        assert sink.heard == [("b", LOAD)] * 3
        assert len(server.asked) == 1


@virtual
async def test_a_removed_endpoint_is_not_scraped_again() -> None:
    async with serving() as server, serving() as other:
        sink = Sink(busy=True)
        async with scraping(sink, server.endpoint("a"), other.endpoint("b")) as scraper:
            await sink.count(2)
            scraper.set_endpoints([other.endpoint("b")])
            await sink.count(6)
        assert len(server.asked) == 1


@virtual
async def test_a_changed_engine_label_takes_effect_in_place() -> None:
    async with serving() as server:
        server.body = PAGE + b"sglang:num_queue_reqs 7\n"
        sink = Sink()
        async with scraping(sink, server.endpoint()) as scraper:
            await sink.count(1)
            scraper.set_endpoints([server.endpoint(**{"llm-d.ai/engine-type": "sglang"})])
            await sink.count(2)
        assert sink.loads() == [LOAD, ScrapedLoad(waiting=7.0)]
        assert server.gaps() == [2.0]


# --- start and stop ---


@virtual
async def test_stop_drops_what_is_in_flight_and_start_begins_anew() -> None:
    async with serving() as server:
        server.handler = hang
        sink = Sink()
        async with scraping(sink, server.endpoint()) as scraper:
            with pytest.raises(RuntimeError, match="already"):
                await scraper.start()
            await pass_time(0.5)
            await scraper.stop()
            assert scraper.seconds == pytest.approx(0.5)
            await scraper.stop()
            assert sink.heard == []
            await pass_time(10.0)
            assert len(server.asked) == 1
            server.handler = server.page
            await scraper.start()
            await sink.count(1)
        assert sink.heard == [("a", LOAD)]


@virtual
async def test_other_settings_take_effect_and_counts_go_on() -> None:
    async with serving() as server:
        sink = Sink()
        async with scraping(sink, server.endpoint()) as scraper:
            await sink.count(1)
            await scraper.reconfigure(ScrapeSettings(enabled=False), EngineTable())
            await pass_time(10.0)
            assert scraper.scrapes == 1
            await scraper.reconfigure(ScrapeSettings(idle_interval_s=5.0), EngineTable())
            await sink.count(3)
            assert scraper.scrapes == 3
        assert server.gaps()[1:] == [5.0]


@virtual
async def test_of_settings_in_quick_succession_the_last_count() -> None:
    async with serving() as server:
        sink = Sink()
        async with scraping(sink, server.endpoint()) as scraper:
            await sink.count(1)
            quick = (ScrapeSettings(idle_interval_s=pause_s) for pause_s in (3.0, 5.0))
            await asyncio.gather(*(scraper.reconfigure(settings, EngineTable()) for settings in quick))
            await sink.count(3)
        assert server.gaps()[1:] == [5.0]


@virtual
async def test_endpoints_may_come_later() -> None:
    async with serving() as server:
        sink = Sink()
        async with scraping(sink) as scraper:
            await pass_time(5.0)
            came = now()
            scraper.set_endpoints([server.endpoint()])
            await sink.count(1)
        assert server.asked == [came]


@virtual
async def test_a_missing_certificate_is_an_error_at_the_start() -> None:
    scraper = Scraper(Sink(), settings=ScrapeSettings(scheme="https", ca_cert_path="/nonexistent"))
    with pytest.raises(OSError, match="No such file"):
        await scraper.start()


# --- bugs of ours ---


class Broken(Sink):
    def observe(self, endpoint: Endpoint, load: ScrapedLoad) -> None:
        super().observe(endpoint, load)
        raise RuntimeError("observe is broken")

    def scrape_failed(self, endpoint: Endpoint, reason: str) -> None:
        super().scrape_failed(endpoint, reason)
        raise RuntimeError("scrape_failed is broken")

    def busy(self, endpoint: Endpoint) -> bool:
        raise RuntimeError("busy is broken")


@virtual
async def test_a_broken_sink_is_counted_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, serving() as failed:
        failed.handler = failing(500)
        sink = Broken()
        async with scraping(sink, server.endpoint("a"), failed.endpoint("b")) as scraper:
            await sink.count(6)
        assert scraper.failures["internal"] >= 5
        assert {name for name, _ in sink.heard} == {"a", "b"}
    assert {record.name for record in caplog.records} == {"picker.scrape.scraper"}
