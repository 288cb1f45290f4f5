"""Flags as pflag (and so every Kubernetes component) reads them, on top of argparse.

`--flag value` and `--flag=value`, where the value may begin with a dash; a boolean stands alone or takes `=true` or
`=false` and never swallows the next word; `-v 4`, `-v4` and `-v=4`; the last of repeated flags counts, lists add up;
no abbreviations. Words are first brought to the form `--flag=value`, which argparse takes without guessing.
Every mistake is a `UsageError`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from picker.config.suggest import nearest, quoted
from picker.config.units import duration_s, quantity
from picker.errors import UsageError

__all__ = [
    "FlagParser",
    "Switch",
    "boolean",
    "choice",
    "count",
    "duration",
    "names",
    "one_text",
    "port",
    "ports",
    "size",
    "text",
]

_TRUE = frozenset(["1", "t", "T", "true", "TRUE", "True"])
_FALSE = frozenset(["0", "f", "F", "false", "FALSE", "False"])


# --- how the text of a flag is read; each raises argparse.ArgumentTypeError ---


def text(given: str) -> str:
    """Any text."""
    return given


def boolean(given: str) -> bool:
    """As Go's strconv.ParseBool."""
    if given in _TRUE or given in _FALSE:
        return given in _TRUE
    raise argparse.ArgumentTypeError(f"{quoted(given)} is neither true nor false")


def count(given: str) -> int:
    """A whole number, not negative."""
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise argparse.ArgumentTypeError(f"{quoted(given)} is not a whole number of 0 or more")
    return int(given)


def port(given: str) -> int:
    """A port number; 0 lets the system choose."""
    if not (given.isascii() and given.isdigit() and len(given) <= 5 and int(given) <= 65535):
        raise argparse.ArgumentTypeError(f"{quoted(given)} is not a port (0-65535)")
    return int(given)


def duration(given: str) -> float:
    """A Go duration, in seconds."""
    try:
        return duration_s(given)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def size(given: str) -> int:
    """A Kubernetes quantity, in bytes; `10MiB` is taken too."""
    try:
        return quantity(given)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def one_text(given: str) -> tuple[str, ...]:
    """Of a flag that may be repeated: any text, commas too."""
    return (given,)


def names(given: str) -> tuple[str, ...]:
    """Of a flag that may be repeated: names, with commas between."""
    found = tuple(name.strip() for name in given.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{quoted(given)} has an empty name in it")
    return found


def ports(given: str) -> tuple[int, ...]:
    """Of a flag that may be repeated: port numbers but 0, with commas between."""
    found = tuple(port(name.strip()) for name in given.strip("[]").split(","))
    if 0 in found:
        raise argparse.ArgumentTypeError("port 0 is none that a pod can serve on")
    return found


def choice(*names: str) -> Callable[[str], str]:
    """One of `names`."""

    def read(given: str) -> str:
        if given not in names:
            raise argparse.ArgumentTypeError(f"{quoted(given)} is not one of: {', '.join(names)}")
        return given

    return read


_METAVARS: dict[Callable[[str], Any], str] = {count: "N", port: "PORT", duration: "DURATION", size: "SIZE"}


class Switch(argparse.Action):
    """A boolean flag."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)


class _Append(argparse.Action):
    """More of several values."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *values))


class FlagParser(argparse.ArgumentParser):
    """An argument parser with pflag's manners; `flag` and `switch` add what argparse's own methods would too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def flag(self, name: str, *, default: Any = None, kind: Callable[[str], Any] = text, help: str = "") -> None:
        """Adds `--name VALUE`; a one-letter name is also taken with one dash."""
        names = [f"-{name}", f"--{name}"] if len(name) == 1 else [f"--{name}"]
        metavar = _METAVARS.get(kind, "TEXT")
        self.add_argument(*names, default=default, type=kind, help=help.replace("%", "%%"), metavar=metavar)

    def several(
        self, name: str, *, kind: Callable[[str], tuple[Any, ...]] = one_text, help: str = "", metavar: str = "TEXT"
    ) -> None:
        """Adds `--name VALUE`, which may be given again and again; all values count, as a tuple."""
        about = help.replace("%", "%%")
        self.add_argument(f"--{name}", action=_Append, default=(), type=kind, help=about, metavar=metavar)

    def switch(self, name: str, *, default: bool = False, help: str = "") -> None:
        """Adds the boolean `--name`, `--name=true` or `--name=false`."""
        self.add_argument(
            f"--{name}", action=Switch, default=default, type=boolean, help=help.replace("%", "%%"), metavar="BOOL"
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The flags and words given. Raises `UsageError`; `--help` prints and raises `SystemExit`."""
        return self.parse_args(list(self._normal(words)))

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += " (a boolean flag takes its value after '=', as in --flag=false)"
        raise UsageError(f"{self.prog}: {message}; see '{self.prog} --help'")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """argparse drops a value that is `--` (Python < 3.13), although it was joined to its flag."""
        if action.option_strings and arg_strings == ["--"]:
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)

    def _normal(self, words: Sequence[str]) -> Iterator[str]:
        """The same words with each flag and its value in one, `--flag=value`."""
        rest = iter(words)
        for word in rest:
            if word == "--":
                yield word
                yield from rest
            elif len(word) > 1 and word.startswith("-"):
                yield from self._flag(word, rest)
            else:
                yield word

    def _flag(self, word: str, rest: Iterator[str]) -> Iterator[str]:
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(name) > 2:  # -v4
            name, equals, value = word[:2], "=", word[2:]
        action = self._option_string_actions.get(name)
        if action is None:
            self._unknown(word.partition("=")[0])
        long = action.option_strings[-1]
        if isinstance(action, argparse._HelpAction):
            yield long
        elif isinstance(action, Switch):
            yield f"{long}={value if equals else 'true'}"
        elif action.nargs == 0:  # store_true and its like
            if not equals or self._truth(long, value):
                yield long
        else:
            yield f"{long}={value if equals else self._next(long, rest)}"

    def _truth(self, name: str, value: str) -> bool:
        try:
            return boolean(value)
        except argparse.ArgumentTypeError as problem:
            self.error(f"argument {name}: {problem}")

    def _next(self, name: str, rest: Iterator[str]) -> str:
        for word in rest:
            return word
        self.error(f"flag {name} needs a value, as in {name}=VALUE")

    def _unknown(self, name: str) -> NoReturn:
        doubled = f"-{name}"
        if doubled in self._option_string_actions:
            self.error(f"unknown flag {quoted(name)}; long flags take two dashes: {doubled}")
        near = nearest(name, self._option_string_actions)
        self.error(f"unknown flag {quoted(name)}" + (f"; did you mean {near}?" if near else ""))
