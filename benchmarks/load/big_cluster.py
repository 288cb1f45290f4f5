"""A fake API server with one InferencePool and many pods, in a process of its own.

`python -m benchmarks.load.big_cluster COUNT DIRECTORY` writes `kubeconfig` there and then says where it listens. Pods
are of the size of real ones, some 6 KB; nothing listens at their addresses.
"""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from benchmarks.load.processes import LISTENING
from tests.support.cluster import Cluster

POOL = "pool"
LABELS = {"app": "server", "llm-d.ai/role": "decode"}
BOOKMARK_S = 30.0


def name(number: int) -> str:
    """That of a pod."""
    return f"server-{number:04}"


def address(number: int) -> str:
    """Where it would be."""
    return f"127.1.{number // 250}.{number % 250}"


def pod(number: int) -> dict[str, Any]:
    """A pod as a Deployment of a model server makes them."""
    env = [
        {"name": f"SETTING_{each}", "value": f"a value of setting {each}, as long as such are"} for each in range(50)
    ]
    container = {"name": "server", "image": "example.com/server:1", "args": ["--model", "llama"] * 8, "env": env}
    conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "ContainersReady", "Ready")]
    state = {"name": "server", "ready": True, "restartCount": 0, "image": "example.com/server:1", "imageID": ""}
    status = {"phase": "Running", "podIP": address(number), "podIPs": [{"ip": address(number)}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name(number), "labels": LABELS, "annotations": {"checked/by": "x" * 400}},
        "spec": {"nodeName": "node-1", "containers": [container]},
        "status": {**status, "conditions": conditions, "containerStatuses": [state]},
    }


def pool() -> dict[str, Any]:
    """The pool that all of them are in."""
    picker = {"name": "picker", "port": {"number": 9002}}
    spec = {"selector": {"matchLabels": {"app": "server"}}, "targetPorts": [{"number": 9}], "endpointPickerRef": picker}
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": POOL},
        "spec": spec,
    }


def main() -> None:
    count, directory = int(sys.argv[1]), Path(sys.argv[2])
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with Cluster(bookmark_s=BOOKMARK_S, tls=False) as cluster:
        cluster.apply(pool())
        for number in range(count):
            cluster.apply(pod(number))
        cluster.kubeconfig(directory)
        print(f"{LISTENING}127.0.0.1:{cluster.port}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
