"""Requests to a Kubernetes API server: the `kubernetes` client for address, TLS and credentials, raw bytes for bodies.

The client's model classes are not used: what picker reads of an object it decodes itself, with msgspec, from the bytes.
Credentials that are renewed on disk, or by the program that makes them, are taken up without a restart.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
import msgspec
import yaml
from kubernetes.aio import client, config

from picker import __version__
from picker.bodies import whole_body
from picker.errors import KubernetesError, KubernetesRefusal, UsageError
from picker.kube.lines import Lines

__all__ = ["MERGE_PATCH", "KubeClient", "SilentWatch"]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

REQUEST_S = 10.0
"""Longest time a request may take, its whole answer included, if nothing else is said; of a watch, until it begins.
Longest silence of the server meanwhile."""

CONNECT_S = 5.0
TURNS_TO_END = 3
"""Of the loop: a transport ends so much later than its session, that of TLS after the one below it."""

MOST_BODY_BYTES = 256 << 20
MOST_LINE_BYTES = 8 << 20
"""Of one watch event; an API server stores objects of at most 1.5 MiB."""

RENEW_S = 5.0
"""Least time between two looks for new credentials."""

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LOG = logging.getLogger("picker.kube")

_Load = Callable[[], Awaitable[tuple[Any, str]]]
"""A configuration and a namespace, read anew."""


class SilentWatch(KubernetesError):
    """A watch that said nothing for too long: perhaps all is quiet, perhaps the other side is gone."""


class _Status(msgspec.Struct):
    """A `metav1.Status`: why the server refuses."""

    reason: str = ""
    message: str = ""


class KubeClient:
    """One API server. Made by `connect`, ended by `close`; used on one event loop."""

    def __init__(self, api: client.ApiClient, namespace: str, *, load: _Load | None = None) -> None:
        self._api = api
        self._load = load
        self._renewed_s = time.monotonic()
        self.namespace = namespace
        """That of the credentials: of the pod, or of the context in the kubeconfig; else `default`."""

    @classmethod
    async def connect(cls, *, kubeconfig: str = "", context: str = "") -> "KubeClient":
        """A client with the credentials of the pod it runs in, or of a kubeconfig: the one named, or that of the
        environment. Nothing is sent yet. Raises UsageError where there are none."""

        async def load() -> tuple[Any, str]:
            return await _configuration(kubeconfig, context)

        try:
            configuration, namespace = await load()
            api = client.ApiClient(configuration)
        except (config.ConfigException, OSError, ValueError) as problem:
            hint = "run inside a cluster, or name a kubeconfig with --kubeconfig or KUBECONFIG"
            raise UsageError(f"no way to reach a Kubernetes API server: {problem}; {hint}") from problem
        api.user_agent = f"picker/{__version__}"
        return cls(api, namespace, load=load)

    async def close(self) -> None:
        """Ends all connections."""
        await self._api.close()
        for _ in range(TURNS_TO_END):
            await asyncio.sleep(0)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        content_type: str = JSON,
        timeout_s: float = REQUEST_S,
    ) -> bytes:
        """The body of the answer. `body`: what JSON can say.

        Raises KubernetesRefusal, with the status, for an answer other than 2xx; KubernetesError for none.
        """
        what = f"{method} {path}"
        limits = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_S, sock_read=REQUEST_S)
        with _told(what):
            response = await self._send(method, path, query, body, content_type, limits)
            async with response:
                answer = await whole_body(response, MOST_BODY_BYTES)
        if not 200 <= response.status < 300:
            raise _refusal(response, answer, what)
        return answer

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, *, query: Mapping[str, str | int], idle_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch as they come, each one event; they end when the server ends them.

        Raises, also while lines are read, KubernetesRefusal for an answer other than 200, KubernetesError for a
        connection that fails, SilentWatch where nothing is said for `idle_s` seconds. What is raised inside the
        `async with` passes unchanged.
        """
        what = f"watching {path}"
        limits = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=idle_s)
        with _told(what):
            async with asyncio.timeout(REQUEST_S):
                response = await self._send("GET", path, {**query, "watch": 1}, None, JSON, limits)
                answer = b"" if response.status == 200 else await whole_body(response, MOST_BODY_BYTES)
        if response.status != 200:
            response.close()
            raise _refusal(response, answer, what)
        lines = _lines(response, what)
        try:
            yield lines
        finally:
            response.close()  # an endless answer is not read to its end
            await lines.aclose()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: Any,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """The beginning of the answer. Where it is that nobody knows us, or that we know nobody, credentials and
        certificates are read again, and the request is made again: nothing has come of the first."""

        async def ask() -> aiohttp.ClientResponse:
            sent = await self._api.param_serialize(
                method,
                path,
                query_params=[(key, value) for key, value in (query or {}).items()],
                header_params={"Accept": JSON, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.rest_client.request(*sent, _request_timeout=limits)
            raw: aiohttp.ClientResponse = response.response
            return raw

        try:
            response = await ask()
        except aiohttp.ClientConnectorCertificateError:
            if not await self._renew():
                raise
            return await ask()
        if response.status == 401 and await self._renew():
            response.close()
            return await ask()
        return response

    async def _renew(self) -> bool:
        """Reads the credentials again. Whether there is a point in asking again. What is open stays open."""
        now_s = time.monotonic()
        if self._load is None or now_s - self._renewed_s < RENEW_S:
            return False
        self._renewed_s = now_s
        try:
            fresh, _ = await self._load()
            held, tls = self._api.configuration, self._api.rest_client.ssl_context
            if fresh.ssl_ca_cert:
                tls.load_verify_locations(cafile=fresh.ssl_ca_cert)
            if fresh.cert_file:
                tls.load_cert_chain(fresh.cert_file, keyfile=fresh.key_file)
        except (config.ConfigException, OSError, ValueError) as problem:
            _LOG.warning("Kubernetes credentials could not be read again: %s", problem)
            return False
        held.api_key, held.refresh_api_key_hook = fresh.api_key, fresh.refresh_api_key_hook
        return True


async def _configuration(kubeconfig: str, context: str) -> tuple[Any, str]:
    configuration = client.Configuration()
    configuration.retries = None  # whoever asks knows better when to ask again; 0 would be for ever
    configuration.disable_strict_ssl_verification = True  # Python 3.13 on wants more of authorities than clusters' have
    configuration.connection_pool_maxsize = 0  # each watch holds a connection; as many as there are
    if kubeconfig or context:
        namespace = await _from_kubeconfig(configuration, kubeconfig, context)
    else:
        namespace = await _from_surroundings(configuration)
    if _is_direct(configuration.host, getproxies().get("no", "")):
        configuration.client_session_kwargs = {"trust_env": False}
    return configuration, namespace


async def _from_surroundings(configuration: Any) -> str:
    try:
        config.load_incluster_config(configuration)
        return _own_namespace()
    except config.ConfigException:
        return await _from_kubeconfig(configuration, "", "")


def _own_namespace() -> str:
    return _NAMESPACE.read_text().strip() or "default"


def _named_kubeconfig(kubeconfig: str) -> str:
    """The files that are read, or some of them. Raises FileNotFoundError if there is none."""
    named = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(path).expanduser().exists() for path in named.split(os.pathsep) if path):
        raise FileNotFoundError(f"there is no kubeconfig {named}")
    return named


async def _from_kubeconfig(configuration: Any, kubeconfig: str, context: str) -> str:
    """Raises ConfigException, OSError, ValueError."""
    named = _named_kubeconfig(kubeconfig)
    try:
        await config.load_kube_config(
            config_file=kubeconfig or None,
            context=context or None,
            client_configuration=configuration,
            persist_config=False,  # the file belongs to someone else
        )
        contexts, active = config.list_kube_config_contexts(kubeconfig or None)
    except (yaml.YAMLError, TypeError, AttributeError) as problem:  # of other text, or half a file
        raise ValueError(f"{named} is no kubeconfig: {' '.join(str(problem).split())}") from problem
    chosen = next((each for each in contexts if each["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")


def _is_direct(url: str, no_proxy: str) -> bool:
    """Whether NO_PROXY names a network that the address is in. Clusters are set up so, and Go programs obey it;
    Python's libraries only know host names and single addresses there."""
    try:
        address = ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        with contextlib.suppress(ValueError):
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
    return False


async def _lines(response: aiohttp.ClientResponse, what: str) -> AsyncGenerator[bytes, None]:
    """Whole lines; one that was cut off by the end is none."""
    lines = Lines(MOST_LINE_BYTES)
    with _told(what):
        async for piece in response.content.iter_any():
            for line in lines.feed(piece):
                yield line


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the way to the server, as ours. Whoever uses what is made inside must not raise through it."""
    try:
        yield
    except aiohttp.SocketTimeoutError as problem:
        raise SilentWatch(f"{what}: {_said(problem)}") from problem
    except (aiohttp.ClientError, config.ConfigException, TimeoutError, OSError, ValueError) as problem:
        raise KubernetesError(f"{what}: {_said(problem)}") from problem


def _refusal(response: aiohttp.ClientResponse, answer: bytes, what: str) -> KubernetesRefusal:
    try:
        said = msgspec.json.decode(answer, type=_Status)
    except msgspec.MsgspecError:  # a proxy between, perhaps
        said = _Status(message=answer[:200].decode(errors="replace"))
    after = response.headers.get("Retry-After", "")
    return KubernetesRefusal(
        f"{what}: {response.status} {said.reason or response.reason}: {said.message}",
        status=response.status,
        reason=said.reason,
        retry_after_s=float(after) if after.isascii() and after.isdigit() else 0.0,
    )


def _said(problem: BaseException) -> str:
    return str(problem) or type(problem).__name__
