"""What asking for credit costs a pick, and what keeping it costs a request."""

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


def test_credit_of_an_endpoint(seconds, target) -> None:
    credits = busy(8)
    ask = credits.allow

    def all_eight() -> None:
        for slot in range(8):
            ask(slot, 500, 800, share=0.95, now_ns=7 * SECOND)

    target("credits: ask one of 8 endpoints", seconds(all_eight) * 1e9 / 8, 300, "ns")


def test_credit_grows_with_the_pool(seconds, target) -> None:
    """The room of all is looked at once for each moment, and not for each endpoint."""
    credits = busy(256)

    def all_of_them() -> None:
        for slot in range(256):
            credits.allow(slot, 500, 800, share=0.95, now_ns=7 * SECOND)

    target("credits: ask one of 256 endpoints", seconds(all_of_them) * 1e9 / 256, 300, "ns")


def test_life_of_a_request(seconds, target) -> None:
    credits = busy(1)

    def life() -> None:
        booking = credits.book(0, 500, 800, 8 * SECOND)
        credits.first_byte(booking, learn=True, now_ns=8 * SECOND + 50_000_000)
        credits.release(booking, 9 * SECOND)

    target("credits: book, first token, release, with the table's own", seconds(life) * 1e6, 1.0, "us")
