"""What a change is compared with: which commit, and its core, built beside with the toolchain of the head.

A base is built once and kept in `build/gate/<commit>`. Only what differs from the head's core is compiled: files that
are equal are given the head's times, with the objects made of them, so that the build takes them for current.
"""

import filecmp
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.callgrind import WORK, CountingFailed
from benchmarks.results import ROOT

MAIN_LINES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
TOGETHER = 50
"""Commits that are looked at together where nothing says which of them have landed."""
PARTS = ("picker", "_core", "setup.py", "pyproject.toml", "tools", "README.md", "LICENSE", "LICENSE.libnghttp2")
BUILT = "build/lib"  # where objects are looked for; from there they are copied into their place
KNOBS = ("PICKER_DEBUG", "PICKER_SANITIZE", "PICKER_TRACE")


@dataclass(frozen=True)
class Base:
    """A commit to compare with, and why this one, for people."""

    commit: str
    why: str


def git(*arguments: str, root: Path = ROOT) -> str:
    """What git prints; "" where it fails."""
    found = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def choose(asked: str = "", root: Path = ROOT) -> Base | None:
    """The commit to compare the working tree with; None where history has no other.

    `asked`: a revision; where it has gone on meanwhile, what it has in common with HEAD. Otherwise the main line, or,
    on the main line itself, what was there `TOGETHER` commits ago: a clone does not say which of them landed together,
    so that all of them answer for a slowdown. CountingFailed for a revision that there is not.
    """
    head = git("rev-parse", "HEAD", root=root)
    if asked:
        return _asked(asked, head, root)
    if git("status", "--porcelain", "--untracked-files=no", "--", "_core", root=root):
        return Base(head, "HEAD, which _core differs from: to be committed")
    for line in MAIN_LINES:
        common = git("merge-base", line, "HEAD", root=root)
        if common and common != head:
            return Base(common, f"where this branch left {line}")
    earlier = git("rev-list", "--first-parent", f"--max-count={TOGETHER + 1}", "HEAD", root=root).split()
    return Base(earlier[-1], f"{len(earlier) - 1} commits ago: no branch was left") if len(earlier) > 1 else None


def _asked(asked: str, head: str, root: Path) -> Base:
    commit = git("rev-parse", "--verify", "--quiet", f"{asked}^{{commit}}", root=root)
    if not commit:
        raise CountingFailed(f"there is no revision {asked!r} here: `git fetch`, or BASE= another one")
    common = git("merge-base", commit, head, root=root) or commit
    return Base(common, f"asked for as {asked}" if common == commit else f"where HEAD left {asked}")


def messages(base: str, root: Path = ROOT) -> list[str]:
    """Messages of the commits that the head has and the base has not."""
    return [text for text in git("log", "-z", "--format=%B", f"{base}..HEAD", root=root).split("\0") if text]


def toolchain() -> str:
    """What objects depend on besides their sources."""
    compiler = os.environ.get("CC", "cc")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    import Cython

    return f"{platform.python_version()} {Cython.__version__} {version.partition(chr(10))[0]}"


def built(commit: str, root: Path = ROOT) -> Path:
    """The folder with the core of `commit`, built. CountingFailed if it cannot be."""
    tree = WORK / commit[:12]
    stamp = tree / "built"
    if stamp.exists() and stamp.read_text() == toolchain():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    _extract(commit, tree, root)
    _share(root, tree)
    build(tree)
    stamp.write_text(toolchain())
    return tree


def _extract(commit: str, tree: Path, root: Path) -> None:
    there = git("ls-tree", "--name-only", commit, root=root).split("\n")
    command = ["git", "-C", str(root), "archive", commit, "--", *(part for part in PARTS if part in there)]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)


def _share(head: Path, tree: Path) -> None:
    """Let equal sources be as old as the head's, others new, and take over the head's objects where there is a source.

    A declaration that differs is newer than every object, so that what uses it is made again.
    """
    for source in (tree / "_core").iterdir():
        twin = head / "_core" / source.name
        if twin.exists() and filecmp.cmp(source, twin, shallow=False):
            shutil.copystat(twin, source)
        else:
            os.utime(source)
    if not filecmp.cmp(head / "setup.py", tree / "setup.py", shallow=False):
        return  # flags differ
    objects = tree / BUILT / "picker" / "_core"
    objects.mkdir(parents=True)
    for made in [*(head / "_core").glob("*.c"), *(head / "_core").glob("*.so")]:
        if (tree / "_core" / f"{made.name.partition('.')[0]}.pyx").exists():
            shutil.copy2(made, (objects if made.suffix == ".so" else tree / "_core") / made.name)


def build(tree: Path) -> None:
    """Compiles what is to be compiled in `tree`, as the product is. CountingFailed if that fails."""
    environment = {name: value for name, value in os.environ.items() if name not in KNOBS}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", f"--build-lib={BUILT}"]
    found = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise CountingFailed(f"the core in {tree} cannot be built:\n{found.stdout[-2000:]}{found.stderr[-2000:]}")
