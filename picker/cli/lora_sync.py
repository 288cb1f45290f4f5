"""Side-car of a vLLM server: loads and unloads LoRA adapters as a file says, and follows the file, until SIGTERM.

File, flags and metric are those of the Inference Extension's lora-syncer.
"""

import argparse
import asyncio
import importlib
import os
from pathlib import Path

from picker.cli.flags import FlagParser, duration, port
from picker.cli.groups import add_group, read_group
from picker.config.settings import LogSettings
from picker.errors import UsageError
from picker.logs import configure_logging

__all__ = ["configure", "run"]

ENVIRONMENT = "DYNAMIC_LORA_ROLLOUT_CONFIG"
DEFAULT_CONFIG = "/config/configmap.yaml"


def seconds(given: str) -> float:
    """Whole seconds, as the lora-syncer takes them, or a duration with its unit."""
    return duration(f"{given}s" if given.isascii() and given.isdigit() else given)


def configure(parser: FlagParser) -> None:
    """Adds the flags."""
    parser.flag(
        "config",
        default=os.environ.get(ENVIRONMENT) or DEFAULT_CONFIG,
        help=f"the file with the adapters (default {DEFAULT_CONFIG}, or what {ENVIRONMENT} says)",
    )
    parser.flag(
        "health-check-timeout", default=300.0, kind=seconds, help="for the model server to be healthy (default 300)"
    )
    parser.flag("health-check-interval", default=2.0, kind=seconds, help="between two looks at its health (default 2)")
    parser.flag("reconcile-trigger", default=5.0, kind=seconds, help="between two looks at its adapters (default 5)")
    parser.switch("config-validation", default=True, help="always on, as in the lora-syncer: false is not taken")
    parser.flag("metrics-port", default=8080, kind=port, help="of the metrics page (default 8080); 0 is a free one")
    add_group(parser, LogSettings)


def run(args: argparse.Namespace) -> int:
    """Runs until stopped. Raises UsageError."""
    for flag in ("health_check_interval", "reconcile_trigger"):
        if getattr(args, flag) <= 0:
            raise UsageError(f"picker lora-sync: --{flag.replace('_', '-')} must be more than 0")
    if not args.config_validation:
        raise UsageError("picker lora-sync: --config-validation=false is not possible: what is wrong cannot be obeyed")
    log = read_group(args, LogSettings)
    configure_logging(log.verbosity, log.encoder)
    app = importlib.import_module("picker.lora.app")
    sync = importlib.import_module("picker.lora.sync")
    settings = app.LoraSettings(
        config=Path(args.config),
        metrics_port=args.metrics_port,
        sync=sync.SyncSettings(
            health_timeout_s=args.health_check_timeout,
            health_interval_s=args.health_check_interval,
            reconcile_s=args.reconcile_trigger,
        ),
    )
    code: int = asyncio.run(app.serve(settings))
    return code
