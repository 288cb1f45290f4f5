from picker._core.endpoints import Endpoints


def test_life_of_a_booking(seconds, target) -> None:
    table = Endpoints()
    slot, generation = table.add(b"10.0.0.1:8000")

    def life() -> None:
        booking = table.book(slot, 5000, 6000, 1)
        table.first_byte(booking, learn=True, now_ns=1_000_000)
        table.succeeded(slot, generation, 1)
        table.release(booking)

    target("endpoints: book, first byte, success, release", seconds(life) * 1e6, 1.0, "us")


def test_scrape(seconds, target) -> None:
    table = Endpoints()
    slot, generation = table.add(b"10.0.0.1:8000")
    adapters = ["adapter-a", "adapter-b", "adapter-c"]

    def scrape() -> None:
        table.scraped(slot, generation, waiting=3, running=40, kv_usage=0.7, running_adapters=adapters, now_ns=1)

    target("endpoints: one scrape with three adapters", seconds(scrape) * 1e6, 2.0, "us")


def test_a_rollout(seconds, target) -> None:
    """Each of 1,024 endpoints is replaced once: the scan for a free slot must not be seen."""
    table = Endpoints(1024)
    names = [table.add(b"10.0.0.1:8000") for _ in range(1024)]

    def replace_all() -> None:
        for index, name in enumerate(names):
            table.remove(*name)
            names[index] = table.add(b"10.0.0.1:8000")

    target("endpoints: replace one of 1,024", seconds(replace_all) * 1e6 / 1024, 5.0, "us")
