"""Settings groups as flags: each field of a group that has a flag is added, and read back into the group."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from picker.cli import flags
from picker.cli.flags import FlagParser
from picker.config.reference import field_docs, options, shown_default
from picker.config.settings import LimitSettings

__all__ = ["add_group", "largest_message", "read_group"]

G = TypeVar("G")

LEAST_MESSAGE_BYTES = 16 << 20
MESSAGE_PER_BODY = 2  # a body over the cap must still be read to be answered 413 rather than cut off

_KINDS: dict[str, Callable[[str], Any]] = {
    "text": flags.text,
    "port": flags.port,
    "count": flags.count,
    "duration": flags.duration,
    "bytes": flags.size,
}
_SEVERAL: dict[str, tuple[Callable[[str], tuple[Any, ...]], str]] = {
    "texts": (flags.one_text, "TEXT"),
    "names": (flags.names, "NAME,..."),
    "ports": (flags.ports, "PORT,..."),
}


def add_group(
    parser: FlagParser, group: type[Any], *, without: str = "", leave_out: frozenset[str] = frozenset()
) -> None:
    """Adds the flags of a settings class, but those of the fields in `leave_out`. `without`: a prefix they lose."""
    docs = field_docs(group)
    for field in options(group):
        if field.name not in leave_out:
            _add(parser, field, docs.get(field.name, ""), field.metadata["flag"].removeprefix(without))


def read_group(
    args: argparse.Namespace, group: type[G], *, without: str = "", leave_out: frozenset[str] = frozenset()
) -> G:
    """The settings that the flags come to; what was left out has its default."""
    names = {field.name: field.metadata["flag"].removeprefix(without) for field in options(group)}
    given = {name: getattr(args, flag.replace("-", "_")) for name, flag in names.items() if name not in leave_out}
    return group(**given)


def largest_message(limits: LimitSettings) -> int:
    """Bytes of the largest gRPC message that is taken, if nothing else is said."""
    return max(MESSAGE_PER_BODY * limits.body_cap_bytes, LEAST_MESSAGE_BYTES)


def _add(parser: FlagParser, field: dataclasses.Field[Any], doc: str, flag: str) -> None:
    kind, choices = field.metadata["kind"], field.metadata["choices"]
    shown = shown_default(field)
    about = f"{' '.join(doc.split())} (default {shown})" if shown else " ".join(doc.split())
    if kind == "boolean":
        parser.switch(flag, default=bool(field.default), help=about)
    elif kind in _SEVERAL:
        reader, metavar = _SEVERAL[kind]
        parser.several(flag, kind=reader, help=about, metavar=metavar)
    else:
        single = flags.choice(*choices) if kind == "choice" else _KINDS[kind]
        parser.flag(flag, default=field.default, kind=single, help=about)
