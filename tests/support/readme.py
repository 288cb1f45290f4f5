"""Keeps the README's generated parts current: `python -m tests.support.readme --write`."""

import re
import sys

from picker.config.reference import settings_table
from tests.support.shared import ROOT

README = ROOT / "README.md"
SETTINGS = re.compile(r"(?<=<!-- settings: begin \(make docs writes this\) -->\n).*?(?=<!-- settings: end -->)", re.S)


def regenerated(text: str) -> str:
    """The README with its generated parts as the code has them."""
    return SETTINGS.sub(lambda _: settings_table(), text)


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


if __name__ == "__main__":
    fresh = regenerated(README.read_text())
    if "--write" in sys.argv:
        README.write_text(fresh)
    elif fresh != README.read_text():
        raise SystemExit("README.md is not current: run `make docs`")
