"""Requests to a Kubernetes API server: the `kubernetes` client for address, TLS and credentials, raw bytes for bodies.

The client's model classes are not used: what picker reads of an object it decodes itself, with msgspec, from the bytes.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio import client, config

from picker.errors import KubernetesError, KubernetesRefusal, UsageError

__all__ = ["MERGE_PATCH", "KubeClient"]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

REQUEST_S = 10.0
"""Longest time a request that is no watch may take, its whole answer included."""

CONNECT_S = 5.0
MOST_BODY_BYTES = 256 << 20
MOST_LINE_BYTES = 8 << 20
"""Of one watch event; an API server stores objects of at most 1.5 MiB."""

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class _Status(msgspec.Struct):
    """A `metav1.Status`: why the server refuses."""

    reason: str = ""
    message: str = ""


class KubeClient:
    """One API server. Made by `connect`, ended by `close`; used on one event loop."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = api
        self.namespace = namespace
        """That of the credentials: of the pod, or of the context in the kubeconfig; else `default`."""

    @classmethod
    async def connect(cls, *, kubeconfig: str = "", context: str = "") -> "KubeClient":
        """A client with the credentials of the pod it runs in, or of a kubeconfig: the one named, or that of the
        environment. Nothing is sent yet. Raises UsageError where there are none."""
        configuration = client.Configuration()
        configuration.retries = 0  # whoever asks knows better when to ask again
        try:
            if kubeconfig or context:
                namespace = await _from_kubeconfig(configuration, kubeconfig, context)
            else:
                namespace = await _from_surroundings(configuration)
        except (config.ConfigException, OSError, ValueError) as problem:
            hint = "run inside a cluster, or name a kubeconfig with --kubeconfig or KUBECONFIG"
            raise UsageError(f"no way to reach a Kubernetes API server: {problem}; {hint}") from problem
        return cls(client.ApiClient(configuration), namespace)

    async def close(self) -> None:
        """Ends all connections."""
        await self._api.close()

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
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=CONNECT_S)
        try:
            response = await self._send(method, path, query, body, content_type, timeout)
            async with response:
                answer = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            raise KubernetesError(f"{method} {path}: {_said(problem)}") from problem
        if not 200 <= response.status < 300:
            raise _refusal(response, answer, f"{method} {path}")
        return answer

    @asynccontextmanager
    async def watch(
        self, path: str, *, query: Mapping[str, str | int], idle_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch as they come, each one event; they end when the server ends them.

        Raises, also while lines are read, KubernetesRefusal for an answer other than 200, KubernetesError for a
        connection that fails or says nothing for `idle_s` seconds.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=idle_s)
        response = None
        try:
            response = await self._send("GET", path, {**query, "watch": 1}, None, JSON, timeout)
            if response.status != 200:
                raise _refusal(response, await _read(response), f"watching {path}")
            yield _lines(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            raise KubernetesError(f"watching {path}: {_said(problem)}") from problem
        finally:
            if response is not None:
                response.close()  # an endless answer is not read to its end

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: Any,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
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


async def _from_surroundings(configuration: Any) -> str:
    try:
        config.load_incluster_config(configuration)
        return _own_namespace()
    except config.ConfigException:
        return await _from_kubeconfig(configuration, "", "")


def _own_namespace() -> str:
    return _NAMESPACE.read_text().strip() or "default"


async def _from_kubeconfig(configuration: Any, kubeconfig: str, context: str) -> str:
    await config.load_kube_config(
        config_file=kubeconfig or None, context=context or None, client_configuration=configuration
    )
    contexts, active = config.list_kube_config_contexts(kubeconfig or None)
    chosen = next((each for each in contexts if each["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for piece in response.content.iter_any():
        found += piece
        if len(found) > MOST_BODY_BYTES:
            raise ValueError(f"an answer of more than {MOST_BODY_BYTES} bytes")
    return bytes(found)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines; one that was cut off by the end is none."""
    rest = bytearray()
    async for piece in response.content.iter_any():
        rest += piece
        *lines, last = rest.split(b"\n") if b"\n" in piece else (rest,)
        if len(last) > MOST_LINE_BYTES:
            raise ValueError(f"an event of more than {MOST_LINE_BYTES} bytes")
        rest = bytearray(last)
        for line in lines:
            if line.strip():
                yield bytes(line)


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
