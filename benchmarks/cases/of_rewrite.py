from benchmarks.cases.case import Action, Case, Growth
from picker._core.rewrite import Rewrites


def choosing(rules: int) -> Action:
    """A thousand decisions for one model of many."""
    made = [("o", f"model-{n}", ((f"v1-{n}", 90), (f"v2-{n}", 10))) for n in range(rules)]
    choose, model = Rewrites(made).choose, b"model-%d" % (rules // 2)
    return lambda: [choose(model, number) for number in range(1000)]


CASES = [Case("rewrite: decision among 1,000 rules, with the Python call", lambda: choosing(1000), limit=0.5, per=1000)]
GROWTHS = [Growth("rewrite: decisions among n rules", choosing, 100, "1")]
