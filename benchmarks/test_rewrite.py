from picker._core.rewrite import Rewrites


def test_decision(seconds, target) -> None:
    rules = [("o", f"model-{number}", ((f"v1-{number}", 90), (f"v2-{number}", 10))) for number in range(1000)]
    choose = Rewrites(rules).choose
    took = seconds(lambda: [choose(b"model-500", number) for number in range(1000)])
    target("rewrite: decision among 1,000 rules, with the Python call", took * 1e3, 0.5, "us")
