"""Does the tripwire trip? A kernel is made slower in a copy of the core, and the gate has to be red; without, green.

`make bench-gate-proof`, or `python -m benchmarks.proof`. Exit status 1 if the gate is not as it has to be.
"""

import contextlib
import io
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ir
from benchmarks.bases import BUILT, PARTS, build
from benchmarks.callgrind import WORK
from benchmarks.results import ROOT

KERNEL = Path("_core") / "hashing.pyx"
LINE = "        chain.last = hash_xxh64(data, PK_BLOCK_BYTES, chain.last)\n"
"""Where each block of a prompt is hashed. What is added has no effect but its cost: no hash is 1 in practice."""
SLOWER = LINE + (
    "        if chain.count % 20 == 0:\n            chain.total += hash_xxh64(data, PK_BLOCK_BYTES, chain.last) == 1\n"
)
"""Every twentieth block is hashed twice: 5 % more."""
QUADRATIC = LINE + (
    "        for _ in range(chain.count // 64):\n"
    "            chain.total += hash_xxh64(data, PK_BLOCK_BYTES, chain.last + chain.total) == 1\n"
)
CASES = ["hashing:*", "codec: write a pick*"]


@dataclass(frozen=True)
class Trial:
    """What is done to the kernel, what it is compared with, and the exit status that is due."""

    what: str
    change: str
    base: Path
    due: int


def copy_of_head(tree: Path) -> None:
    """The core as it is in place, with its objects, so that only what is changed is compiled."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for part in (ROOT / name for name in PARTS):
        if part.is_dir() and not part.is_symlink():
            shutil.copytree(part, tree / part.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif part.exists():
            shutil.copy2(part, tree / part.name)
    objects = tree / BUILT / "picker" / "_core"
    objects.mkdir(parents=True)
    for made in (tree / "_core").glob("*.so"):
        shutil.copy2(made, objects / made.name)


def tried(trial: Trial, tree: Path) -> bool:
    """Is the gate as it has to be? What it said is shown where it is not, and of a red one the reasons."""
    print(f"{trial.what}: exit status {trial.due} is due", flush=True)
    text = (ROOT / KERNEL).read_text()
    if text.count(LINE) != 1:
        raise SystemExit(f"{KERNEL} no longer has the line that is made slower: see benchmarks/proof.py")
    changed = text.replace(LINE, trial.change)
    if changed != (tree / KERNEL).read_text():
        (tree / KERNEL).write_text(changed)
        build(tree)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = ir.main(["--base-tree", str(trial.base), "--head-tree", str(tree), *CASES])
    as_due = status == trial.due
    lines = said.getvalue().splitlines()
    reasons = [line for line in lines if re.match(r"\w.*(, where .* may be|; O\(.*\) is )", line)]
    print(*(f"    {line}" for line in (reasons if as_due else lines)), sep="\n")
    print(f"exit status {status}: {'as is due' if as_due else 'NOT what is due'}", flush=True)
    return as_due


def main() -> int:
    """The exit status."""
    tree = WORK / "proof"
    copy_of_head(tree)
    trials = [
        Trial("the core as it is, elsewhere", LINE, ROOT, 0),
        Trial("a kernel 5 % slower", SLOWER, ROOT, 1),
        Trial("a kernel quadratic, compared with itself", QUADRATIC, tree, 1),
    ]
    return 0 if all([tried(trial, tree) for trial in trials]) else 1


if __name__ == "__main__":
    sys.exit(main())
