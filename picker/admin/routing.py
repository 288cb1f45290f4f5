"""What the body-based router counts, as metrics. `bbr_*` names are those of the Gateway API Inference Extension."""

from collections.abc import Iterator, Mapping
from typing import Any

from picker.admin.exposition import AnyFamily, Counters, Gauges, Histograms

__all__ = ["routing_families"]

_STEP = ("extension_point", "plugin_type", "plugin_name")
_REFUSALS = (
    ("bad_requests", "400"),
    ("too_large", "413"),
    ("timeouts", "408"),
    ("exhausted", "429"),
    ("failed", "500"),
)
_FAILURES = (("error", "errors"), ("overrun", "overruns"), ("resting", "skipped"), ("unseen", "unseen"))


def routing_families(figures: Mapping[str, Any]) -> Iterator[AnyFamily]:
    """The families of `BodyRouter.figures()`."""
    info = Gauges("bbr_info", "The body-based router's build.", ("commit", "build_ref"))
    info.add(("", figures["version"]), 1)
    yield info
    yield _one("bbr_success", "Requests that went on with a header made of their body.", figures["routed"])
    yield from _fields(figures["fields"])
    yield from _plugins(figures["plugins"])
    yield _one("picker_bbr_requests", "Streams of the body-based router.", figures["requests"])
    refused = Counters("picker_bbr_refused", "Requests and responses answered by the router itself.", ("status",))
    for name, status in _REFUSALS:
        refused.add((status,), figures[name])
    yield refused
    yield _one("picker_bbr_rejected", "Messages that a plugin, or a field's value, had rejected.", figures["rejected"])
    yield _one("picker_bbr_responses_cut", "Responses broken off for a plugin's sake.", figures["cut"])
    yield _one("picker_bbr_base_models_errors", "Edits of the base models not taken.", figures["base_models_errors"])
    for name, about, key in (
        ("picker_bbr_base_models", "Models whose base model is known.", "base_models"),
        ("picker_bbr_open_streams", "Streams under way.", "sessions"),
        ("picker_bbr_buffered_bytes", "Bytes of bodies held.", "buffered_bytes"),
    ):
        gauge = Gauges(name, about)
        gauge.add((), figures[key])
        yield gauge


def _one(name: str, about: str, value: float) -> Counters:
    family = Counters(name, about)
    family.add((), value)
    return family


def _fields(fields: Mapping[str, Mapping[str, int]]) -> Iterator[AnyFamily]:
    missing = Counters("bbr_body_field_not_found", "Bodies without the field.", ("field",))
    empty = Counters("bbr_body_field_empty", "Bodies in which the field is empty.", ("field",))
    for name, counts in fields.items():
        missing.add((name,), counts["missing"])
        empty.add((name,), counts["empty"])
    yield from (missing, empty)
    model = fields.get("model", {"missing": 0, "unusable": 0})
    yield _one("bbr_model_not_in_body", "Bodies without a model.", model["missing"])
    yield _one("bbr_model_not_parsed", "Bodies whose model is neither text nor number.", model["unusable"])


def _plugins(plugins: list[Mapping[str, Any]]) -> Iterator[AnyFamily]:
    durations = Histograms("bbr_plugin_duration_seconds", "Time a plugin takes; of built-in ones, its share.", _STEP)
    failures = Counters("bbr_plugin_errors", "Messages a plugin did not have its say in, by cause.", (*_STEP, "cause"))
    for plugin in plugins:
        values = (plugin["point"], plugin["type"], plugin["name"])
        durations.observe(values, ([(bound, count) for bound, count in plugin["buckets"]], plugin["total"]))
        for cause, key in _FAILURES:
            failures.add((*values, cause), plugin[key])
    yield from (durations, failures)
