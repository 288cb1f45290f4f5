"""What scraping costs: CPU share of a real `picker serve` beside 100 metrics ports, against one that does not scrape.

`python -m benchmarks.load.scraping [--servers 100] [--seconds 10] [--rounds 3]`. Each round starts a fresh picker per
mode, one after the other, so that the modes share whatever else the machine does.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.options import Options
from benchmarks.load.processes import cpu_s
from benchmarks.load.row import Row
from picker.demo.processes import Child, free_port, picker_command
from tests.support.shared import SHARED

PAGE = SHARED / "reference" / "vllm_metrics.txt"
READY_S = 30.0
SETTLE_S = 2.0
"""Before a measurement: connections are made, code is warm."""

NO_SCRAPING = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n" + (
    "plugins: []\nschedulingProfiles: []\ndataLayer: {injectDefaults: false}\n"
)


@dataclass(frozen=True)
class Mode:
    """One way to run picker: flags, and the share of a core that scraping may cost (0.0: nothing was promised)."""

    name: str
    flags: tuple[str, ...]
    limit_cores: float = 0.0


OFF = Mode("off", (f"--config-text={NO_SCRAPING}",))
BUSY = Mode("every 200 ms", ("--refresh-metrics-idle-interval=200ms",), 0.1)
IDLE = Mode("idle, every 2 s", ("--refresh-metrics-idle-interval=2s",), 0.02)
MODES = (OFF, BUSY, IDLE)


@dataclass(frozen=True)
class Sample:
    """One measurement: CPU seconds per second, pages read per second, and pages not read in all."""

    cores: float
    scrapes_per_s: float
    failures: float


@dataclass(frozen=True)
class Cost:
    """What a mode costs above the picker that does not scrape, round by round."""

    mode: Mode
    cores: tuple[float, ...]
    scrapes_per_s: tuple[float, ...]
    failures: float

    @property
    def us_per_scrape(self) -> tuple[float, ...]:
        """CPU microseconds per page, idle looks between pages included."""
        return tuple(1e6 * cores / rate for cores, rate in zip(self.cores, self.scrapes_per_s, strict=True))


def measure(servers: int = 100, seconds: float = 10.0, rounds: int = 3) -> tuple[list[Sample], list[Cost]]:
    """Samples without scraping, and the cost of each way of scraping above their median. Raises RuntimeError."""
    samples: dict[Mode, list[Sample]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as name, serving_pages(Path(name), servers) as endpoints:
        for _ in range(rounds):
            for mode in MODES:
                samples[mode].append(_sample(Path(name), endpoints, mode, seconds))
    base = statistics.median(sample.cores for sample in samples[OFF])
    return samples[OFF], [_cost(mode, samples[mode], base) for mode in MODES if mode is not OFF]


def _cost(mode: Mode, samples: Sequence[Sample], base: float) -> Cost:
    return Cost(
        mode,
        tuple(sample.cores - base for sample in samples),
        tuple(sample.scrapes_per_s for sample in samples),
        sum(sample.failures for sample in samples),
    )


@contextmanager
def serving_pages(directory: Path, count: int) -> Iterator[Path]:
    """A process with `count` metrics ports, and an endpoints file that names them all."""
    command = [sys.executable, "-m", "benchmarks.load.metrics_pages", str(PAGE), str(count)]
    child = Child("metrics pages", command, directory / "pages.log")
    try:
        child.wait_until(lambda: "listening" in child.log_text(), READY_S)
        rows = [
            f"- {{name: e{port}, address: 127.0.0.1, port: {port}}}"
            for port in re.findall(r"^\d+$", child.log_text(), re.M)
        ]
        endpoints = directory / "endpoints.yaml"
        endpoints.write_text("endpoints:\n" + "\n".join(rows) + "\n")
        yield endpoints
    finally:
        child.stop()


def _sample(directory: Path, endpoints: Path, mode: Mode, seconds: float) -> Sample:
    ports = {name: free_port() for name in ("grpc-port", "grpc-health-port", "metrics-port")}
    flags = [f"--{name}={port}" for name, port in ports.items()]
    flags += ["--secure-serving=false", "--bind-address=127.0.0.1", f"--endpoints-file={endpoints}", *mode.flags]
    picker = Child("picker", picker_command("serve", *flags), directory / "picker.log")
    page = f"http://127.0.0.1:{ports['metrics-port']}/metrics"
    try:
        picker.wait_until(lambda: "serving ext_proc" in picker.log_text(), READY_S)
        time.sleep(SETTLE_S)
        before, started = _counters(page), time.monotonic()
        used_s, measured = cpu_s(picker.pid), time.monotonic()
        time.sleep(seconds)
        cores = (cpu_s(picker.pid) - used_s) / (time.monotonic() - measured)
        after, ended = _counters(page), time.monotonic()
    finally:
        picker.stop()
    return Sample(cores, (after[0] - before[0]) / (ended - started), after[1])


def _counters(url: str) -> tuple[float, float]:
    """Pages read and pages not read so far, as picker's own metrics tell."""
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith("picker_scrape")]
    scrapes = sum(float(value) for name, _, value in rows if name == "picker_scrapes_total")
    failures = sum(float(value) for name, _, value in rows if name.startswith("picker_scrape_failures_total"))
    return scrapes, failures


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def rows(options: Options) -> list[Row]:
    """Cores that scraping costs, by how often it is done."""
    _, costs = measure(seconds=options.seconds(10.0), rounds=options.rounds)
    return [
        Row("scraping", f"100 model servers {cost.mode.name}", "cores", cost.cores, cost.mode.limit_cores)
        for cost in costs
    ]


def main() -> None:
    """Prints medians of the rounds, and the least and the most beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    base, costs = measure(options.servers, options.seconds, options.rounds)
    print(f"{options.servers} model servers, pages of {PAGE.stat().st_size} bytes; cores above a picker that does not")
    print(f"scrape, which takes {_spread([sample.cores for sample in base], 4)}")
    for cost in costs:
        verdict = "met" if statistics.median(cost.cores) <= cost.mode.limit_cores else "MISSED"
        print(
            f"{cost.mode.name:<16} {_spread(cost.cores, 4)} cores, {_spread(cost.us_per_scrape, 0)} us a page, "
            f"{_spread(cost.scrapes_per_s, 0)} pages/s, {cost.failures:.0f} failed;  "
            f"target <= {cost.mode.limit_cores:g} cores  {verdict}"
        )


if __name__ == "__main__":
    main()
