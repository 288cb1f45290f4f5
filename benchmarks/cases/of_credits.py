"""What asking for credit costs a pick, and what keeping it costs a request."""

from benchmarks.cases.case import Action, Case, Growth
from picker._core.credits import Credits

SECOND = 1_000_000_000


def busy(count: int) -> Credits:
    """A pool that runs a few requests on each endpoint, and was just scraped."""
    credits = Credits(limit=count)
    for number in range(count):
        slot, _ = credits.add(b"10.0.0.1:%d" % number)
        for second in range(1, 6):
            booking = credits.book(slot, 300 * second, 1000, second * SECOND)
            credits.first_byte(booking, learn=True, now_ns=second * SECOND + 20_000_000 * (1 + second))
        credits.scraped(slot, waiting=0, running=5, kv_usage=0.3, cache_tokens=50_000, now_ns=7 * SECOND)
    return credits


def asking(count: int) -> Action:
    """The room of all is looked at once for each moment, and not for each endpoint."""
    credits = busy(count)

    def ask_all() -> None:
        for slot in range(count):
            credits.allow(slot, 500, 800, share=0.95, now_ns=7 * SECOND)

    return ask_all


def life() -> Action:
    credits = busy(1)

    def live() -> None:
        booking = credits.book(0, 500, 800, 8 * SECOND)
        credits.first_byte(booking, learn=True, now_ns=8 * SECOND + 50_000_000)
        credits.release(booking, 9 * SECOND)

    return live


def saturation(count: int) -> Action:
    credits, moment = busy(count), [7 * SECOND]

    def look() -> None:
        moment[0] += 1
        credits.saturation(moment[0])

    return look


CASES = [
    Case("credits: ask one of 8 endpoints", lambda: asking(8), "ns", 300, per=8),
    Case("credits: ask one of 256 endpoints", lambda: asking(256), "ns", 300, per=256),
    Case("credits: book, first token, release, with the table's own", life, limit=1.0),
    Case("credits: how full a pool of 256 is", lambda: saturation(256)),
]
GROWTHS = [Growth("credits: ask each of n endpoints", asking, 32, "n")]
