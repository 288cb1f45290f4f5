"""Fault switches of the simulated server, set by flag and at run time."""

import random

import msgspec


class Faults(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What goes wrong, from now on. Inference requests first hang, then fail; metrics are slow, then refused."""

    error_status: int = 500
    error_rate: float = 0.0  # share of inference requests answered with `error_status`
    hang: bool = False  # accept inference requests and never answer them
    slow_metrics_s: float = 0.0
    refuse_metrics: bool = False  # answer 503
    speed: float = 1.0  # of the engine: 0.5 takes twice as long for everything
    die: bool = False  # the process ends at once, connections are reset

    def __post_init__(self) -> None:
        if not 400 <= self.error_status <= 599:
            raise ValueError("error_status must be from 400 to 599")
        if not 0 <= self.error_rate <= 1:
            raise ValueError("error_rate must be from 0 to 1")
        if not 1e-6 <= self.speed <= 1e6:
            raise ValueError("speed must be from 1e-6 to 1e6")
        if self.slow_metrics_s < 0:
            raise ValueError("slow_metrics_s must not be negative")

    def strikes(self, dice: random.Random) -> bool:
        """Whether this inference request is to fail."""
        return self.error_rate > 0 and dice.random() < self.error_rate

    def changed(self, body: bytes) -> "Faults":
        """With the members that the JSON object `body` names replaced. Raises ValueError for unknown or bad ones."""
        change = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        raw = {**msgspec.json.decode(msgspec.json.encode(self), type=dict[str, msgspec.Raw]), **change}
        return msgspec.json.decode(msgspec.json.encode(raw), type=Faults)
