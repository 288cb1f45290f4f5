"""Who a token is of, and what they may: TokenReview and SubjectAccessReview."""

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


MASTERS = "system:masters"  # may do everything


@dataclass
class Reviews:
    """`tokens`: who each is of, and their groups. `allowed`: (user or group, verb, path, or `plural.group`)."""

    tokens: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    allowed: set[tuple[str, str, str]] = field(default_factory=set)

    def user(self, token: str) -> str | None:
        found = self.tokens.get(token)
        return found[0] if found else None

    def review(self, kind: str, body: Json, user: str) -> Json:
        """The body with its status."""
        spec = body.get("spec") or {}
        if kind == "TokenReview":
            return {**body, "status": self._authenticate(str(spec.get("token", "")))}
        if kind == "SelfSubjectAccessReview":
            return {**body, "status": {"allowed": True}}
        names = (spec.get("user", ""), *(spec.get("groups") or ()))
        allowed = MASTERS in names or any((name, *_asked(spec)) in self.allowed for name in names)
        return {**body, "status": {"allowed": allowed} | ({} if allowed else {"reason": "no rule allows it"})}

    def _authenticate(self, token: str) -> Json:
        found = self.tokens.get(token)
        if found is None:
            return {"authenticated": False, "user": {}, "error": "invalid bearer token"}
        user, groups = found
        return {"authenticated": True, "user": {"username": user, "groups": [*groups, "system:authenticated"]}}


def _asked(spec: Json) -> tuple[str, str]:
    plain = spec.get("nonResourceAttributes")
    if plain:
        return str(plain.get("verb", "")), str(plain.get("path", ""))
    of = spec.get("resourceAttributes") or {}
    resource, group = of.get("resource", ""), of.get("group", "")
    return str(of.get("verb", "")), f"{resource}.{group}" if group else str(resource)
