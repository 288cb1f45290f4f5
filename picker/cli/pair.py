"""The files of a certificate, checked where their directory is named."""

import os
from pathlib import Path

from picker.errors import UsageError

__all__ = ["check_pair"]


def check_pair(flag: str, directory: str) -> None:
    """Whether what `--flag` names can be read, if it names anything. Raises UsageError."""
    for file in [Path(directory, name) for name in ("tls.crt", "tls.key")] if directory else []:
        if not os.access(file, os.R_OK):
            raise UsageError(f"picker serve: {file} cannot be read; --{flag} must hold tls.crt and tls.key")
