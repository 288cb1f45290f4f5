"""A real Redis (or Valkey) server on loopback, for tests: one of their own, in memory alone."""

import shutil
import signal
import socket
import subprocess

from tests.support.polling import wait_until
from tests.support.ports import free_port

__all__ = ["RedisServer"]

_NAMES = ("redis-server", "valkey-server")
_ADVICE = "these tests need redis-server: `sh tools/redis.sh --install`, or install it as your system does"


class RedisServer:
    """Started by `with`; killed at its end. What was in it is lost with it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listens when it returns, again on the same port."""
        program = next((found for name in _NAMES if (found := shutil.which(name))), None)
        assert program is not None, _ADVICE
        self._process = subprocess.Popen(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._listens)

    def kill(self) -> None:
        """As a machine that is gone. Harmless if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self, is_paused: bool = True) -> None:
        """It is there and says nothing, until it goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if is_paused else signal.SIGCONT)

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "redis-server has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
