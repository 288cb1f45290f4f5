"""What a shell is: the servers that gateways and probes call, over the core."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.readiness import Readiness
from picker.extproc.route import Route

__all__ = ["ALONE", "POOL_METADATA", "SERVICE", "Rules", "Shell", "make_shell"]

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
POOL_METADATA = "x-gateway-inference-pool"
"""gRPC metadata of a stream: the pool it is for."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How strict a shell is.

    `leader_election`: health knows the names it has where a leader is elected, and no others. `by_name`: a stream must
    be for a pool by name or authority, even while there is one alone.
    """

    leader_election: bool = False
    by_name: bool = False


ALONE = Rules()
"""For one picker of one pool."""


class Shell(Protocol):
    """Moves bytes between sockets and the core. Which one it is changes speed, never answers."""

    @property
    def name(self) -> str:
        """As `--shell` calls it."""

    @property
    def open_streams(self) -> int:
        """ext_proc streams under way, of all pools."""

    @property
    def unknown_pools(self) -> int:
        """Streams so far that were for a pool that is not known."""

    def set_pools(self, routes: Sequence[Route]) -> None:
        """Serve these pools from the next stream on; streams that are open go on. A shell starts with none.

        One pool alone gets every stream. Of several, a stream says by its metadata `POOL_METADATA` or its authority
        which it is for (see `picker._core.pools.PoolNames`); one that is for none of them is answered 503. Raises
        ValueError or OverflowError for what cannot be; nothing has changed then.
        """

    def turn(self) -> None:
        """Something has changed that requests may wait for: see whose turn has come. Costs nothing if nobody waits."""

    def watch(self, look: Callable[[], None]) -> None:
        """Call `look` whenever the core may have got something to ask others, or to tell them: rate limits do."""

    async def start_health(self) -> int:
        """Serve health checks in plaintext; the port. Raises OSError if it cannot listen."""

    async def start_extproc(self) -> int:
        """Serve ext_proc, and health checks too if asked to; the port. Raises OSError if it cannot listen or the
        certificate cannot be used."""

    async def wait_idle(self, quiet_s: float = 0.0) -> None:
        """Until no ext_proc stream has been open for `quiet_s` seconds on end."""

    async def stop(self, grace_s: float) -> None:
        """Take no more; what has not ended after `grace_s` is cut. Harmless if nothing was started."""


def make_shell(readiness: Readiness, listen: ListenSettings, limits: LimitSettings, rules: Rules = ALONE) -> Shell:
    """The shell that `listen.shell` asks for; `auto` is `wire`. Only that one's libraries are loaded."""
    if listen.shell == "grpcio":
        from picker.extproc.grpcio import GrpcioShell

        return GrpcioShell(readiness, listen, limits, rules)
    from picker.extproc.wire import WireShell

    return WireShell(readiness, listen, limits, rules)
