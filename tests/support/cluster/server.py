"""The HTTP of an API server: paths, verbs, credentials, lists, pages."""

import asyncio
import base64
import gzip
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, TypedDict

import aiohttp
import msgspec
import yaml
from aiohttp import web

from tests.support.cluster import discovery, patches, refusals
from tests.support.cluster.faults import Fault, Faults
from tests.support.cluster.kinds import Kinds
from tests.support.cluster.objects import Objects
from tests.support.cluster.rbac import Asked
from tests.support.cluster.refusals import NoSuchPath, Refusal
from tests.support.cluster.reviews import Reviews
from tests.support.cluster.selectors import field_selector, label_selector
from tests.support.cluster.store import Store, Stored
from tests.support.cluster.watching import Scope, Watch

Json = dict[str, Any]
_LOG = logging.getLogger("cluster")
PACKED_BYTES = 128 << 10
_YES = ("1", "true", "True")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}


class _Options(TypedDict):
    strict: bool
    dry: bool


class Target:
    """What a path is of: `/api/v1/namespaces/NS/pods/NAME/status`."""

    def __init__(self, kinds: Kinds, path: str) -> None:
        words = [word for word in path.split("/") if word]
        if words[:2] == ["api", "v1"]:
            group, version, rest = "", "v1", words[2:]
        elif words[:1] == ["apis"] and len(words) > 3:
            group, version, rest = words[1], words[2], words[3:]
        else:
            raise NoSuchPath
        self.namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            self.namespace, rest = rest[1], rest[2:]
        self.kind = kinds.of_path(group, version, rest[0] if rest else "")
        self.version = version
        self.name = rest[1] if len(rest) > 1 else ""
        self.part = "/".join(rest[2:])


