"""The floor: picker's own connection and loop, with canned answers where the session would be.

`python -m benchmarks.load.floor --port 0` prints "listening on PORT" and serves until it is terminated.
"""

import argparse
import asyncio
import signal

import uvloop

from benchmarks.load.canned import methods
from picker.extproc.certificate import Certificate
from picker.extproc.wire import WireServer


async def serve(port: int, cert_path: str) -> None:
    server = WireServer([methods()], certificate=Certificate(cert_path) if cert_path else None)
    print("listening on", await server.start("127.0.0.1", port), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert-path", default="", help="directory of tls.crt and tls.key; without it: plaintext")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.cert_path))


if __name__ == "__main__":
    main()
