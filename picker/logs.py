"""Log lines: one JSON object each, or plain text on a terminal. Never prompt text, never a secret."""

import json
import logging
import sys
from typing import Any

from picker.errors import printable

__all__ = ["configure_logging"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEVELS = {0: logging.WARNING, 1: logging.WARNING, 2: logging.INFO, 3: logging.INFO}  # above: DEBUG


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        own = {
            "ts": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            own["stack"] = self.formatException(record.exc_info)
        return json.dumps(own | {key: value for key, value in _extras(record).items() if key not in own}, default=str)


class _Plain(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever its parts hold."""
        extras = "".join(f" {key}={value}" for key, value in _extras(record).items())
        return printable(super().formatMessage(record) + extras)


def configure_logging(verbosity: int, encoder: str) -> None:
    """Log to stderr, Python's warnings too.

    `verbosity` as `--v`: up to 1 warns, 2 informs, 4 and more debugs. `encoder`: `json`, `console`, or `auto`, which is
    `console` on a terminal.
    """
    handler = logging.StreamHandler(sys.stderr)
    is_plain = encoder == "console" or (encoder == "auto" and sys.stderr.isatty())
    handler.setFormatter(_Plain() if is_plain else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS.get(verbosity, logging.DEBUG))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.captureWarnings(True)
