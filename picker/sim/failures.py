"""Failures as they are written on a command line: `KIND@SECOND[+SECONDS][xFACTOR][:REPLICA/REPLICA...]`."""

import re

from picker.sim.world import Fault

KINDS = {
    "dead": "refuses and breaks connections; with +SECONDS it comes back with an empty cache",
    "slow": "takes FACTOR times as long (2)",
    "metrics": "cannot be scraped",
}
_FORM = re.compile(
    r"(?P<kind>[a-z]+)@(?P<at>\d+(\.\d+)?)(\+(?P<seconds>\d+(\.\d+)?))?(x(?P<factor>\d+(\.\d+)?))?(:(?P<slots>\d+(/\d+)*))?"
)


def failure(text: str) -> Fault:
    """`dead@600+60:0`: replica 0 is dead from second 600 on, for a minute. ValueError for what is none."""
    found = _FORM.fullmatch(text)
    if found is None or found["kind"] not in KINDS:
        raise ValueError(f"{text!r} is no failure: write KIND@SECOND+SECONDS:REPLICA, KIND one of {', '.join(KINDS)}")
    seconds, factor = float(found["seconds"] or 0), float(found["factor"] or 2)
    if found["kind"] != "dead" and not seconds:
        raise ValueError(f"{text!r} does not say for how long: write {found['kind']}@{found['at']}+60")
    if not 1e-3 <= factor <= 1e3:
        raise ValueError(f"{text!r}: write a factor from 0.001 to 1000")
    slots = tuple(map(int, found["slots"].split("/"))) if found["slots"] else ()
    return Fault(found["kind"], float(found["at"]), seconds, slots, factor)
