"""Whatever the bytes, `parse_resources` answers with objects or a `ResourcesError` that points into the text."""

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core.rewrite import Rewrites
from picker.config.document import drain
from picker.errors import ResourcesError
from picker.resources.parse import KINDS, parse_resources
from picker.resources.rules import rewrite_rules
from tests.config.test_fuzz_config import mutated
from tests.resources.test_parse import SAMPLES
from tests.support.config_samples import line_count

CASES = int(os.environ.get("PICKER_FUZZ_CASES", "20000")) // 10  # a case is a whole file, some 0.5 ms
FILES = sorted(SAMPLES.iterdir())


def answered(data: bytes) -> bool:
    """Whether the text is taken; anything but a well-formed refusal is a failure, also of what it comes to."""
    try:
        objects = drain(parse_resources(data, source="f"))
    except ResourcesError as error:
        lines = line_count(data.decode(errors="replace"))
        assert error.line is None or 1 <= error.line <= lines + 1
        assert str(error).startswith("f:")
        assert str(error).isprintable()
        assert len(str(error)) < 2000
        return False
    Rewrites(rewrite_rules(objects))._check()
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_mutated_samples(path: Path) -> None:
    rng = random.Random(path.name)
    text = path.read_text()
    taken = sum(answered(mutated(text, rng).encode(errors="surrogatepass")) for _ in range(CASES // len(FILES)))
    assert taken  # small accidents often do no harm; if none is taken, the mutations are too wild to mean anything


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    answered(data)
    answered(b"apiVersion: v1\nkind: List\nitems:\n- " + data)


MEMBERS = st.sampled_from(
    """
    apiVersion kind metadata name namespace creationTimestamp labels spec poolRef group rules matches model type value
    targets modelRewrite weight priority modelName criticality targetModels items status
    """.split()
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["Exact", "Critical", "2026-01-01T00:00:00Z", "v1", *KINDS])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(MEMBERS | st.text(max_size=3), inner, max_size=5),
    max_leaves=20,
)


@given(st.sampled_from(list(KINDS)), st.dictionaries(MEMBERS, VALUES, max_size=5))
@settings(max_examples=200)
def test_any_structure(kind: str, spec: dict[str, object]) -> None:
    head = {"apiVersion": KINDS[kind][1][-1], "kind": kind, "metadata": {"name": "n"}}
    answered(json.dumps(head | {"spec": spec}).encode())
    answered(json.dumps(head | {"spec": {"poolRef": {"name": "p"}} | spec}).encode())
    answered(json.dumps(head | spec).encode())
