"""Entry point of the `picker` command: finds the subcommand, imports only that, turns errors into exit codes.

0: done. 1: it failed. 2: the command line or a file it names is wrong. 130: interrupted. `rollout` has some of its own.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from picker import __version__
from picker.errors import PickerError, UsageError

__all__ = ["main"]


class Command(NamedTuple):
    """A subcommand: the module that holds it and one line about it."""

    module: str
    summary: str


COMMANDS = {
    "serve": Command("picker.cli.serve", "run the endpoint picker (ext_proc server)"),
    "bbr": Command("picker.cli.bbr", "run the body-based router (ext_proc server that sets model headers)"),
    "model-server": Command("picker.cli.model_server", "run a simulated model server"),
    "demo": Command("picker.cli.demo", "show picker against round robin behind a real Envoy, on this machine"),
    "rollout": Command(
        "picker.cli.rollout", "move traffic to a new pool or adapter, step by step, and back if it fails"
    ),
    "sim": Command("picker.cli.sim", "run routing policies on a trace, in virtual time"),
    "lora-sync": Command("picker.cli.lora_sync", "keep the LoRA adapters of a model server as a file says (side-car)"),
    "config": Command("picker.cli.config", "check an EndpointPickerConfig file"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `argv` (default: the process's arguments) and returns the exit code."""
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except PickerError as error:
        print(f"picker: error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:  # argparse ends --help so
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # whoever read what is printed has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else ""
    if name in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if name == "--version":
        print(f"picker {__version__}")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}\n\n{_usage()}" if name else f"a command is needed\n\n{_usage()}")
    return _run(name, words[1:])


def _run(name: str, words: list[str]) -> int:
    from picker.cli.flags import FlagParser  # here, so that --version and --help need nothing

    command = COMMANDS[name]
    module: Any = importlib.import_module(command.module)
    parser = FlagParser(prog=f"picker {name}", description=module.__doc__)
    module.configure(parser)
    code: int = module.run(parser.parse(words))
    return code


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: picker COMMAND [FLAGS]", "", "commands:", *lines, "", "'picker COMMAND --help' says more."]
    )
