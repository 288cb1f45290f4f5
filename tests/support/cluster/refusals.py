"""What an API server refuses with: a `metav1.Status` and its HTTP status."""

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refusal(Exception):
    """Raised anywhere below the HTTP handler, and answered by it."""

    def __init__(
        self, code: int, message: str, *, reason: str = "", details: Json | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason or REASONS.get(code, "Unknown")
        self.details = details or {}
        self.retry_after_s = retry_after_s

    def status(self) -> Json:
        """The body."""
        details = dict(self.details)
        if self.retry_after_s:
            details["retryAfterSeconds"] = self.retry_after_s
        body: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": self.reason, "code": self.code}
        return body | ({"details": details} if details else {})


class NoSuchPath(Refusal):
    """Of a path that no kind is at: the one refusal that is no Status."""

    text = "404 page not found\n"

    def __init__(self) -> None:
        super().__init__(404, self.text)


def success(details: Json) -> Json:
    """What a deletion is answered with."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _details(group: str, plural: str, name: str, causes: Sequence[Json] = ()) -> Json:
    said: Json = {"name": name, "group": group, "kind": plural}
    return {key: value for key, value in said.items() if value} | ({"causes": list(causes)} if causes else {})


def _qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> Refusal:
    message = f'{_qualified(group, plural)} "{name}" not found'
    return Refusal(404, message, details=_details(group, plural, name))


def already_exists(group: str, plural: str, name: str) -> Refusal:
    message = f'{_qualified(group, plural)} "{name}" already exists'
    return Refusal(409, message, reason="AlreadyExists", details=_details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str = "") -> Refusal:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {_qualified(group, plural)} "{name}": {why}'
    return Refusal(409, message, details=_details(group, plural, name))


def invalid(group: str, kind: str, name: str, problems: Sequence[tuple[str, str]]) -> Refusal:
    """`problems`: where (a path), and what."""
    said = ", ".join(f"{where}: {what}" for where, what in problems)
    causes = [{"reason": "FieldValueInvalid", "message": what, "field": where} for where, what in problems]
    qualified = f"{kind}.{group}" if group else kind
    return Refusal(422, f'{qualified} "{name}" is invalid: {said}', details=_details(group, kind, name, causes))


def forbidden(group: str, plural: str, verb: str, user: str) -> Refusal:
    message = f'{_qualified(group, plural)} is forbidden: User "{user}" cannot {verb} resource "{plural}"'
    return Refusal(403, f'{message} in API group "{group}"', details=_details(group, plural, ""))


def expired(message: str) -> Refusal:
    return Refusal(410, message)
