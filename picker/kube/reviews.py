"""Who may read the metrics port: bearer tokens, judged by the API server (TokenReview, then SubjectAccessReview).

An answer is kept for a while, by a keyed hash of the token: the token itself is neither kept nor logged. Answers kept,
reviews under way and time are bounded, so that whoever guesses tokens costs the API server little and others nothing.
"""

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from picker.errors import KubernetesError, KubernetesRefusal
from picker.kube.client import KubeClient

__all__ = ["ALLOWED_S", "DENIED_S", "STALE_S", "Reviewer", "Verdict"]

ALLOWED_S = 60.0
"""A yes holds for so long: as long may a right that was taken back go on."""

DENIED_S = 10.0
"""A no holds for so long: as long may a right that was granted not show."""

STALE_S = 600.0
"""A yes goes on for so long in all while the API server is away."""

MOST_KEPT = 256
"""Answers of each kind that are kept; the longest unused goes first."""

MOST_AT_ONCE = 8
"""Reviews under way."""

REVIEW_S = 3.0

_TOKEN = re.compile(r"[!-~]{1,16384}", re.ASCII)
_TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_LOG = logging.getLogger("picker.kube.reviews")


class Verdict(NamedTuple):
    """A status of HTTP and what to say with it; 200 lets pass."""

    status: int
    text: str


YES = Verdict(200, "")
_NO_TOKEN = Verdict(401, "unauthorized: send a ServiceAccount's token as 'Authorization: Bearer TOKEN'\n")
_BAD_TOKEN = Verdict(401, "unauthorized: the API server does not know this token; it may have expired\n")
_BUSY = Verdict(503, "too many tokens are being reviewed; try again\n")


class _Kept(NamedTuple):
    verdict: Verdict
    at_s: float


class _User(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User | None = None


class _TokenReview(msgspec.Struct):
    status: _TokenStatus


class _AccessStatus(msgspec.Struct):
    allowed: bool = False


class _AccessReview(msgspec.Struct):
    status: _AccessStatus


class Reviewer:
    """Judges requests by what the API server says. One event loop."""

    def __init__(self, client: KubeClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._yes: OrderedDict[bytes, _Kept] = OrderedDict()
        self._no: OrderedDict[bytes, _Kept] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[Verdict]] = {}
        self._trouble = ""

    async def judge(self, authorization: str, path: str) -> Verdict:
        """Whether who sends that Authorization header may get `path` (a nonResourceURL of RBAC). Raises nothing."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token):
            return _NO_TOKEN
        key = hashlib.blake2b(f"{path}\n{token}".encode(), key=self._secret, digest_size=16).digest()
        kept = self._kept(key)
        if kept is not None:
            return kept
        if key not in self._under_way:
            if len(self._under_way) >= MOST_AT_ONCE:
                return self._stale(key) or _BUSY
            self._under_way[key] = asyncio.ensure_future(self._review(key, token, path))
        return await asyncio.shield(self._under_way[key])  # others may wait for it too

    def _kept(self, key: bytes) -> Verdict | None:
        for answers, lasts_s in ((self._yes, ALLOWED_S), (self._no, DENIED_S)):
            found = answers.get(key)
            if found is not None and self._clock() - found.at_s < lasts_s:
                answers.move_to_end(key)
                return found.verdict
        return None

    def _stale(self, key: bytes) -> Verdict | None:
        """A yes of before, for want of a new answer."""
        found = self._yes.get(key)
        return found.verdict if found is not None and self._clock() - found.at_s < STALE_S else None

    def _keep(self, key: bytes, verdict: Verdict) -> None:
        mine, other = (self._yes, self._no) if verdict is YES else (self._no, self._yes)
        other.pop(key, None)
        mine[key] = _Kept(verdict, self._clock())
        mine.move_to_end(key)
        if len(mine) > MOST_KEPT:
            mine.popitem(last=False)

    async def _review(self, key: bytes, token: str, path: str) -> Verdict:
        try:
            verdict = await self._ask(token, path)
        except KubernetesError as problem:
            self._tell(problem)
            return self._stale(key) or Verdict(503, f"the API server cannot be asked who you are: {_why(problem)}\n")
        finally:
            del self._under_way[key]
        self._trouble = ""
        self._keep(key, verdict)
        return verdict

    async def _ask(self, token: str, path: str) -> Verdict:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        found = (await self._post(_TOKENS, review, _TokenReview)).status
        if not found.authenticated or found.user is None:
            return _BAD_TOKEN
        user = found.user
        spec: dict[str, Any] = {"user": user.username, "nonResourceAttributes": {"path": path, "verb": "get"}}
        spec |= {"uid": user.uid} if user.uid else {}
        spec |= {"groups": user.groups} if user.groups else {}
        spec |= {"extra": user.extra} if user.extra else {}
        access = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        if (await self._post(_ACCESS, access, _AccessReview)).status.allowed:
            return YES
        rule = f'nonResourceURLs ["{path}"] verbs ["get"]'
        return Verdict(403, f"forbidden: {user.username} needs a ClusterRole with {rule}, and a ClusterRoleBinding\n")

    async def _post(self, path: str, body: Any, of: Any) -> Any:
        answer = await self._client.request("POST", path, body=body, timeout_s=REVIEW_S)
        try:
            return msgspec.json.decode(answer, type=of)
        except msgspec.MsgspecError:
            raise KubernetesError(f"POST {path}: an answer that is no review") from None  # it may hold the token

    def _tell(self, problem: KubernetesError) -> None:
        """Once, not with every scrape."""
        why = _why(problem)
        if why != self._trouble:
            self._trouble = why
            _LOG.warning("requests for metrics cannot be judged: %s", why)


def _why(problem: KubernetesError) -> str:
    """Without what the server said, which may hold the token."""
    if not isinstance(problem, KubernetesRefusal):
        return "no answer"
    if problem.status != 403:
        return f"it answers {problem.status} {problem.reason}".rstrip()
    return (
        "picker may not create tokenreviews and subjectaccessreviews; bind its ServiceAccount to the ClusterRole "
        "system:auth-delegator, or pass --metrics-endpoint-auth=false"
    )
