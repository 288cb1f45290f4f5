"""The objects as frozen structs, with the rules their CRDs set. Members picker does not read are passed over.

Sources: Gateway API Inference Extension and llm-d, `InferenceModelRewrite` and `InferenceObjective` v1alpha2, and the
retired `InferenceModel` v1alpha2.
"""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

__all__ = [
    "InferenceModel",
    "InferenceModelRewrite",
    "InferenceObjective",
    "Metadata",
    "ModelTarget",
    "PoolRef",
    "Resource",
]

MODEL_BYTES = 256
"""Longest name of a model: `PK_MODEL_BYTES` of the core."""

MOST_TARGETS = 100
"""Of one rule: `PK_REWRITE_TARGETS` of the core."""

_Name = Annotated[str, Meta(min_length=1, max_length=253)]
_Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]  # what the core keeps; the CRD sets no bounds
_Weight = Annotated[int, Meta(ge=1, le=1_000_000)] | None


def _check_model(name: str) -> None:
    if not 0 < len(name.encode()) <= MODEL_BYTES:
        raise ValueError(f"the name of a model has 1 to {MODEL_BYTES} bytes, not {len(name.encode())}")
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in name):  # they would break forms and log lines
        raise ValueError("the name of a model holds a control character")


def _check_weights(weights: list[int | None]) -> None:
    if None in weights and any(weights):
        raise ValueError("some targets have a weight and some have not; give all of them one, or none")
    if len(weights) > MOST_TARGETS:
        raise ValueError(f"{len(weights)} targets are given; at most {MOST_TARGETS}")


class Metadata(Struct, frozen=True, kw_only=True):
    """What names an object. `creationTimestamp` is set by the API server."""

    name: _Name
    namespace: str = ""
    labels: dict[str, str] = {}
    creationTimestamp: Annotated[datetime, Meta(tz=True)] | None = None


class PoolRef(Struct, frozen=True, kw_only=True):
    """The pool an object is for, in its own namespace."""

    name: _Name
    group: str = "inference.networking.k8s.io"
    kind: str = "InferencePool"


class ModelMatch(Struct, frozen=True, kw_only=True):
    """The model a client asks for."""

    value: str
    type: Literal["Exact"] = "Exact"

    def __post_init__(self) -> None:
        _check_model(self.value)


class Match(Struct, frozen=True, kw_only=True):
    """A request a rule is for; without `model`, any."""

    model: ModelMatch | None = None


class ModelTarget(Struct, frozen=True, kw_only=True):
    """The model that serves, and its share."""

    modelRewrite: str
    weight: _Weight = None

    def __post_init__(self) -> None:
        _check_model(self.modelRewrite)


class RewriteRule(Struct, frozen=True, kw_only=True):
    """For any of `matches`, or for every request if there are none."""

    targets: Annotated[tuple[ModelTarget, ...], Meta(min_length=1)]
    matches: tuple[Match, ...] = ()

    def __post_init__(self) -> None:
        _check_weights([target.weight for target in self.targets])


class RewriteSpec(Struct, frozen=True, kw_only=True):
    """What an `InferenceModelRewrite` wants."""

    poolRef: PoolRef
    rules: tuple[RewriteRule, ...]


class InferenceModelRewrite(Struct, frozen=True, kw_only=True):
    """Sends requests for one model to others."""

    metadata: Metadata
    spec: RewriteSpec


class ObjectiveSpec(Struct, frozen=True, kw_only=True):
    """What an `InferenceObjective` wants; without a priority it is 0."""

    poolRef: PoolRef
    priority: _Priority = 0


class InferenceObjective(Struct, frozen=True, kw_only=True):
    """A priority that requests name by header: who waits for whom."""

    metadata: Metadata
    spec: ObjectiveSpec


class TargetModel(Struct, frozen=True, kw_only=True):
    """A target of an `InferenceModel`."""

    name: str
    weight: _Weight = None

    def __post_init__(self) -> None:
        _check_model(self.name)


class ModelSpec(Struct, frozen=True, kw_only=True):
    """What an `InferenceModel` wants."""

    modelName: str
    poolRef: PoolRef
    criticality: Literal["Critical", "Standard", "Sheddable"] | None = None
    targetModels: tuple[TargetModel, ...] = ()

    def __post_init__(self) -> None:
        _check_model(self.modelName)
        _check_weights([target.weight for target in self.targetModels])


class InferenceModel(Struct, frozen=True, kw_only=True):
    """The retired kind that `InferenceModelRewrite` and `InferenceObjective` took the place of."""

    metadata: Metadata
    spec: ModelSpec


Resource: TypeAlias = InferenceModelRewrite | InferenceObjective | InferenceModel
