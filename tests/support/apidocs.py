"""Keeps the tables of `docs/apis.md` current: `python -m tests.support.apidocs --write`."""

import re
import sys
from typing import Any

from picker._core import apis
from tests.support.shared import ROOT

PAGE = ROOT / "docs" / "apis.md"
TABLE = re.compile(r"(<!-- (\w+): begin \(make docs writes this\) -->\n).*?(?=<!-- \2: end -->)", re.S)
HEAD = (
    "| path ends in | model | needed | hashed, in this order | apart by | answer bounded by | usage in | streamed |\n"
)
CONTENT = ("tools", "system", "messages", "prompt", "media", "places")


def names(row: dict[str, Any], *roles: str) -> list[str]:
    return [f"`{field['name']}`" for field in row["fields"] if field["role"] in roles]


def model(row: dict[str, Any]) -> str:
    needs = [field["need"] for field in row["fields"] if field["role"] == "model"]
    return "–" if not needs else "needed" if needs[0] else "if there"


def needed(row: dict[str, Any]) -> str:
    """Fields of one group with `or` between them, the one that a refusal names first."""
    groups: dict[int, list[str]] = {}
    for field in row["fields"]:
        if field["group"]:
            groups.setdefault(field["group"], []).insert(0, f"`{field['name']}`")
    return "; ".join(" or ".join(group) for group in groups.values()) or "–"


def limits(row: dict[str, Any]) -> str:
    """Whether an answer's tokens are booked, and what says how many at most."""
    if row["work"] != "answer":
        return "–"
    fields = [field for field in row["fields"] if field["role"] == "limit"]
    paths = [f"`{field['name']}.{field['inner']}`" if field["inner"] else f"`{field['name']}`" for field in fields]
    if row["format"] == "grpc":
        paths = ["`sampling_params.max_tokens`"]
    return ", ".join(paths) or "nothing said"


def hashed(row: dict[str, Any]) -> str:
    if not row["work"]:
        return "nothing"
    if row["format"] == "form":
        return "form: `prompt`, files; JSON: " + ", ".join(names(row, *CONTENT))
    return ", ".join(names(row, *CONTENT))


def line(row: dict[str, Any]) -> str:
    salts = ", ".join(names(row, "salt")) or "–"
    usage = ", ".join(f"`{where}`" for where in row["usage"].split(", ") if where) or "–"
    cells = [
        f"`{row['suffix']}`",
        model(row),
        needed(row),
        hashed(row),
        salts,
        limits(row),
        usage,
        row["stream"] or "–",
    ]
    return f"| {' | '.join(cells)} |\n"


def table(family: str) -> str:
    rows = [row for row in apis.table() if row["family"] == family]
    return HEAD + "| --- " * HEAD.count(" | ") + "| --- |\n" + "".join(map(line, rows))


def regenerated(text: str) -> str:
    """The page with its tables as the core has them."""
    return TABLE.sub(lambda found: found[1] + table(found[2]), text)


if __name__ == "__main__":
    fresh = regenerated(PAGE.read_text())
    if "--write" in sys.argv:
        PAGE.write_text(fresh)
    elif fresh != PAGE.read_text():
        raise SystemExit("docs/apis.md is not current: run `make docs`")
