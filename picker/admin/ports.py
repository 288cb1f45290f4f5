"""The sockets of the admin port, opened where errors are told and served from elsewhere."""

import socket
from typing import Any

__all__ = ["listen"]


def listen(address: str, port: int) -> list[socket.socket]:
    """Listening sockets for the server; `address` "" is every interface, IPv4 and IPv6. Raises OSError."""
    found = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
                continue
            made.append(_listening(family, where[0], port or (made[0].getsockname()[1] if made else 0)))
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def _listening(family: int, host: Any, port: int) -> socket.socket:
    try:
        sock = socket.create_server((host, port), family=family, backlog=128)
    except OSError as problem:
        where = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        raise OSError(f"cannot listen on {where}: is the port taken? ({problem})") from problem
    sock.setblocking(False)
    return sock
