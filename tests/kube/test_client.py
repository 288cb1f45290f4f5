"""The client against a real HTTP server: what is sent, what is raised, and what is not."""

import asyncio
import itertools
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from picker.errors import KubernetesError, KubernetesRefusal, UsageError
from picker.kube import client as module
from picker.kube.client import MERGE_PATCH, KubeClient, SilentWatch, _is_direct
from picker.kube.lines import Lines
from tests.support.certificates import Authority
from tests.support.cluster import Cluster

PODS = "/api/v1/namespaces/default/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(bookmark_s=60.0) as made:
        yield made


@pytest.fixture(autouse=True)
def without_faults(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.faults.clear()


def with_client(
    cluster: Cluster, directory: Path, act: Callable[[KubeClient], Awaitable[None]], **more: Any
) -> KubeClient:
    async def run() -> KubeClient:
        client = await KubeClient.connect(kubeconfig=str(cluster.kubeconfig(directory, **more)))
        try:
            await act(client)
        finally:
            await client.close()
        return client

    return asyncio.run(run())


# --- requests ---


def test_bodies_go_and_come_as_bytes(cluster: Cluster, tmp_path: Path) -> None:
    async def act(client: KubeClient) -> None:
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}}
        made = await client.request("POST", LEASES, body={**lease, "spec": {"holderIdentity": "a"}})
        assert b'"holderIdentity":"a"' in made
        patch = {"spec": {"holderIdentity": "b"}}
        await client.request("PATCH", f"{LEASES}/l", body=patch, content_type=MERGE_PATCH)
        assert b'"holderIdentity":"b"' in await client.request("GET", f"{LEASES}/l")
        assert b'"items":[]' in await client.request(
            "GET", LEASES, query={"labelSelector": "a in (b, c),d!=e", "limit": 5}
        )
        await client.request("DELETE", f"{LEASES}/l")

    assert with_client(cluster, tmp_path, act, namespace="models").namespace == "models"


def test_a_refusal_says_what_the_server_said(cluster: Cluster, tmp_path: Path) -> None:
    async def act(client: KubeClient) -> None:
        with pytest.raises(KubernetesRefusal, match='404 NotFound: pods "none" not found') as raised:
            await client.request("GET", f"{PODS}/none")
        assert (raised.value.status, raised.value.reason) == (404, "NotFound")
        cluster.faults.refuse(429, retry_after_s=7)
        with pytest.raises(KubernetesRefusal) as raised:
            await client.request("GET", PODS)
        assert (raised.value.status, raised.value.retry_after_s) == (429, 7.0)

    with_client(cluster, tmp_path, act)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_request_is_made_once(cluster: Cluster, tmp_path: Path, status: int) -> None:
    """Whoever asks decides when to ask again."""

    async def act(client: KubeClient) -> None:
        cluster.faults.refuse(status, times=2)
        before = len(cluster.requests)
        with pytest.raises(KubernetesRefusal, match=f"{status}"):
            await client.request("GET", PODS)
        assert len(cluster.requests) == before + 1

    with_client(cluster, tmp_path, act)


@pytest.mark.parametrize("fault", ["drop", "cut_body"])
def test_a_connection_that_fails_is_an_error_of_ours(cluster: Cluster, tmp_path: Path, fault: str) -> None:
    async def act(client: KubeClient) -> None:
        getattr(cluster.faults, fault)(2)  # the library itself tries a lost GET once more
        with pytest.raises(KubernetesError, match=f"GET {PODS}: "):
            await client.request("GET", PODS)

    with_client(cluster, tmp_path, act)


def test_a_server_that_is_away_is_an_error_of_ours(tmp_path: Path) -> None:
    with Cluster() as away:
        kubeconfig = away.kubeconfig(tmp_path)

    async def act() -> None:
        client = await KubeClient.connect(kubeconfig=str(kubeconfig))
        with pytest.raises(KubernetesError, match="GET /version: "):
            await client.request("GET", "/version")
        with pytest.raises(KubernetesError, match=f"watching {PODS}: "):
            async with client.watch(PODS, query={}, idle_s=1.0):
                pass
        await client.close()

    asyncio.run(act())


# --- watches ---


def test_a_watch_gives_lines(cluster: Cluster, tmp_path: Path) -> None:
    async def act(client: KubeClient) -> None:
        async with client.watch(PODS, query={"resourceVersion": cluster.store.version}, idle_s=20.0) as lines:
            cluster.pod("seen", "10.0.0.1")
            assert (await anext(lines)).startswith(b'{"type":"ADDED"')
            cluster.faults.end_watches()
            assert [line async for line in lines if b'"ADDED"' in line] == []

    with_client(cluster, tmp_path, act)


def test_what_its_user_raises_passes_unchanged(cluster: Cluster, tmp_path: Path) -> None:
    async def act(client: KubeClient) -> None:
        cluster.pod("one", "10.0.0.1")
        for problem in (ValueError("mine"), OSError("mine"), TimeoutError("mine"), KeyError("mine")):
            with pytest.raises(type(problem), match="mine"):
                async with client.watch(PODS, query={}, idle_s=20.0) as lines:
                    async for _ in lines:
                        raise problem

    with_client(cluster, tmp_path, act)


def test_a_silent_watch_is_told_apart(cluster: Cluster, tmp_path: Path) -> None:
    async def act(client: KubeClient) -> None:
        with pytest.raises(SilentWatch):
            async with client.watch(PODS, query={"resourceVersion": cluster.store.version}, idle_s=0.05) as lines:
                await anext(lines)

    with_client(cluster, tmp_path, act)


