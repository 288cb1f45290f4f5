"""grpc.health.v1.Health by `grpc.aio`: as `picker._core.health`, whose names these are."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from picker._core.health import NAMES
from picker.extproc.readiness import Readiness

__all__ = ["Health"]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health service of the reference shell."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

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
        return int(_SERVING if self._readiness.is_ready or service == "liveness" else _NOT_SERVING)

    async def _check(self, request: Any, _: Any) -> Any:
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def _watch(self, request: Any, _: Any) -> AsyncIterator[Any]:
        while True:
            changed = self._readiness.changed
            yield health_pb2.HealthCheckResponse(status=self._status(request.service))
            if request.service == "liveness":
                await asyncio.Event().wait()  # never changes; until the client goes
            await changed.wait()

    async def _list(self, _: Any, __: Any) -> Any:
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in NAMES}
        return health_pb2.HealthListResponse(statuses=statuses)
