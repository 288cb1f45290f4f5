"""Mutated metadata on the way to a claim: never a crash, and whatever is found is a key like any other."""

from picker._core.quotas import Quota
from tests.core.test_quotas import REQUESTS, TEXT, field, metadata
from tests.support.fuzz import mutants

SOURCES = (
    ("claim", "n", ("a",)),
    ("claim", "n", ("a", "b")),
    ("claim", "n", ("a", "b", "c", "d")),
    ("claim", "envoy.filters.http.jwt_authn", ("payload", "sub")),
)
CORPUS = [
    metadata(b"n", TEXT, b"a"),
    metadata(b"n", TEXT, b"a", b"b"),
    metadata(b"n", field(6, field(1, TEXT)), b"a", b"b", b"c", b"d"),
    metadata(b"envoy.filters.http.jwt_authn", TEXT, b"payload", b"sub") + metadata(b"n", TEXT, b"a"),
]
TOKENS = [bytes([byte]) for byte in (0, 1, 10, 18, 26, 34, 42, 50, 0x7F, 0x80, 0xFF)] + [TEXT, b"sub", b"a"]


def test_metadata_of_any_form_is_read() -> None:
    quota = Quota(seed=1, counters=64)
    quota.set_rules(
        {"name": str(number), "source": source, "tiers": [[("second", 1, REQUESTS)]], "default": 0, "absent": 0}
        for number, source in enumerate(SOURCES)
    )
    for case, text in mutants(CORPUS, TOKENS):
        hold = quota.hold((), text)
        assert hold is not None
        assert hold.reserve(b"m", 0, 0, case * 10**8) in ("ok", "limit")
        hold.give_back(case * 10**8)
    quota._check()
    assert quota.figures["holds"] == 0
