"""Checks an EndpointPickerConfig file and prints the plan picker would run; wrong: the error, exit code 2."""

import argparse
import importlib
import sys
from pathlib import Path

from picker.cli.core import require_core
from picker.cli.flags import FlagParser
from picker.config.catalogue import SUPPORTED
from picker.config.describe import describe
from picker.config.document import read_text
from picker.config.extras import InstalledTypes
from picker.config.load import load_config

__all__ = ["configure", "run"]


def configure(parser: FlagParser) -> None:
    """The words of `picker config`."""
    parser.add_argument("action", choices=["check"], help="check: decode the file and print the effective plan")
    parser.add_argument("file", metavar="FILE", help="YAML or JSON; - reads standard input")


def run(args: argparse.Namespace) -> int:
    """Prints the plan. Raises `ConfigError`, also for Python plugins that cannot be made, and `CoreUnavailable`."""
    text: str | bytes
    if args.file == "-":
        source, text = "standard input", sys.stdin.buffer.read()
    else:
        source, text = args.file, read_text(Path(args.file))
    config = load_config(text, source=source, extra_types=InstalledTypes())
    if any(plugin.type not in SUPPORTED for plugin in config.plugins):
        require_core()
        importlib.import_module("picker.policy.compile").compile_policy(config)
    print(f"{source}: valid")
    print(describe(config), end="")
    return 0
