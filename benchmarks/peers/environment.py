"""The virtual environment that the peers live in: made on first use, from this Python, at exact versions.

It is not picker's: peers bring dependencies of their own. Its Python is the same one, so what is measured in one
process there loads picker's compiled core of this checkout beside the peers (`PYTHONPATH`).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "peers"
WANTED = Path(__file__).with_name("requirements.txt")
MADE = PLACE / "installed.txt"
PYTHON = PLACE / "bin" / "python"


def ensure() -> None:
    """Installs the peers where they are not yet, or at other versions. RuntimeError with pip's words if it cannot."""
    wanted = f"{sys.version}\n{WANTED.read_text()}"
    if PYTHON.exists() and MADE.exists() and MADE.read_text() == wanted:
        return
    print(f"installing the peers into {PLACE.relative_to(ROOT)} (some 250 MB, once)", flush=True)
    shutil.rmtree(PLACE, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(PLACE))
    _run(str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-r", str(WANTED))
    MADE.write_text(wanted)


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} failed:\n{ended.stderr[-2000:]}")


def variables() -> dict[str, str]:
    """So that the peers' Python finds this checkout, and Dynamo says only what is wrong."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "DYN_LOG": "error", "PYTHONHASHSEED": "0"}


def versions() -> dict[str, str]:
    """Name to version, as they are pinned."""
    lines = [line for line in WANTED.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return dict(line.split("==", 1) for line in lines)
