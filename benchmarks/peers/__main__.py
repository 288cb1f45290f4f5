"""picker beside its peers: `python -m benchmarks.peers [GROUP ...]`; writes benchmarks/results/peers.json.

hashing   XXH64 and token blocks, against xxhash and Dynamo
match     the prefix index, against Dynamo's RadixTree
pick      a whole pick, against Dynamo's SelectionService
routers   whole routers: sglang-router, vllm-router

The peers are installed into build/peers on first use.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.peers import core, document, environment, messages, routers

CORE_LIMIT_S = 600
GROUPS = (*core.GROUPS, "routers")
console = Console()


def main() -> int:
    made = argparse.ArgumentParser("python -m benchmarks.peers", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all, and the docs)")
    args = made.parse_args()
    if unknown := set(args.groups) - set(GROUPS):
        made.error(f"no such group: {', '.join(sorted(unknown))} (there are {', '.join(GROUPS)})")
    environment.ensure()
    rows: list[results.Row] = []
    for group in args.groups or GROUPS:
        console.print(f"[bold]{group}[/]: 1-minute load before it {os.getloadavg()[0]:.1f}")
        found = routers.measure() if group == "routers" else in_peers(group)
        show(found)
        rows += found
    if not args.groups:
        results.write("peers", rows)
        document.write(results.rows("peers"))
    return 1 if any(row.met is False for row in rows) else 0


def in_peers(group: str) -> list[results.Row]:
    """A group that runs in the peers' environment. RuntimeError with what it said if it fails."""
    exchanges, out = environment.PLACE / "exchanges.json", environment.PLACE / f"{group}.json"
    policy = environment.PLACE / "policy.txt"
    messages.write(exchanges)
    messages.write_policy(policy)
    command = [str(environment.PYTHON), "-m", "benchmarks.peers.core", group, str(out)]
    variables = {
        **environment.variables(),
        "PICKER_PEERS_EXCHANGES": str(exchanges),
        "PICKER_PEERS_POLICY": str(policy),
    }
    ended = subprocess.run(
        command, cwd=environment.ROOT, env=variables, capture_output=True, text=True, timeout=CORE_LIMIT_S, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{group} failed:\n{ended.stderr[-3000:]}")
    return [results.row_of(found, group) for found in json.loads(Path(out).read_text())]


def show(rows: list[results.Row]) -> None:
    """A table on the terminal."""
    table = Table("what", "who", "figure", "target", "note")
    for row in rows:
        table.add_row(row.what, row.who, results.figure(row), results.goal(row).replace("**", ""), row.note)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
