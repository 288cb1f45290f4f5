"""Which libnghttp2 an installed wheel loads: `python -m tests.support.bundled`."""

import sys
from pathlib import Path

import picker._core.h2
from picker._core.calls import __file__ as calls

LIBRARY = "libnghttp2"


def loaded() -> set[Path]:
    """Files of that name mapped into this process."""
    files = (line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if LIBRARY in line)
    return {Path(file.strip()) for file in files}


def main() -> str | None:
    """None if it is the wheel's own, the reason if not."""
    folder = Path(picker.__file__).parents[1] / "picker.libs"
    found = loaded()
    if not found or any(file.parent != folder for file in found):
        return f"{calls} has loaded {[str(file) for file in found]}, nothing or not all of it in {folder}"
    print("loaded from the wheel:", *found)
    return None


if __name__ == "__main__":
    sys.exit(main())
