"""The shape of an EndpointPickerConfig file (`llm-d.ai/v1alpha1`), member names as they stand in it.

Only shape and types; what refers to what is settled in `load.py`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from picker.config.ratelimits import RateLimits
from picker.config.units import Bytes, Seconds

__all__ = ["API_VERSIONS", "KIND", "DataLayer", "EndpointPickerConfig", "FlowControl", "PriorityBand"]

API_VERSIONS = ("llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1")
KIND = "EndpointPickerConfig"

Text = Annotated[str, Meta(min_length=1)]
Weight = Annotated[float, Meta(ge=0, le=1e9)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of the file."""


class PluginEntry(_Section, frozen=True):
    """A plugin instance; without a name it goes by its type."""

    type: Text
    name: str = ""
    parameters: dict[str, Any] | None = None


class PluginRef(_Section, frozen=True):
    """A reference to an entry of `plugins` by name."""

    pluginRef: Text


class ProfilePlugin(_Section, frozen=True):
    """A plugin in a profile; `weight` (default 1) multiplies what a scorer says."""

    pluginRef: Text
    weight: Weight | None = None


class SchedulingProfile(_Section, frozen=True):
    """Filters, scorers and a picker, in the order they run."""

    name: Text
    plugins: tuple[ProfilePlugin, ...] = ()


class DataSource(_Section, frozen=True):
    """A data source and what reads from it."""

    pluginRef: Text
    extractors: tuple[PluginRef, ...] = ()


class DataLayer(_Section, frozen=True):
    """Where endpoints and their metrics come from."""

    injectDefaults: bool = True
    sources: tuple[DataSource, ...] = ()
    discovery: PluginRef | None = None
    peerDiscovery: PluginRef | None = None
    crossReplicaSyncerPluginRef: str = ""
    crossReplicaSyncInterval: Seconds | None = None


class SaturationDetector(_Section, frozen=True):
    """The detector in use; the thresholds could stand here directly before it became a plugin. 0 means the default."""

    pluginRef: str = ""
    queueDepthThreshold: Annotated[int, Meta(ge=0, le=10**12)] | None = None
    kvCacheUtilThreshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    metricsStalenessThreshold: Seconds | None = None


class PriorityBand(_Section, frozen=True):
    """Limits and policies of one priority; what is absent, or a limit of 0, means the default.

    `defaultRequestTTL` is picker's own: that of the band instead of that of all; 0 means for ever.
    """

    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    maxBytes: Bytes = Bytes(0)
    maxRequests: Bytes = Bytes(0)
    defaultRequestTTL: Seconds | None = None
    fairnessPolicyRef: str = ""
    orderingPolicyRef: str = ""


class FlowControl(_Section, frozen=True):
    """Who waits in front of the pool, and how long. A limit of 0 means unlimited, a time of 0 for ever.

    `fairnessIdHeader` is picker's own: the header that says who a request is from, set by the gateway and not by
    clients, instead of those that clients may send.
    """

    maxBytes: Bytes = Bytes(0)
    maxRequests: Bytes = Bytes(0)
    defaultRequestTTL: Seconds = Seconds(60)
    noEndpointRequestTTL: Seconds | None = None
    defaultPriorityBand: PriorityBand | None = None
    defaultNegativePriorityBand: PriorityBand | None = None
    priorityBands: tuple[PriorityBand, ...] = ()
    usageLimitPolicyPluginRef: str = ""
    saturationDetector: SaturationDetector | None = None
    enableEviction: bool = False
    fairnessIdHeader: str = ""


class RequestHandler(_Section, frozen=True):
    """How bodies are read."""

    parsers: tuple[PluginRef, ...] = ()


ResponseTracking = Literal["full", "headers", "off"]
"""What picker looks at of responses; `docs/response-tracking.md` says what each costs and loses. `headers`: status,
served endpoint and the time of the headers, while bodies pass unread or are not asked for. `off`: the stream ends when
the request is answered, so that responses cost picker nothing, and nothing is known of them."""


class EndpointPickerConfig(_Section, frozen=True):
    """The whole file."""

    apiVersion: str
    kind: str
    featureGates: tuple[str, ...] = ()
    plugins: tuple[PluginEntry, ...] = ()
    schedulingProfiles: tuple[SchedulingProfile, ...] = ()
    dataLayer: DataLayer | None = None
    flowControl: FlowControl | None = None
    requestHandler: RequestHandler | None = None
    saturationDetector: SaturationDetector | None = None
    parser: PluginRef | None = None
    rateLimits: RateLimits | None = None
    responseTracking: ResponseTracking | bool = "full"  # YAML takes a bare `off` for false
