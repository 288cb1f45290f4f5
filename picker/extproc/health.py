"""grpc.health.v1.Health by `grpc.aio`: as `picker._core.health`, whose names these are."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from picker._core.health import NAMES, STRICT_NAMES
from picker.extproc.readiness import Readiness

__all__ = ["Health"]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The health service of the reference shell. A `strict` one knows no names but `STRICT_NAMES`."""

    def __init__(self, readiness: Readiness, *, strict: bool = False) -> None:
        self._readiness = readiness
        self._strict = strict

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
        if self._strict and service not in STRICT_NAMES:
            return int(_UNKNOWN)
        return int(_SERVING if self._readiness.is_ready or service == "liveness" else _NOT_SERVING)

    async def _check(self, request: Any, context: Any) -> Any:
        status = self._status(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(self, request: Any, _: Any) -> AsyncIterator[Any]:
        while True:
            changed = self._readiness.changed
            status = self._status(request.service)
            yield health_pb2.HealthCheckResponse(status=status)
            if request.service == "liveness" or status == _UNKNOWN:
                await asyncio.Event().wait()  # never changes; until the client goes
            await changed.wait()

    async def _list(self, _: Any, __: Any) -> Any:
        names = STRICT_NAMES if self._strict else NAMES
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names}
        return health_pb2.HealthListResponse(statuses=statuses)
