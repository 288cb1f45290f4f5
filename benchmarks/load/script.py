"""What one ext_proc stream does, step by step, in the file format that `script.h` describes."""

import enum
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from picker._core.engine import Engine
from picker._core.session import Session

MAGIC = b"PKLOAD1\n"
ENDPOINT = "127.0.0.1:9"  # any: only how many replies there are is learnt from it


class Kind(enum.Enum):
    SEND = b"S"
    EXPECT = b"E"
    HOLD = b"W"
    RESET = b"R"
    CLOSE = b"H"


@dataclass(frozen=True)
class Step:
    """`message` of SEND, `count` of EXPECT."""

    kind: Kind
    message: bytes = b""
    count: int = 0

    def encode(self) -> bytes:
        number = len(self.message) if self.kind is Kind.SEND else self.count
        return self.kind.value + struct.pack("<I", number) + self.message


Script = tuple[Step, ...]
End = Literal[Kind.RESET, Kind.CLOSE]


def write(path: Path, scripts: Iterable[Script]) -> Path:
    """Streams will take the scripts in turn. ValueError for one that does not end, or ends twice."""
    scripts = tuple(scripts)
    for script in scripts:
        ends = [step.kind in (Kind.RESET, Kind.CLOSE) for step in script]
        if not script or not ends[-1] or sum(ends) != 1:
            raise ValueError("a script ends with its only RESET or CLOSE")
    path.write_bytes(MAGIC + b"".join(step.encode() for script in scripts for step in script))
    return path


def read(path: Path) -> tuple[Script, ...]:
    """What `write` wrote. ValueError for anything else."""
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise ValueError(f"{path} is no script")
    scripts: list[Script] = []
    steps: list[Step] = []
    at = len(MAGIC)
    while at < len(data):
        step = _read_step(data, at)
        at += len(step.encode())
        steps.append(step)
        if step.kind in (Kind.RESET, Kind.CLOSE):
            scripts.append(tuple(steps))
            steps = []
    return tuple(scripts)


def _read_step(data: bytes, at: int) -> Step:
    kind = Kind(data[at : at + 1])
    (number,) = struct.unpack_from("<I", data, at + 1)
    if kind is Kind.SEND:
        return Step(kind, message=data[at + 5 : at + 5 + number])
    return Step(kind, count=number)


def answered(parts: Sequence[Sequence[bytes]], *, end: End = Kind.RESET, hold_after: int | None = None) -> Script:
    """A script that sends each part and waits for all it is answered; how much that is the core is asked.

    `hold_after`: the number of parts after which the stream may be held.
    """
    engine = Engine(hash_seed=1)
    engine.add_endpoint(ENDPOINT, ENDPOINT.rpartition(":")[0])
    session = Session(engine, 0)
    steps: list[Step] = []
    for index, part in enumerate(parts):
        if index == hold_after:
            steps.append(Step(Kind.HOLD))
        count = sum(len(session.feed(message, 0)) for message in part)
        steps += [Step(Kind.SEND, message=message) for message in part]
        steps += [Step(Kind.EXPECT, count=count)] if count else []
    session.close(0)
    return (*steps, Step(end))
