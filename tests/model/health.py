"""Slow model of `picker._core.health`: what each watcher has been told, and what it must be told next."""

SERVING, NOT_SERVING = 1, 2
NAMES = ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension")


class Health:
    def __init__(self) -> None:
        self.is_ready = False
        self.watches: dict[int, tuple[str, list[int]]] = {}

    def status(self, name: str) -> int:
        return SERVING if self.is_ready or name == "liveness" else NOT_SERVING

    def list(self) -> dict[str, int]:
        return {name: self.status(name) for name in NAMES}

    def watch(self, watcher: int, name: str) -> None:
        self.watches[watcher] = name, [self.status(name)]

    def set_ready(self, ready: bool) -> None:
        self.is_ready = ready

    def wake(self) -> None:
        for name, told in self.watches.values():
            if told[-1:] != [self.status(name)]:
                told.append(self.status(name))
