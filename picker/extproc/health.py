"""grpc.health.v1.Health: Check, List and Watch, driven by one readiness flag.

`liveness` always serves; every other name follows readiness, as gateways and manifests ask for several
(`inference-extension`, the ext_proc service, `readiness`, the empty name).
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

__all__ = ["Health"]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_LISTED = ("", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor")


class Health:
    """The health service; not ready until told."""

    def __init__(self) -> None:
        self._ready = False
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether picker asks for traffic."""
        return self._ready

    def set_ready(self, ready: bool) -> None:
        """Tell everyone who checks or watches."""
        if ready != self._ready:
            self._ready = ready
            self._changed.set()
            self._changed = asyncio.Event()

    async def wait_ready(self) -> None:
        """Until picker asks for traffic."""
        while not self._ready:
            await self._changed.wait()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a `grpc.aio` server serves."""
        request = health_pb2.HealthCheckRequest.FromString
        answer = health_pb2.HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, request, answer),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, request, answer),
        }
        if hasattr(health_pb2, "HealthListRequest"):
            methods["List"] = grpc.unary_unary_rpc_method_handler(
                self._list,
                health_pb2.HealthListRequest.FromString,
                health_pb2.HealthListResponse.SerializeToString,
            )
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)

    def _status(self, service: str) -> int:
        return int(_SERVING if self._ready or service == "liveness" else _NOT_SERVING)

    async def _check(self, request: Any, _: Any) -> Any:
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def _watch(self, request: Any, _: Any) -> AsyncIterator[Any]:
        while True:
            changed = self._changed
            yield health_pb2.HealthCheckResponse(status=self._status(request.service))
            if request.service == "liveness":
                await asyncio.Event().wait()  # never changes; until the client goes
            await changed.wait()

    async def _list(self, _: Any, __: Any) -> Any:
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in _LISTED}
        return health_pb2.HealthListResponse(statuses=statuses)
