"""The load: bands, tenants, phases and lengths as in virtual time."""

from collections.abc import Sequence

from picker.sim.asked import Asked
from picker.sim.overload.traffic import BANDS, CHAT, Band, Phase, Scenario, traffic

MIX = CHAT
STREAM_INTERVAL = 16
"""Tokens in a message of a stream, as engines can be told: client, Envoy and servers share one machine."""
OBJECTIVES = {band.priority: band.name for band in BANDS}
PRIORITIES = {band.name: band.priority for band in BANDS}
HIGHEST = max(BANDS, key=lambda band: band.priority)


def greedy() -> frozenset[str]:
    """Tenants that send more than twice their even share."""
    return frozenset(
        f"{band.name}-{number}"
        for band in BANDS
        for number, share in enumerate(band.tenants)
        if share > 2 * sum(band.tenants) / len(band.tenants)
    )


def load(phases: Sequence[Phase], capacity: float, seed: int, bands: Sequence[Band] = BANDS) -> list[Asked]:
    """Requests in order of time; `capacity` in requests per second. A band's are the same without the others."""
    return traffic(Scenario("live", mix=MIX, bands=tuple(bands), phases=tuple(phases), seed=seed), capacity)
