from benchmarks.cases.case import Action, Case, Growth
from picker._core.endpoints import Endpoints

ADAPTERS = ["adapter-a", "adapter-b", "adapter-c"]


def booking() -> Action:
    table = Endpoints()
    slot, generation = table.add(b"10.0.0.1:8000")

    def life() -> None:
        booking = table.book(slot, 5000, 6000, 1)
        table.first_byte(booking, learn=True, now_ns=1_000_000)
        table.succeeded(slot, generation, 1)
        table.release(booking)

    return life


def scrape() -> Action:
    table = Endpoints()
    slot, generation = table.add(b"10.0.0.1:8000")
    return lambda: table.scraped(
        slot, generation, waiting=3, running=40, kv_usage=0.7, running_adapters=ADAPTERS, now_ns=1
    )


def rollout(count: int) -> Action:
    """Each endpoint is replaced once: the scan for a free slot must not be seen."""
    table = Endpoints(count)
    names = [table.add(b"10.0.0.1:8000") for _ in range(count)]

    def replace_all() -> None:
        for index, name in enumerate(names):
            table.remove(*name)
            names[index] = table.add(b"10.0.0.1:8000")

    return replace_all


def replacing(count: int) -> Action:
    """The last of so many endpoints is replaced, a hundred times."""
    table = Endpoints(count)
    last = [table.add(b"10.0.0.1:8000") for _ in range(count)][-1:]

    def replace() -> None:
        for _ in range(100):
            table.remove(*last[0])
            last[0] = table.add(b"10.0.0.1:8000")

    return replace


CASES = [
    Case("endpoints: book, first byte, success, release", booking, limit=1.0),
    Case("endpoints: one scrape with three adapters", scrape, limit=2.0),
    Case("endpoints: replace one of 1,024", lambda: rollout(1024), limit=5.0, per=1024),
]
GROWTHS = [Growth("endpoints: replace the last of n", replacing, 128, "n")]
