"""A cluster: the API server in a thread, and the same objects through Python."""

import asyncio
import base64
import contextlib
import ssl
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml
from aiohttp import web

from tests.support.certificates import Authority
from tests.support.cluster.faults import Faults
from tests.support.cluster.kinds import CORE, EXTENSIONS, Kind, Kinds
from tests.support.cluster.objects import Objects, now
from tests.support.cluster.patches import merge
from tests.support.cluster.rbac import MASTERS, Rbac
from tests.support.cluster.refusals import Refusal
from tests.support.cluster.reviews import Reviews
from tests.support.cluster.server import Server
from tests.support.cluster.store import HISTORY, Store

Json = dict[str, Any]
Result = TypeVar("Result")
TOKEN = "admin-token"
STEP_S = 30.0


class Cluster:
    """Started by `with`, or `start` and `stop`. Every method may be called from any thread.

    `extensions`: whether the kinds of the Gateway API and of inference are there, or which (names as `get` takes them).
    `bookmark_s`: how often watches that asked for bookmarks get one. `history`: how many changes each resource keeps.
    Without `tls` kubectl sends no token, and is refused. With `rbac` a token may do what roles say, `TOKEN` anything.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        extensions: bool | Sequence[str] = True,
        bookmark_s: float = 1.0,
        history: int = HISTORY,
        watch_list: bool = True,
        tls: bool = True,
        rbac: bool = False,
    ) -> None:
        self.port = port
        self._authority = Authority.named("cluster") if tls else None
        self.kinds = Kinds(CORE)
        for kind in EXTENSIONS if extensions is True else map(Kinds(EXTENSIONS).named, extensions or ()):
            self.kinds.add(kind)
        self.store = Store(self._changed, history)
        self.objects = Objects(self.kinds, self.store)
        self.reviews = Reviews(Rbac(self.store))
        self.reviews.tokens[TOKEN] = "admin", (MASTERS,)
        self.proxied: dict[tuple[str, str, int], str] = {}
        self._server = Server(self.objects, self.reviews, self.proxied)
        self._server.bookmark_s, self._server.watch_list, self._server.rbac = bookmark_s, watch_list, rbac
        self.faults = self._server.faults = Faults(self._tell, self._compact)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        for name in ("default", "kube-system"):
            self.objects.ensure_namespace(self.kinds.named("Pod"), name)

    # --- life ---

    def start(self) -> "Cluster":
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        self._do(self._listen())
        return self

    def stop(self) -> None:
        assert self._loop is not None
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STEP_S)
        self._loop.close()

    def _run(self) -> None:
        assert self._loop is not None
        self._loop.run_forever()

    def __enter__(self) -> "Cluster":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop_listening(self) -> None:
        """The server is away: connections break, new ones are refused."""
        self._do(self._leave())

    def listen_again(self) -> None:
        """On the same port."""
        self._do(self._listen())

    async def _listen(self) -> None:
        if self._runner is None:
            server = web.Server(self._server.handle, handler_cancellation=True)
            self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
            await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls())
        await self._site.start()
        self.port = int(self._runner.addresses[0][1])

    def _tls(self) -> ssl.SSLContext | None:
        if self._authority is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with tempfile.TemporaryDirectory() as directory:
            made = self._authority.issue(Path(directory), "IP:127.0.0.1")
            context.load_cert_chain(made / "tls.crt", made / "tls.key")
        return context

    async def _leave(self) -> None:
        if self._site is not None:
            await self._accept_no_more(self._site)
            await self._site.stop()
            self._site = None
        assert self._runner is not None
        assert self._runner.server is not None
        for connection in list(self._runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    @staticmethod
    async def _accept_no_more(site: web.TCPSite) -> None:
        """asyncio loses a connection that it has accepted, and has not set up, when its server is closed."""
        loop = asyncio.get_running_loop()
        assert site._server is not None
        for listening in getattr(site._server, "sockets", ()):
            loop.remove_reader(listening.fileno())
        for _ in range(3):  # what was accepted is set up meanwhile
            await asyncio.sleep(0)

    async def _end(self) -> None:
        await self._leave()
        assert self._runner is not None
        await self._runner.cleanup()

    def _do(self, what: Coroutine[Any, Any, Result]) -> Result:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(STEP_S)

    def _on_loop(self, what: Callable[[], Result]) -> Result:
        async def run() -> Result:
            return what()

        if not self._thread.is_alive() or threading.current_thread() is self._thread:
            return what()
        return self._do(run())

    def _changed(self, resource: tuple[str, str]) -> None:
        def wake() -> None:
            for watch in self._server.watches:
                if watch.resource == resource:
                    watch.wake.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody watches
            if self._loop is not None:
                self._loop.call_soon_threadsafe(wake)

    def _tell(self, match: str, command: str) -> int:
        def tell() -> int:
            found = [watch for watch in self._server.watches if watch.path.startswith(match)]
            for watch in found:
                watch.command(command)
            return len(found)

        return self._on_loop(tell)

    def _compact(self) -> None:
        self.store.compact()

    # --- what clients need ---

    @property
    def url(self) -> str:
        return f"http{'s' if self._authority else ''}://127.0.0.1:{self.port}"

    @property
    def ca(self) -> bytes:
        """The certificate to trust; nothing without TLS."""
        return self._authority.pem if self._authority else b""

    @property
    def requests(self) -> list[tuple[str, str]]:
        """Method and path with query of every request so far."""
        return list(self._server.requests)

    def open_watches(self, match: str = "") -> int:
        """How many there are now, on paths that begin so."""
        return self._on_loop(lambda: sum(watch.path.startswith(match) for watch in self._server.watches))

    def kubeconfig(self, directory: Path, *, token: str = TOKEN, namespace: str = "default") -> Path:
        """A kubeconfig for this server, written there."""
        path = directory / "kubeconfig"
        config: Json = {"apiVersion": "v1", "kind": "Config", "current-context": "test"}
        server = {"server": self.url}
        if self._authority:
            server["certificate-authority-data"] = base64.b64encode(self.ca).decode()
        config["clusters"] = [{"name": "test", "cluster": server}]
        config["users"] = [{"name": "test", "user": {"token": token}}]
        context = {"cluster": "test", "user": "test", "namespace": namespace}
        config["contexts"] = [{"name": "test", "context": context}]
        path.write_text(yaml.safe_dump(config))
        return path

    def token(self, account: str, namespace: str = "default") -> str:
        """A token of that ServiceAccount."""
        made = f"token-of-{namespace}-{account}"
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        self.reviews.tokens[made] = f"system:serviceaccount:{namespace}:{account}", groups
        return made

    def forbid(self, kind: str) -> None:
        """Whatever is asked of it is answered 403."""
        self._server.forbidden.add(self.kinds.named(kind).resource)

    def allow(self, kind: str) -> None:
        """Takes `forbid` back."""
        self._server.forbidden.discard(self.kinds.named(kind).resource)

    # --- objects ---

    def apply(self, manifest: Mapping[str, Any] | str, *, namespace: str = "default") -> Json:
        """Create or replace, status included; its namespace is made if need be. Of a text with several, the last.

        Raises Refusal, as clients would get it.
        """
        documents = yaml.safe_load_all(manifest) if isinstance(manifest, str) else [manifest]
        stored: Json = {}
        for document in filter(None, documents):
            kind = self.kinds.of_manifest(document)
            of = str(document["metadata"].get("namespace") or namespace) if kind.namespaced else ""
            stored = self.objects.write(kind, of, dict(document)).copy()
        return stored

    def get(self, kind: str, name: str, namespace: str = "default") -> Json:
        """Raises Refusal 404."""
        of = self.kinds.named(kind)
        return self.objects.read(of, namespace if of.namespaced else "", name).copy()

    def list(self, kind: str, namespace: str | None = None) -> list[Json]:
        """All there are, or those of a namespace, by name."""
        objects = sorted(self.store.at(self.kinds.named(kind).resource, self.store.version).items())
        return [stored.copy() for key, stored in objects if namespace in (None, key[0])]

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """At once, unless it has finalizers. Raises Refusal 404."""
        of = self.kinds.named(kind)
        self.objects.delete(of, namespace if of.namespaced else "", name, {"gracePeriodSeconds": 0})

    def patch(self, kind: str, name: str, patch: Mapping[str, Any], namespace: str = "default") -> Json:
        """A merge patch; it may change the status too."""
        of = self.kinds.named(kind)
        with self.store.lock:
            old = self.objects.read(of, namespace if of.namespaced else "", name).copy()
            return self.objects.write(of, namespace if of.namespaced else "", merge(old, dict(patch))).copy()

    def pod(
        self,
        name: str,
        ip: str,
        *,
        labels: Mapping[str, str] | None = None,
        ready: bool = True,
        namespace: str = "default",
        annotations: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Json:
        """A pod that runs, with that IP; `more` are members of its status."""
        state = "True" if ready else "False"
        metadata: Json = {"name": name, "namespace": namespace, "labels": dict(labels or {})}
        metadata |= {"annotations": dict(annotations)} if annotations else {}
        status: Json = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now()}
        status["conditions"] = [{"type": kind, "status": state} for kind in ("Ready", "ContainersReady")]
        status["containerStatuses"] = [
            {"name": "server", "ready": ready, "restartCount": 0, "image": "", "imageID": ""}
        ]
        containers = [{"name": "server", "image": "example.com/server:1"}]
        spec = {"nodeName": "node-1", "containers": containers}
        return self.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status | more}
        )

    def terminate(self, name: str, namespace: str = "default") -> Json:
        """Mark a pod as being deleted; `delete` then ends it."""
        return self.objects.mark_deleted(self.kinds.named("Pod"), namespace, name).copy()


__all__ = ["Cluster", "Kind", "Refusal"]
