"""The parameters of the plugins that stand around scheduling: metrics, index, parsers, discovery.

Names and defaults are the peer's; see `parameters.py`. picker does most of this by itself, so these are settings for
its own parts rather than parts to plug in.
"""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from picker.config.parameters import Count, NonNegative, NoParameters, Parameters, Text
from picker.config.units import Seconds

__all__ = [
    "AnthropicParser",
    "ApproxPrefixCacheProducer",
    "CoreMetricsExtractor",
    "CustomMetric",
    "DestinationEndpointServedVerifier",
    "EngineConfig",
    "FileDiscovery",
    "InflightLoadProducer",
    "MetricsDataSource",
    "OpenAIParser",
    "Parser",
    "PassthroughParser",
    "SglangHttpParser",
    "SingleProfileHandler",
    "TokenProducer",
    "VllmGrpcParser",
    "VllmHttpParser",
]

Port = Annotated[int, Meta(ge=1, le=65535)]

_BOOKED = "picker always books the output it expects, as long as answers have been so far"


class SingleProfileHandler(NoParameters, frozen=True):
    """Runs the one profile; picker does so by itself."""


class MetricsDataSource(Parameters, frozen=True):
    """How `/metrics` of the endpoints is scraped."""

    scheme: Literal["http", "https"] = "http"
    path: Text = "/metrics"
    port: Port | None = None
    interval: Seconds | None = None
    insecureSkipVerify: bool = True
    caCertPath: str = ""
    clientCertPath: str = ""
    clientKeyPath: str = ""
    families: tuple[str, ...] = ()

    no_effect: ClassVar = {"families": "picker reads only the series it uses anyway"}

    def __post_init__(self) -> None:
        if bool(self.clientCertPath) != bool(self.clientKeyPath):
            raise ValueError("clientCertPath and clientKeyPath go together; give both or neither")


class CustomMetric(Parameters, frozen=True):
    """A series of the engine kept as an endpoint attribute."""

    attributeKey: Text
    metricSpec: Text
    optional: bool = False


class EngineConfig(Parameters, frozen=True):
    """Which series of one engine say what; a spec is `name` or `name{label=value,...}`, empty switches it off.

    The series of `loraSpec` carries labels max_lora, running_lora_adapters, waiting_lora_adapters and a timestamp as
    value. Block size and count come from labels of `cacheInfoSpec` or from series of their own; labels win.
    """

    name: Text
    queuedRequestsSpec: str = ""
    runningRequestsSpec: str = ""
    kvUsageSpec: str = ""
    loraSpec: str = ""
    cacheInfoSpec: str = ""
    cacheBlockSizeLabelName: str = ""
    cacheNumBlocksLabelName: str = ""
    cacheBlockSizeSpec: str = ""
    cacheNumBlocksSpec: str = ""
    customMetrics: tuple[CustomMetric, ...] = ()

    no_effect: ClassVar = {"customMetrics": "no plugin reads such attributes"}


class CoreMetricsExtractor(Parameters, frozen=True):
    """The engine of an endpoint is told by a label; engines named here replace the built-in of that name."""

    engineLabelKey: Text = "llm-d.ai/engine-type"
    defaultEngine: Text = "vllm"
    engineConfigs: tuple[EngineConfig, ...] = ()


class ApproxPrefixCacheProducer(Parameters, frozen=True):
    """The prefix index fed by routing decisions."""

    autoTune: bool = True
    blockSizeTokens: Count = 16
    blockSize: Count | None = None
    maxPrefixBlocksToMatch: Count = 2048
    maxPrefixTokensToMatch: Count = 131_072
    lruCapacityPerServer: Count = 31_250

    no_effect: ClassVar = {
        "autoTune": "picker always takes what the engines say of their caches",
        "blockSizeTokens": "picker hashes prompts in blocks of its own, of 256 bytes",
        "blockSize": "it is deprecated; picker hashes prompts in blocks of its own",
        "maxPrefixBlocksToMatch": "picker matches whole prompts",
        "maxPrefixTokensToMatch": "picker matches whole prompts",
    }


class InflightLoadProducer(Parameters, frozen=True):
    """Requests and tokens in flight per endpoint, which picker books at pick time."""

    addEstimatedOutputTokens: bool = False
    outputRatio: NonNegative = 1.5
    maxEstimatedOutputTokens: Count | None = None
    prefixMatchInfoProducerName: str = ""
    syncCrossReplicaState: bool = False

    no_effect: ClassVar = {
        "addEstimatedOutputTokens": _BOOKED,
        "outputRatio": _BOOKED,
        "maxEstimatedOutputTokens": _BOOKED,
        "syncCrossReplicaState": "replicas do not share state yet",
    }
    plugin_refs: ClassVar = ("prefixMatchInfoProducerName",)


class TokenProducer(Parameters, frozen=True):
    """Tokens of the prompt; picker estimates them from its bytes."""

    modelName: str = ""
    estimate: dict[str, Any] | None = None
    vllm: dict[str, Any] | None = None

    no_effect: ClassVar = {
        "modelName": "picker hashes the prompt text itself and asks no render service",
        "estimate": "picker hashes the prompt text itself",
        "vllm": "picker hashes the prompt text itself and asks no render service",
    }


class Parser(NoParameters, frozen=True):
    """A family of APIs (`picker._core.apis`) whose bodies are read. Where parsers are named, only theirs are."""

    family: ClassVar[str] = ""


class OpenAIParser(Parser, frozen=True):
    """Calls of the OpenAI API and its like: chat completions, completions, responses, embeddings and the rest."""

    family: ClassVar = "openai"


class AnthropicParser(Parser, frozen=True):
    """Messages of the Anthropic API, and their count_tokens."""

    family: ClassVar = "anthropic"


class VllmHttpParser(Parser, frozen=True):
    """vLLM's own generate, by token ids."""

    family: ClassVar = "vllmhttp"


class VllmGrpcParser(Parser, frozen=True):
    """vLLM's engine over gRPC: Generate and Embed."""

    family: ClassVar = "vllmgrpc"


class SglangHttpParser(Parser, frozen=True):
    """SGLang's own generate."""

    family: ClassVar = "sglanghttp"


class PassthroughParser(Parser, frozen=True):
    """Any body, not looked into; so is every body that no other parser knows, with or without this."""


class DestinationEndpointServedVerifier(NoParameters, frozen=True):
    """For conformance tests: the response header x-conformance-test-served-endpoint tells clients who served them."""


class FileDiscovery(Parameters, frozen=True):
    """Endpoints from a file (`picker.discovery.file`); picker always watches it."""

    path: Text
    watchFile: bool = False

    no_effect: ClassVar = {"watchFile": "picker always follows the file"}
