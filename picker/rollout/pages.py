"""Metrics pages to figures: of picker, and of any endpoint picker that counts under the same names."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from picker.errors import PickerError, printable
from picker.rollout.figures import Figures

__all__ = ["CLIENTS_OWN", "SHED", "PageError", "Side", "knows_pools", "read_page"]

_NAMES = (
    (
        "inference_objective_request_total",
        "inference_objective_request_error_total",
        "inference_objective_request_ttft_seconds_bucket",
    ),
    ("llm_d_epp_request_total", "llm_d_epp_request_error_total", "llm_d_epp_request_ttft_seconds_bucket"),
)
"""Since the Inference Extension, since llm-d; picker has both. Requests, errors, times to first token."""

_POOL = re.compile(r'[{,]pool="')
_PREFIXES = ("inference_", "llm_d_epp_", "picker_")

SHED = frozenset(
    [
        *("ResourceExhausted", "InferencePoolResourceExhausted", "TooManyRequests", "Saturated", "QueueFull"),
        *("QueueTimeout", "AdmissionDenied", "Evicted"),
    ]
)
"""`error_code` of requests refused because there was too much to do."""
CLIENTS_OWN = frozenset(
    [
        *("BadRequest", "PayloadTooLarge", "HeadersTooLarge", "BadRewriteHeader", "RequestTimeout", "QuotaExceeded"),
        "ContextCancelled",
    ]
)
"""`error_code` of what is the client's doing, which says nothing of a side."""
_CANCELED = "Canceled"


class PageError(PickerError):
    """A metrics page cannot be used."""


class Side(NamedTuple):
    """Which series of a page are of one side; an empty name is any."""

    pool: str = ""
    """`namespace/name`: the label of pages that show several pools."""
    model: str = ""
    target: str = ""

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the series is of this side. A page of one pool does not name it."""
        pool = labels.get("pool", self.pool)
        return (
            (not self.pool or pool == self.pool)
            and (not self.model or labels.get("model_name") == self.model)
            and (not self.target or labels.get("target_model_name") == self.target)
        )


def read_page(text: str, side: Side) -> Figures:
    """What the page says of `side`; counters of other labels are summed. Raises PageError."""
    samples = _samples(text)
    found = {sample.name for sample in samples}
    for requests, errors, times in _NAMES:
        if requests in found or errors in found:
            ours = [sample for sample in samples if side.holds(sample.labels)]
            return _figures(ours, requests, errors, times)
    if not any(line.removeprefix("# HELP ").startswith(_PREFIXES) for line in text.splitlines()):
        raise PageError("it is no metrics page of an endpoint picker")
    return Figures()  # nothing was counted yet


def knows_pools(text: str) -> bool:
    """Whether the page tells pools apart. Where nothing was counted yet picker's own series show whether it will."""
    if samples := _samples(text):
        return any("pool" in sample.labels for sample in samples)
    return any(line.startswith("picker_") and _POOL.search(line) is not None for line in text.splitlines())


def _samples(text: str) -> list[Sample]:
    """Those that matter: a page of many models has 50,000 lines, and parsing takes long."""
    wanted = tuple(name for names in _NAMES for name in names)
    lines = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(wanted))
    try:
        families: Iterable[Metric] = text_string_to_metric_families(lines)
        return [sample for family in families for sample in family.samples]
    except Exception as problem:  # whatever a parser that was written for good pages makes of a bad one
        raise PageError(f"it cannot be parsed: {printable(str(problem))[:200]}") from None


def _figures(samples: list[Sample], requests: str, errors: str, times: str) -> Figures:
    try:
        failed = [sample for sample in samples if sample.name == errors]
        bounds, counts = _histogram(sample for sample in samples if sample.name == times)
        return Figures(
            requests=sum(sample.value for sample in samples if sample.name == requests),
            errors=sum(sample.value for sample in failed if _is_error(_code(sample))),
            shed=sum(sample.value for sample in failed if _code(sample) in SHED),
            canceled=sum(sample.value for sample in failed if _code(sample) == _CANCELED),
            ttft_bounds_s=bounds,
            ttft_counts=counts,
        )
    except ValueError as problem:
        raise PageError(f"it holds what no counter says: {printable(str(problem))[:200]}") from None


def _code(sample: Sample) -> str:
    return sample.labels.get("error_code", "")


def _is_error(code: str) -> bool:
    return code != _CANCELED and code not in SHED and code not in CLIENTS_OWN


def _histogram(samples: Iterable[Sample]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds, and how many are between each two of them, of all series together."""
    series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for sample in samples:
        key = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        series.setdefault(key, []).append((float(sample.labels.get("le", "nan")), sample.value))
    between: dict[float, float] = {}
    for rows in series.values():
        for bound, count in _between(sorted(rows)):
            between[bound] = between.get(bound, 0.0) + count
    bounds = tuple(sorted(bound for bound in between if bound < math.inf))
    if not bounds:
        return (), ()
    return bounds, tuple(between.get(bound, 0.0) for bound in (*bounds, math.inf))


def _between(rows: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Cumulative counts as those of each bucket. Raises ValueError where they fall, or a bound is none."""
    before = 0.0
    for bound, count in rows:
        if math.isnan(bound) or not before <= count < math.inf:
            raise ValueError("a histogram that falls")
        yield bound, count - before
        before = count
