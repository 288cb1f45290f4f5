"""What a shell is: the servers that gateways and probes call, over the core."""

from typing import Protocol

from picker._core.engine import Engine
from picker.config.settings import LimitSettings, ListenSettings
from picker.extproc.readiness import Readiness

__all__ = ["SERVICE", "Shell", "make_shell"]

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"


class Shell(Protocol):
    """Moves bytes between sockets and the core. Which one it is changes speed, never answers."""

    @property
    def name(self) -> str:
        """As `--shell` calls it."""

    async def start_health(self) -> int:
        """Serve health checks in plaintext; the port. Raises OSError if it cannot listen."""

    async def start_extproc(self) -> int:
        """Serve ext_proc, and health checks too if asked to; the port. Raises OSError if it cannot listen or the
        certificate cannot be used."""

    async def wait_idle(self, quiet_s: float = 0.0) -> None:
        """Until no ext_proc stream has been open for `quiet_s` seconds on end."""

    async def stop(self, grace_s: float) -> None:
        """Take no more; what has not ended after `grace_s` is cut. Harmless if nothing was started."""


def make_shell(engine: Engine, readiness: Readiness, listen: ListenSettings, limits: LimitSettings) -> Shell:
    """The shell that `listen.shell` asks for; `auto` is `wire`. Only that one's libraries are loaded."""
    if listen.shell == "grpcio":
        from picker.extproc.grpcio import GrpcioShell

        return GrpcioShell(engine, readiness, listen, limits)
    from picker.extproc.wire import WireShell

    return WireShell(engine, readiness, listen, limits)
