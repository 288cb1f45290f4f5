"""Where the shared reference data lies: `$PICKER_SHARED`, else `../shared` beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("PICKER_SHARED", ROOT.parent / "shared"))

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="reference data is not shipped: set PICKER_SHARED to the folder that holds it"
)
