"""A pool with room for one request at a time, and who waits for it."""

from collections.abc import Mapping

from picker._core.session import Session
from tests.support.config_samples import HEAD
from tests.support.rig import Rig, chat, endpoint

TENANT, OBJECTIVE = "x-llm-d-inference-fairness-id", "x-llm-d-inference-objective"
RULES = {
    "detector": ("concurrency", "requests", 1, 1e6, 0.0),
    "bands": [(10, "edf", "round-robin", 4, 1000, 5.0)],
    "max_requests": 8,
    "max_bytes": 4000,
    "fairness_headers": (TENANT,),
}


class Crowd(Rig):
    """Objectives `vip` (10) and `batch` (-1); tenants `a` and `b` have been served by model `qwen` before."""

    def __init__(self) -> None:
        super().__init__(HEAD, [endpoint(1)])
        self.engine.set_objectives({"vip": 10, "batch": -1})
        self.engine.set_flow(RULES)
        for tenant in ("a", "b"):
            for objective in ("", "vip"):
                self.pick(chat(model="qwen"), headers=asks(tenant, objective))

    def ask(self, tenant: str = "", objective: str = "") -> Session:
        """A request that goes on, waits or is refused."""
        session, _ = self.send(chat(model="qwen"), headers=asks(tenant, objective))
        return session

    def go_on(self) -> list[Session]:
        """Those that have got their turn, or lost it, and know by now."""
        woken: list[Session] = self.engine.dispatch(self.now_ns)
        for session in woken:
            session.resume(self.now_ns)
        return woken


def asks(tenant: str, objective: str) -> Mapping[str, str]:
    """Its headers."""
    return {name: value for name, value in ((TENANT, tenant), (OBJECTIVE, objective)) if value}
