"""A body-based router with what feeds it: its plugins, and its base models as they change."""

import contextlib
import logging

from picker.bbr.catalogue import Plan, compile_plugins
from picker.bbr.models import BaseModelsFile
from picker.bbr.server import BodyRouter
from picker.config.settings import BodyRoutingSettings, LimitSettings
from picker.extproc.certificate import Certificate

__all__ = ["STOP_S", "BodyRouting"]

STOP_S = 0.5
"""What is still open when picker has drained has so long to end."""

_LOG = logging.getLogger("picker.bbr")


class BodyRouting:
    """What `settings` ask for. Raises UsageError for plugins that cannot be used, BaseModelsError for a bad file."""

    def __init__(self, settings: BodyRoutingSettings, limits: LimitSettings, *, message_bytes: int) -> None:
        plan = compile_plugins(settings.plugins)
        _tell(plan)
        self.router = BodyRouter(plan, limits, message_bytes=message_bytes)
        self._models: BaseModelsFile | None = None
        if settings.base_models_file:
            self._models = BaseModelsFile(settings.base_models_file, on_change=self.router.set_base_models)
            self.router.set_base_models(self._models.load())

    async def start(
        self, stack: contextlib.AsyncExitStack, address: str, port: int, certificate: Certificate | None
    ) -> int:
        """Serve until the stack is unwound; the port it listens on. Raises OSError if it cannot listen."""
        if self._models is not None:
            self._models.start()
            stack.push_async_callback(self._models.stop)
        stack.push_async_callback(self.router.stop, STOP_S)
        bound = await self.router.start(address or "::", port, certificate)
        _LOG.info("serving body-based routing on port %d", bound)
        return bound

    def figures(self) -> dict[str, object]:
        """What there is to show, as plain values."""
        errors = self._models.reload_errors if self._models is not None else 0
        return {**self.router.figures(), "base_models_errors": errors}


def _tell(plan: Plan) -> None:
    for point, records in (("request", plan.request_records), ("response", plan.response_records)):
        for record in records:
            mode = "closed" if record.is_closed else "open"
            _LOG.info("plugin %s (%s) looks at each %s, failure mode %s", record.name, record.type, point, mode)
