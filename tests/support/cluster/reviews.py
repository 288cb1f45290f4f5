"""Who a token is of, and what they may: TokenReview and SubjectAccessReview."""

from typing import Any

from tests.support.cluster.rbac import Asked, Rbac
from tests.support.cluster.refusals import Refusal

Json = dict[str, Any]


class Reviews:
    """`tokens`: who each is of, and their groups.

    `allowed`, beside what roles grant: (user or group, verb, what), where what is a path, or `plural.group`.
    """

    def __init__(self, rbac: Rbac) -> None:
        self.tokens: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.allowed: set[tuple[str, str, str]] = set()
        self._rbac = rbac

    def names(self, token: str) -> tuple[str, ...]:
        """The user, and the groups. Raises Refusal 401."""
        if token not in self.tokens:
            raise Refusal(401, "Unauthorized")
        user, groups = self.tokens[token]
        return user, *groups, "system:authenticated"

    def allows(self, names: tuple[str, ...], asked: Asked) -> bool:
        what = asked.path or (f"{asked.resource}.{asked.group}" if asked.group else asked.resource)
        return self._rbac.allows(names, asked) or any((name, asked.verb, what) in self.allowed for name in names)

    def review(self, kind: str, body: Json, asker: tuple[str, ...]) -> Json:
        """The body with its status."""
        spec = body.get("spec") or {}
        if kind == "TokenReview":
            return {**body, "status": self._authenticate(str(spec.get("token", "")))}
        of_asker = kind == "SelfSubjectAccessReview"
        names = asker if of_asker else (spec.get("user", ""), *(spec.get("groups") or ()))
        allowed = self.allows(names, _asked(spec))
        return {**body, "status": {"allowed": allowed} | ({} if allowed else {"reason": "no rule allows it"})}

    def _authenticate(self, token: str) -> Json:
        try:
            user, *groups = self.names(token)
        except Refusal:
            return {"authenticated": False, "user": {}, "error": "invalid bearer token"}
        return {"authenticated": True, "user": {"username": user, "groups": groups}}


def _asked(spec: Json) -> Asked:
    plain = spec.get("nonResourceAttributes")
    if plain:
        return Asked(str(plain.get("verb", "")), path=str(plain.get("path", "")))
    of = spec.get("resourceAttributes") or {}
    resource, part = of.get("resource", ""), of.get("subresource", "")
    return Asked(
        of.get("verb", ""),
        f"{resource}/{part}" if part else resource,
        of.get("group", ""),
        of.get("namespace", ""),
        of.get("name", ""),
    )