@pytest.mark.parametrize("fault", ["cut", "cut_line"])
def test_a_watch_that_breaks_gives_no_half_line(cluster: Cluster, tmp_path: Path, fault: str) -> None:
    async def act(client: KubeClient) -> None:
        cluster.faults.at_event(fault, after=1)
        async with client.watch(PODS, query={"resourceVersion": cluster.store.version}, idle_s=20.0) as lines:
            cluster.pod(f"whole-{fault}", "10.0.0.1")
            assert (await anext(lines)).endswith(b"}")
            cluster.pod(f"half-{fault}", "10.0.0.2")
            with pytest.raises(KubernetesError):
                while True:
                    assert (await anext(lines)).endswith(b"}")

    with_client(cluster, tmp_path, act)


def test_a_watch_may_be_refused(cluster: Cluster, tmp_path: Path) -> None:
    async def act(client: KubeClient) -> None:
        cluster.faults.refuse(403, match=PODS)
        with pytest.raises(KubernetesRefusal) as raised:
            async with client.watch(PODS, query={}, idle_s=20.0):
                pass
        assert raised.value.status == 403

    with_client(cluster, tmp_path, act)


# --- credentials ---


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def test_a_token_that_was_renewed_is_taken_up(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.0)
    path = cluster.kubeconfig(tmp_path, token="old")

    async def act() -> None:
        client = await KubeClient.connect(kubeconfig=str(path))
        with pytest.raises(KubernetesRefusal, match="401"):
            await client.request("GET", PODS)
        cluster.kubeconfig(tmp_path)
        await client.request("GET", PODS)
        async with client.watch(PODS, query={}, idle_s=20.0):
            pass
        path.write_text("{")
        await client.request("GET", PODS)
        await client.close()

    asyncio.run(act())


def test_credentials_are_not_read_again_all_the_time(cluster: Cluster, tmp_path: Path) -> None:
    path = cluster.kubeconfig(tmp_path, token="old")

    async def act() -> None:
        client = await KubeClient.connect(kubeconfig=str(path))
        cluster.kubeconfig(tmp_path)
        with pytest.raises(KubernetesRefusal, match="401"):  # it has just read them
            await client.request("GET", PODS)
        await client.close()

    asyncio.run(act())


def test_an_authority_that_was_renewed_is_taken_up(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.0)
    path, authority = cluster.kubeconfig(tmp_path), tmp_path / "ca.crt"
    authority.write_bytes(Authority.named("another").pem)

    def by_file(config: dict[str, Any]) -> None:
        server = config["clusters"][0]["cluster"]
        del server["certificate-authority-data"]
        server["certificate-authority"] = str(authority)

    rewritten(path, by_file)

    async def act() -> None:
        client = await KubeClient.connect(kubeconfig=str(path))
        with pytest.raises(KubernetesError, match="certificate"):
            await client.request("GET", PODS)
        authority.write_bytes(cluster.ca)
        await client.request("GET", PODS)
        await client.close()

    asyncio.run(act())


def test_an_authority_may_be_as_clusters_have_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = ssl.create_default_context

    def strict(*arguments: Any, **named: Any) -> ssl.SSLContext:
        context = default(*arguments, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # as from Python 3.13 on
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)

    async def act() -> None:
        client = await KubeClient.connect(kubeconfig=str(cluster.kubeconfig(tmp_path)))
        await client.request("GET", PODS)
        await client.close()

    asyncio.run(act())


def test_without_credentials_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    for named in ("", str(tmp_path / "none")):
        with pytest.raises(UsageError, match=r"there is no kubeconfig .*none; .*--kubeconfig or KUBECONFIG"):
            asyncio.run(KubeClient.connect(kubeconfig=named))


@pytest.mark.parametrize("text", ["", "token", "clusters: [", "- a"])
def test_a_file_that_is_no_kubeconfig_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(UsageError, match="other is no kubeconfig: "):
        asyncio.run(KubeClient.connect(kubeconfig=str(path)))


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("https://10.96.0.1:443", "localhost,10.96.0.0/12,.svc", True),
        ("https://10.96.0.1:443", "10.96.0.1", True),
        ("https://[fd00::1]:443", "fd00::/8", True),
        ("https://10.96.0.1:443", "192.168.0.0/16", False),
        ("https://10.96.0.1:443", "", False),
        ("https://api.example.com", "10.0.0.0/8", False),
        ("https://10.96.0.1:443", "10.96.0.0/99, ,x/y", False),
    ],
)
def test_networks_in_no_proxy_are_obeyed(url: str, no_proxy: str, direct: bool) -> None:
    assert _is_direct(url, no_proxy) is direct


# --- lines ---


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 60)))
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    text = b"\n".join(lines)
    at = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    made = Lines(1000)
    found = [line for start, end in itertools.pairwise(at) for line in made.feed(text[start:end])]
    assert found == [line for line in text.split(b"\n")[:-1] if line.strip()]


def test_a_line_has_a_limit() -> None:
    made = Lines(10)
    assert made.feed(b"0123456789") == []
    with pytest.raises(ValueError, match="more than 10 bytes"):
        made.feed(b"0")
    with pytest.raises(ValueError, match="more than 10 bytes"):
        Lines(10).feed(b"0123456789a\n")
    assert Lines(10).feed(b"0123456789\nab\n\n \nc") == [b"0123456789", b"ab"]
