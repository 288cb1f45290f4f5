"""A cluster in the foreground, until Ctrl-C: `python -m tests.support.cluster --port 0 --kubeconfig FILE`."""

import argparse
import signal
import threading
from pathlib import Path

from tests.support.cluster import Cluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="to listen on; 0 is any that is free")
    parser.add_argument("--kubeconfig", type=Path, help="where to write a kubeconfig")
    parser.add_argument("files", type=Path, nargs="*", help="manifests to begin with")
    flags = parser.parse_args()
    ended = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: ended.set())
    with Cluster(port=flags.port) as cluster:
        for file in flags.files:
            cluster.apply(file.read_text())
        if flags.kubeconfig:
            cluster.kubeconfig(flags.kubeconfig.parent).replace(flags.kubeconfig)
        print(f"listening on {cluster.url}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
