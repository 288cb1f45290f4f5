"""Runs in the peers' environment: `python -m benchmarks.peers.core GROUP FILE` writes the group's rows to FILE."""

import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

GROUPS = ("hashing", "match", "pick")


def main() -> None:
    group, out = sys.argv[1:]
    made = import_module(f"benchmarks.peers.{group}").measure()
    Path(out).write_text(json.dumps([asdict(row) for row in made]))


if __name__ == "__main__":
    main()
