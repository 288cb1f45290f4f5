"""Quantities as the peer's files and flags spell them: Go durations (`1m30s`) and Kubernetes quantities (`10Mi`)."""

import math
import re
from decimal import Decimal
from typing import Any

__all__ = ["Bytes", "Seconds", "dec_hook", "duration_s", "format_bytes", "format_duration", "quantity"]

_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_STEP = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_STEP.pattern})+\Z")
_MAX_NANOSECONDS = 2**63 - 1  # Go's time.Duration; about 292 years

_SCALES: dict[str, int] = {"": 1} | {suffix: 1000**power for power, suffix in enumerate("kMGTPE", start=1)}
_SCALES |= {f"{suffix}i": 1024**power for power, suffix in enumerate("KMGTPE", start=1)}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([kMGTPE]|[KMGTPE]i)?B?\Z")
_MAX_QUANTITY = 2**63 - 1
_MAX_LENGTH = 64


class Seconds(float):
    """A length of time in seconds; in a file a Go duration such as `50ms`."""


class Bytes(int):
    """A size in bytes, or a plain count; in a file a Kubernetes quantity such as `1Gi`, `500M` or a whole number."""


def duration_s(text: str) -> float:
    """Seconds in a Go duration (`300ms`, `1h30m`, `0`). Raises `ValueError` for anything else, negative included."""
    if text == "0":
        return 0.0
    if len(text) > _MAX_LENGTH or not _DURATION.match(text):
        raise ValueError(
            f"{text[:_MAX_LENGTH]!r} is not a duration; write a number and a unit, such as 50ms, 2s or 1m30s"
        )
    nanoseconds = sum(Decimal(number) * _NANOSECONDS[unit] for number, unit in _STEP.findall(text))
    if nanoseconds > _MAX_NANOSECONDS:
        raise ValueError(f"{text!r} is longer than a duration can be (292 years)")
    return float(nanoseconds / 10**9)


def format_duration(seconds: float) -> str:
    """The shortest of `50ms`, `2s`, `5m` that says the same."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds / 60:g}m" if seconds >= 300 and seconds % 60 == 0 else f"{seconds:g}s"


def format_bytes(size: int) -> str:
    """The shortest Kubernetes quantity that says the same, a `B` after it: `1GB`, `10GiB`, `1500B`."""
    suffixes = ((scale, suffix) for suffix, scale in _SCALES.items() if size and size % scale == 0)
    scale, suffix = max(suffixes, default=(1, ""))
    return f"{size // scale}{suffix}B"


def quantity(text: str) -> int:
    """The number a Kubernetes quantity stands for, a fraction rounded up; a trailing `B` is allowed (`10MiB`).

    Raises `ValueError` for anything else, negative included.
    """
    found = _QUANTITY.match(text) if len(text) <= _MAX_LENGTH else None
    if found is None:
        raise ValueError(
            f"{text[:_MAX_LENGTH]!r} is not a quantity; write a number with a unit if any, such as 500M or 64Mi"
        )
    value: int = math.ceil(Decimal(found[1]) * _SCALES[found[2] or ""])
    if value > _MAX_QUANTITY:
        raise ValueError(f"{text!r} is too large")
    return value


def dec_hook(wanted: type, value: Any) -> Any:
    """msgspec's hook for the two types above; raises `ValueError` with what was expected."""
    if wanted is Seconds:
        if not isinstance(value, str):
            raise ValueError("expected a duration such as 50ms or 2s")
        return Seconds(duration_s(value))
    if wanted is Bytes:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("expected a quantity such as 500M or 64Mi")
        return Bytes(quantity(str(value)))
    raise NotImplementedError(wanted)