class Server:
    """Answers requests. Everything it holds is shared with `Cluster`, which starts it."""

    def __init__(self, objects: Objects, reviews: Reviews, proxied: dict[tuple[str, str, int], str]) -> None:
        self.objects, self.kinds, self.store = objects, objects.kinds, objects.store
        self.reviews = reviews
        self.proxied = proxied
        self.forbidden: set[tuple[str, str]] = set()
        self.rbac = False
        self.bookmark_s = 60.0
        self.watch_list = True
        self.watches: set[Watch] = set()
        self.faults: Faults  # set by Cluster
        self.requests: list[tuple[str, str]] = []
        """Method and path, with the query, of all so far."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        try:
            fault = self.faults.of_request(request.method, request.path)
            if fault is not None and fault.what == "refuse":
                raise fault.refusal()
            if fault is not None and fault.what == "drop" and request.transport is not None:
                request.transport.abort()
                return web.Response()
            return await self._send(request, fault, await self._answer(request, fault))
        except Refusal as refusal:
            return self._refused(refusal)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as problem:
            _LOG.exception("%s %s", request.method, request.path_qs)
            return self._refused(Refusal(500, f"{type(problem).__name__}: {problem}"))

    def _refused(self, refusal: Refusal) -> web.Response:
        if isinstance(refusal, NoSuchPath):
            return web.Response(text=refusal.text, status=refusal.code)
        headers = {"Retry-After": str(refusal.retry_after_s)} if refusal.retry_after_s else {}
        return _json(refusal.status(), refusal.code, headers)

    async def _send(
        self, request: web.BaseRequest, fault: Fault | None, answer: web.StreamResponse
    ) -> web.StreamResponse:
        """Slowly, or not the whole of it, or something else, as faults have it."""
        if not isinstance(answer, web.Response) or (fault is None and not self.faults.bytes_per_s):
            return answer
        body = bytes(answer.body) if isinstance(answer.body, bytes) else b""
        if fault is not None and fault.what == "wrong_json":
            return web.Response(body=b"\x00" + body, content_type="application/json")
        kept = {name: answer.headers[name] for name in ("Content-Type", "Content-Encoding") if name in answer.headers}
        slow = web.StreamResponse(status=answer.status, headers=kept)
        slow.content_length = len(body)
        await slow.prepare(request)
        rate = self.faults.bytes_per_s
        sent = body[: len(body) // 2] if fault is not None else body
        step = max(1, int(rate / 10)) if rate else max(1, len(sent))
        for start in range(0, len(sent), step):
            await slow.write(sent[start : start + step])
            if rate:
                await asyncio.sleep(step / rate)
        if fault is not None and request.transport is not None:
            request.transport.close()
        return slow

    async def _answer(self, request: web.BaseRequest, fault: Fault | None) -> web.StreamResponse:
        if request.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        names = self._names(request)
        found = discovery.document(self.kinds, request.path) if request.method == "GET" else None
        if found is not None:
            return _json(found)
        target = Target(self.kinds, request.path)
        self._authorize(names, request, target)
        if target.kind.virtual:
            body = await _body(request)
            return _json(self.reviews.review(target.kind.kind, body, names), 201)
        if target.part.startswith("proxy"):
            return await self._proxy(request, target)
        if request.method == "GET" and not target.name:
            return await self._collection(request, target, fault)
        return await self._one(request, target)

    def _names(self, request: web.BaseRequest) -> tuple[str, ...]:
        """Who asks, and their groups."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return self.reviews.names(token if scheme.lower() == "bearer" else "")

    def _authorize(self, names: tuple[str, ...], request: web.BaseRequest, target: Target) -> None:
        kind, verb = target.kind, _verb(request, target)
        name = target.name or _name_selected(request)  # a list of one by its name counts as of that name
        resource = f"{kind.plural}/{target.part.partition('/')[0]}" if target.part else kind.plural
        asked = Asked(verb, resource, kind.group, target.namespace, name)
        if kind.resource in self.forbidden or (self.rbac and not self.reviews.allows(names, asked)):
            raise refusals.forbidden(kind.group, kind.plural, verb, names[0])

    # --- one object ---

    async def _one(self, request: web.BaseRequest, target: Target) -> web.Response:
        if target.part not in ("", "status", "finalize") or (target.part == "status" and not target.kind.status):
            raise NoSuchPath
        verb = {
            "GET": self._get,
            "POST": self._create,
            "PUT": self._replace,
            "PATCH": self._patch,
            "DELETE": self._delete,
        }
        if request.method not in verb or (request.method == "POST") is bool(target.name):
            raise Refusal(405, "the server does not allow this method on the requested resource")
        return await verb[request.method](request, target)

    async def _get(self, request: web.BaseRequest, target: Target) -> web.Response:
        found = self.objects.read(target.kind, target.namespace, target.name)
        return self._object(target, found)

    async def _create(self, request: web.BaseRequest, target: Target) -> web.Response:
        body = await _body(request)
        made = self.objects.create(target.kind, target.namespace, body, **_options(request.query))
        return self._object(target, made, 201)

    async def _replace(self, request: web.BaseRequest, target: Target) -> web.Response:
        body = await _body(request)
        if body.get("metadata", {}).get("name") != target.name:
            raise Refusal(400, "the name of the object does not match the name on the URL")
        options = _options(request.query)
        made = self.objects.replace(
            target.kind,
            target.namespace,
            target.name,
            body,
            part=target.part,
            strict=options["strict"],
            dry=options["dry"],
        )
        return self._object(target, made)

    async def _patch(self, request: web.BaseRequest, target: Target) -> web.Response:
        patch = await _body(request)
        kind, options = target.kind, _options(request.query)
        if request.content_type == patches.APPLY:
            manager = request.query.get("fieldManager", "")
            if not manager:
                raise Refusal(400, "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
            force = request.query.get("force") in _YES
            existed = self.store.get(kind.resource, (target.namespace, target.name)) is not None
            made = self.objects.apply(
                kind, target.namespace, target.name, patch, manager=manager, force=force, part=target.part, **options
            )
            return self._object(target, made, 200 if existed else 201)
        how = {patches.MERGE: patches.merge, patches.JSON_PATCH: patches.json_patch}
        if not kind.custom:
            how[patches.STRATEGIC] = patches.strategic
        if request.content_type not in how:
            raise Refusal(415, f"the body of the request was in an unknown format: {request.content_type}")
        change = how[request.content_type]
        made = self.objects.change(
            kind, target.namespace, target.name, lambda old: change(old, patch), part=target.part, **options
        )
        return self._object(target, made)

    async def _delete(self, request: web.BaseRequest, target: Target) -> web.Response:
        options = await _body(request) if request.can_read_body else {}
        if "gracePeriodSeconds" in request.query:
            options["gracePeriodSeconds"] = int(request.query["gracePeriodSeconds"])
        if not target.name:
            return self._delete_collection(request, target, options)
        dry = "All" in (*(options.get("dryRun") or ()), request.query.get("dryRun"))
        last, gone = self.objects.delete(target.kind, target.namespace, target.name, options, dry=dry)
        if not gone or target.kind.kind == "Pod":
            return self._object(target, last)
        uid = last.data["metadata"]["uid"]
        details = {"name": target.name, "group": target.kind.group, "kind": target.kind.plural, "uid": uid}
        return _json(refusals.success(details))

    def _delete_collection(self, request: web.BaseRequest, target: Target, options: Json) -> web.Response:
        scope = _scope(request, target)
        for (namespace, name), stored in self.store.at(target.kind.resource, self.store.version).items():
            if scope.holds((namespace, name), stored):
                self.objects.delete(target.kind, namespace, name, options)
        return _json(refusals.success({"group": target.kind.group, "kind": target.kind.plural}))

    def _object(self, target: Target, stored: Stored, status: int = 200) -> web.Response:
        encoded = _scope_of(target).json(stored)
        return web.Response(body=encoded, status=status, content_type="application/json")

    # --- lists ---

    async def _collection(self, request: web.BaseRequest, target: Target, fault: Fault | None) -> web.StreamResponse:
        scope = _scope(request, target)
        if request.query.get("watch") not in _YES:
            return _large(request, self._list(request.query, scope))
        self._check_watch(request.query)
        watch = Watch(scope, request, self.store, self.faults, self.bookmark_s)
        self.watches.add(watch)
        try:
            return await watch.run(fault is not None and fault.what == "wrong_json")
        finally:
            self.watches.discard(watch)

    def _check_watch(self, query: Mapping[str, str]) -> None:
        _number(query.get("resourceVersion") or "0")
        first = query.get("sendInitialEvents")
        if first is None:
            return
        if not self.watch_list:
            raise Refusal(422, "ListOptions is invalid: sendInitialEvents: Forbidden: this server has no WatchList")
        if query.get("resourceVersionMatch") != "NotOlderThan":
            raise Refusal(422, "ListOptions is invalid: resourceVersionMatch: sendInitialEvents requires NotOlderThan")

    def _list(self, query: Mapping[str, str], scope: Scope) -> bytes:
        after, version = _page(query, self.store)
        with self.store.lock:
            objects = self.store.at(scope.kind.resource, version) if version else {}
            if not version:
                version = self.store.version
                objects = self.store.at(scope.kind.resource, version)
        found = [item for item in sorted(objects.items()) if item[0] > after and scope.holds(*item)]
        limit = _number(query.get("limit") or "0")
        metadata: Json = {"resourceVersion": str(version)}
        if limit and len(found) > limit:
            selected = query.get("labelSelector") or query.get("fieldSelector")
            metadata |= {"continue": _continue(version, found[limit - 1][0])}
            metadata |= {} if selected else {"remainingItemCount": len(found) - limit}
            found = found[:limit]
        return _encode_list(scope, metadata, [stored for _, stored in found])

    # --- others ---

    async def _proxy(self, request: web.BaseRequest, target: Target) -> web.Response:
        """To a port of a pod."""
        name, _, port = target.name.rpartition(":")
        self.objects.read(target.kind, target.namespace, name or target.name)
        address = self.proxied.get((target.namespace, name, int(port or 80)))
        if address is None:
            raise Refusal(503, f"error trying to reach service: no route to {target.namespace}/{target.name}")
        path = request.path_qs.partition("/proxy")[2] or "/"
        try:
            async with aiohttp.ClientSession() as session:
                url, body = f"http://{address}{path}", await request.read()
                async with session.request(request.method, url, data=body) as found:
                    kind = found.headers.get("Content-Type", "text/plain")
                    return web.Response(body=await found.read(), status=found.status, headers={"Content-Type": kind})
        except aiohttp.ClientError as problem:
            raise Refusal(503, f"error trying to reach service: {problem}") from problem


def _verb(request: web.BaseRequest, target: Target) -> str:
    verb = _VERBS.get(request.method, "get")
    if verb == "get" and (not target.name or request.query.get("watch") in _YES):
        return "watch" if request.query.get("watch") in _YES else "list"
    return "deletecollection" if verb == "delete" and not target.name else verb


def _name_selected(request: web.BaseRequest) -> str:
    found = re.fullmatch(r"metadata\.name=+([^,]+)", request.query.get("fieldSelector", ""))
    return found[1] if found else ""


def _scope_of(target: Target) -> Scope:
    return Scope(kind=target.kind, version=target.version, namespace=target.namespace, selects=lambda _: True)


def _scope(request: web.BaseRequest, target: Target) -> Scope:
    labels = label_selector(request.query.get("labelSelector", ""))
    fields = field_selector(request.query.get("fieldSelector", ""), target.kind.fields)
    return Scope(
        kind=target.kind,
        version=target.version,
        namespace=target.namespace,
        selects=lambda stored: labels(stored.labels) and fields(stored.data),
    )


def _options(query: Mapping[str, str]) -> _Options:
    return {"strict": query.get("fieldValidation") == "Strict", "dry": query.get("dryRun") == "All"}


async def _body(request: web.BaseRequest) -> Any:
    """JSON or YAML."""
    text = await request.read()
    if b"protobuf" in request.headers.get("Content-Type", "").encode():
        raise Refusal(
            415, "the body of the request was in an unknown format - accepted media types include: JSON, YAML"
        )
    try:
        return json.loads(text) if text[:1] in (b"{", b"[") else yaml.safe_load(text) or {}
    except (ValueError, yaml.YAMLError) as problem:
        raise Refusal(400, f"couldn't get version/kind; json parse error: {problem}") from problem


def _json(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    encoded = msgspec.json.encode(body)
    return web.Response(body=encoded, status=status, headers=headers, content_type="application/json")


def _large(request: web.BaseRequest, body: bytes) -> web.Response:
    """Lists beyond some size are packed, for who can unpack them."""
    if len(body) < PACKED_BYTES or "gzip" not in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=body, content_type="application/json")
    headers = {"Content-Encoding": "gzip"}
    return web.Response(body=gzip.compress(body, 1), headers=headers, content_type="application/json")


def _number(text: str) -> int:
    if not text.isdigit():
        raise Refusal(400, f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _page(query: Mapping[str, str], store: Store) -> tuple[tuple[str, str], int]:
    """The key the page comes after, and the version it is of; 0 is the newest."""
    token, said = query.get("continue", ""), query.get("resourceVersion", "")
    match = query.get("resourceVersionMatch", "")
    if token:
        try:
            version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except ValueError as problem:
            raise Refusal(400, f"continue key is not valid: {problem}") from problem
        return (namespace, name), int(version)
    if match and not said:
        raise Refusal(
            422, "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is"
        )
    version = _number(said or "0")
    if version > store.version:
        cause = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        message = f"Too large resource version: {version}, current: {store.version}"
        raise Refusal(504, message, details={"causes": cause}, retry_after_s=1)
    return ("", ""), version if match == "Exact" else 0


def _continue(version: int, key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, *key]).encode()).decode()


def _encode_list(scope: Scope, metadata: Json, found: list[Stored]) -> bytes:
    """Items of the kinds of Kubernetes itself do not say what they are; those of CRDs do."""
    kind = scope.kind
    if kind.custom:
        items = [scope.json(stored) for stored in found]
    else:
        items = [
            msgspec.json.encode({k: v for k, v in s.data.items() if k not in ("apiVersion", "kind")}) for s in found
        ]
    head = {"kind": f"{kind.kind}List", "apiVersion": kind.api_version(scope.version), "metadata": metadata}
    return msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"
