"""Bearer tokens on the metrics port, judged by a fake API server."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from picker.kube import reviews
from picker.kube.client import KubeClient
from picker.kube.reviews import ALLOWED_S, DENIED_S, MOST_AT_ONCE, MOST_KEPT, STALE_S, Reviewer
from tests.support.cluster import Cluster

SCRAPER = "system:serviceaccount:monitoring:prometheus"
TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"


class Court:
    """A cluster, a reviewer of it, and its clock."""

    def __init__(self, cluster: Cluster, client: KubeClient) -> None:
        self.cluster = cluster
        self.now_s = 0.0
        self.reviewer = Reviewer(client, clock=lambda: self.now_s)
        cluster.reviews.tokens |= {"prom": (SCRAPER, ("system:serviceaccounts",)), "other": ("jane", ())}
        cluster.reviews.allowed.add((SCRAPER, "get", "/metrics"))

    async def status(self, token: str, path: str = "/metrics") -> int:
        return (await self.reviewer.judge(f"Bearer {token}", path)).status

    @property
    def asked(self) -> int:
        return sum("review" in path for _, path in self.cluster.requests)


@contextlib.asynccontextmanager
async def court(directory: Path) -> AsyncIterator[Court]:
    with Cluster() as cluster:
        client = await KubeClient.connect(kubeconfig=str(cluster.kubeconfig(directory)))
        try:
            yield Court(cluster, client)
        finally:
            await client.close()


def test_who_is_granted_passes_and_is_remembered(tmp_path: Path) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            assert await found.status("prom") == 200
            assert await found.status("prom") == 200
            assert found.asked == 2  # both reviews, once
            assert (await found.reviewer.judge("bearer prom", "/metrics")).status == 200
            assert found.asked == 2
            assert await found.status("prom", "/debug/endpoints") == 403
            found.now_s = ALLOWED_S
            found.cluster.reviews.allowed.clear()
            assert await found.status("prom") == 403

    asyncio.run(body())


def test_who_is_not_granted_is_told_what_to_grant(tmp_path: Path) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            verdict = await found.reviewer.judge("Bearer other", "/metrics")
            assert verdict == (
                403,
                'forbidden: jane needs a ClusterRole with nonResourceURLs ["/metrics"] verbs ["get"], '
                "and a ClusterRoleBinding\n",
            )
            found.cluster.reviews.allowed.add(("system:authenticated", "get", "/metrics"))  # by group
            assert await found.status("other") == 403
            found.now_s = DENIED_S
            assert await found.status("other") == 200

    asyncio.run(body())


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic eDp5",
        "prom",
        "Bearer é",
        "Bearer a b",
        "Bearer \udce9",
        f"Bearer {'x' * 20_000}",
    ],
)
def test_what_is_no_token_is_not_reviewed(tmp_path: Path, header: str) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            verdict = await found.reviewer.judge(header, "/metrics")
            assert verdict.status == 401
            assert "Authorization: Bearer TOKEN" in verdict.text
            assert found.asked == 0

    asyncio.run(body())


def test_an_unknown_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            verdict = await found.reviewer.judge("Bearer secret-1", "/metrics")
            assert verdict == (401, "unauthorized: the API server does not know this token; it may have expired\n")
            assert "secret-1" not in str(vars(found.reviewer))

    with caplog.at_level(logging.DEBUG, "picker"):
        asyncio.run(body())
    assert "cret" not in caplog.text


def test_while_the_api_server_is_away_a_yes_goes_on_for_a_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            assert await found.status("prom") == 200
            found.cluster.stop_listening()
            found.now_s = STALE_S - 1
            assert await found.status("prom") == 200
            verdict = await found.reviewer.judge("Bearer other", "/metrics")
            assert verdict == (503, "the API server cannot be asked who you are: no answer\n")
            found.now_s = STALE_S
            assert await found.status("prom") == 503
            found.cluster.listen_again()
            assert await found.status("prom") == 200

    with caplog.at_level(logging.WARNING, "picker"):
        asyncio.run(body())
    assert [record.getMessage() for record in caplog.records] == ["requests for metrics cannot be judged: no answer"]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("403", "bind its ServiceAccount to the ClusterRole system:auth-delegator"),
        ("500", "it answers 500"),
        ("json", "no answer"),
    ],
)
def test_what_the_api_server_may_say(tmp_path: Path, fault: str, text: str) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            if fault == "json":
                found.cluster.faults.wrong_json(match=TOKENS)
            else:
                found.cluster.faults.refuse(int(fault), match=TOKENS)
            verdict = await found.reviewer.judge("Bearer prom", "/metrics")
            assert verdict.status == 503
            assert text in verdict.text
            assert await found.status("prom") == 200  # no fault is kept

    asyncio.run(body())


def test_those_who_ask_at_once_share_a_review(tmp_path: Path) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            assert await asyncio.gather(*(found.status("prom") for _ in range(50))) == [200] * 50
            assert found.asked == 2

    asyncio.run(body())


def test_one_who_goes_away_takes_no_review_with_him(tmp_path: Path) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            first = asyncio.ensure_future(found.status("prom"))
            second = asyncio.ensure_future(found.status("prom"))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == 200

    asyncio.run(body())


def test_guesses_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with court(tmp_path) as found:
            assert await found.status("prom") == 200
            answers = await asyncio.gather(*(found.status(f"guess-{number}") for number in range(40)))
            assert answers.count(401) == MOST_AT_ONCE
            assert answers.count(503) == 40 - MOST_AT_ONCE
            for number in range(6):
                await found.status(f"more-{number}")
            assert len(found.reviewer._no) == 4
            before = found.asked
            assert await found.status("prom") == 200  # no guess pushes a yes out
            assert found.asked == before

    assert MOST_KEPT > 4
    monkeypatch.setattr(reviews, "MOST_KEPT", 4)
    asyncio.run(body())
