"""Slow model of `picker._core.health`: what each watcher has been told, and what it must be told next."""

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3
NAMES = ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension")


class Health:
    def __init__(self, *, strict: bool = False) -> None:
        self.names = NAMES[:4] if strict else NAMES
        self.strict = strict
        self.is_ready = False
        self.watches: dict[int, tuple[str, list[int]]] = {}

    def status(self, name: str) -> int:
        if self.strict and name not in self.names:
            return UNKNOWN
        return SERVING if self.is_ready or name == "liveness" else NOT_SERVING

    def list(self) -> dict[str, int]:
        return {name: self.status(name) for name in self.names}

    def watch(self, watcher: int, name: str) -> None:
        self.watches[watcher] = name, [self.status(name)]

    def set_ready(self, ready: bool) -> None:
        self.is_ready = ready

    def wake(self) -> None:
        for name, told in self.watches.values():
            if told[-1:] != [self.status(name)]:
                told.append(self.status(name))
