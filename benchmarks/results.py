"""Published results: `benchmarks/results/<name>.json`, from which the README's and the docs' tables are written.

Whoever measures calls `write("peers", rows)`; whoever shows calls `rows("peers")`. A file holds `{"rows": [...]}`, each
row a `Row` as an object, so that files of several instruments can be read in one way. They are committed: what the
README says is what they say (a test compares).
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Row:
    """One published figure.

    `group`: what it belongs to ("radix", "conversation 1x"); `what`: the figure ("TTFT p99"); `who`: whose ("picker",
    "round robin"; "" if nobody else is there). `value` in `unit`, `low` and `high` its spread, None if there is none.
    `target`: "<= 5" or ">= 20" in the same unit, "" for a figure that is only told. `command`: what measures it again.
    `commit`, `machine`: filled in by `write` where they are empty. `note`: how it was taken, in a few words.
    """

    group: str
    what: str
    who: str
    value: float
    unit: str
    command: str
    low: float | None = None
    high: float | None = None
    target: str = ""
    commit: str = ""
    machine: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.target:
            limit(self.target)

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if not self.target:
            return None
        sign, at = limit(self.target)
        return self.value >= at if sign == ">=" else self.value <= at


def limit(target: str) -> tuple[str, float]:
    """The sign and the number of a target. ValueError if it is not one."""
    sign, _, number = target.partition(" ")
    if sign not in ("<=", ">="):
        raise ValueError(f"{target!r} is no target: say '<= 5' or '>= 20'")
    return sign, float(number)


def write(name: str, rows: Iterable[Row], folder: Path = FOLDER) -> Path:
    """Replaces the results `name` by these rows, with the commit and the machine they come from; where they lie."""
    told = [_filled(asdict(row)) for row in rows]
    if not told:
        raise ValueError(f"results {name!r} without a row")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"rows": told}, indent=1, ensure_ascii=False) + "\n")
    return path


def _filled(row: dict[str, object]) -> dict[str, object]:
    known = {**row, "commit": row["commit"] or commit(), "machine": row["machine"] or machine()}
    return {name: value for name, value in known.items() if value not in (None, "")}


def rows(name: str, folder: Path = FOLDER) -> list[Row]:
    """The results `name` as they were written; none if there are none yet. ValueError for a row that is not one."""
    path = folder / f"{name}.json"
    if not path.exists():
        return []
    return [row_of(found, path.name) for found in json.loads(path.read_text())["rows"]]


def row_of(found: Mapping[str, object], source: str) -> Row:
    """A row out of JSON. ValueError naming `source` if a field is missing or unknown."""
    known = {field.name for field in fields(Row)}
    if extra := set(found) - known:
        raise ValueError(f"{source}: a row has no field {sorted(extra)[0]!r}")
    empty = {"who": "", "unit": "", "command": ""}
    try:
        return Row(**{**empty, **found})  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"{source}: {error}") from None


def names(folder: Path = FOLDER) -> list[str]:
    """What there are results of."""
    return sorted(path.stem for path in folder.glob("*.json"))


@cache
def commit() -> str:
    """The commit of the checkout, with `-dirty` where files of it were changed; `unknown` without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def machine() -> str:
    """What figures depend on besides the code, in a line: processors, kernel, Python, compiler."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    model = f" ({cpu[0]})" if cpu else ""
    return (
        f"{os.cpu_count()} CPUs{model}, {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{platform.python_compiler()}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def shown(value: float) -> str:
    """Three digits that matter, more where the number has them before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def figure(row: Row) -> str:
    """A value with its unit and spread as the tables show it: `4.1 µs (3.9-4.4)`."""
    value = f"{shown(row.value)} {row.unit}".strip()
    return value if row.low is None or row.high is None else f"{value} ({shown(row.low)}-{shown(row.high)})"


def goal(row: Row) -> str:
    """The target and whether it is met, as the tables show it; empty without a target."""
    if row.met is None:
        return ""
    sign, at = limit(row.target)
    return f"{'≥' if sign == '>=' else '≤'} {shown(at)}: {'met' if row.met else '**missed**'}"


def placed(page: str, name: str, text: str) -> str:
    """The page with `text` between its `<!-- name: begin -->` and `<!-- name: end -->`. ValueError if it lacks them."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    head, found, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page lacks {begin.strip()} or {end}")
    return f"{head}{begin}{text}\n{end}{tail}"
