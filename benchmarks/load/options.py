"""What a run of the load tools measures, and for how long."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from picker.config.settings import ListenSettings

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "load"
FLOOR = "floor"
KNOWN = ("wire", "grpcio", FLOOR)
QUICK_S = 0.5


def available() -> tuple[str, ...]:
    """The shells that this checkout can start; `floor` is the wire connection answering canned bytes."""
    serves = ListenSettings.__dataclass_fields__["shell"].metadata["choices"]
    has_floor = importlib.util.find_spec("benchmarks.load.canned") is not None  # compiled: `make load-floor`
    return tuple(name for name in KNOWN if name in serves or (name == FLOOR and has_floor))


@dataclass(frozen=True)
class Variant:
    """One way of running picker that is compared with the others."""

    shell: str
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.shell} TLS" if self.tls else self.shell


@dataclass(frozen=True)
class Options:
    """`rounds`: how often each figure is taken, the variants taking turns. `tls`: which of plain and TLS are run."""

    shells: tuple[str, ...] = field(default_factory=available)
    tls: tuple[bool, ...] = (False, True)
    rounds: int = 3
    quick: bool = False

    def seconds(self, full: float) -> float:
        """How long to load for a figure that takes `full` seconds in a full run."""
        return min(full, QUICK_S) if self.quick else full

    def variants(self, *, floor: bool = False) -> tuple[Variant, ...]:
        """The pickers to compare, in the order they take turns; with `floor`, what they are measured against too."""
        shells = [shell for shell in self.shells if floor or shell != FLOOR]
        return tuple(Variant(shell, tls) for tls in self.tls for shell in shells)

    def few_variants(self) -> tuple[Variant, ...]:
        """The same for what takes long: TLS for the first shell only."""
        variants = self.variants()
        plain = tuple(variant for variant in variants if not variant.tls)
        return plain + tuple(variant for variant in variants if variant.tls)[:1]
