"""Keeps the generated parts of the docs current: `python -m tests.support.readme --write`."""

import re
import sys

from benchmarks.tables import core_table, load_table, performance_table
from picker.config.reference import plugins_table, settings_table
from tests.support.shared import ROOT

README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
PAGES = (README, CONFIGURATION, PERFORMANCE)
TABLES = {
    "settings": settings_table,
    "plugins": plugins_table,
    "performance": performance_table,
    "load": load_table,
    "core": core_table,
}
_PART = re.compile(r"(<!-- (\w+): begin \(make docs writes this\) -->\n).*?(<!-- \2: end -->)", re.S)


def regenerated(text: str) -> str:
    """The text with its generated parts as the code has them."""
    return _PART.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


if __name__ == "__main__":
    for file in PAGES:
        fresh = regenerated(file.read_text())
        if "--write" in sys.argv:
            file.write_text(fresh)
        elif fresh != file.read_text():
            raise SystemExit(f"{file.name} is not current: run `make docs`")
