"""Log lines: one JSON object each, or plain text on a terminal. Never prompt text, never a secret."""

import json
import logging
import sys
from typing import Literal

__all__ = ["configure_logging"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEVELS = {0: logging.WARNING, 1: logging.WARNING, 2: logging.INFO, 3: logging.INFO}  # above: DEBUG


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(verbosity: int, encoder: Literal["auto", "json", "console"] | str) -> None:
    """Log to stderr; `verbosity` as `--v`: 2 informs, 4 and more debugs."""
    handler = logging.StreamHandler(sys.stderr)
    plain = encoder == "console" or (encoder == "auto" and sys.stderr.isatty())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s") if plain else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS.get(verbosity, logging.DEBUG))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
