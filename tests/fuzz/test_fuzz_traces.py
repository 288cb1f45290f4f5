"""Traces from anywhere: a reader makes a load of a file, or says which file and line it cannot read."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from picker.sim.traces import FORMATS, TraceError
from tests.sim.test_traces import AZURE, check
from tests.support.fuzz import CASES, mutants

MOONCAKE = (
    b'{"timestamp": 0, "input_length": 1200, "output_length": 600, "hash_ids": [1, 2, 3], "session_id": "a"}\n'
    b'{"input_length": 2000, "output_length": 0, "hash_ids": [1, 2, 4], "session_id": "a", "delay": 5}\n'
    b'{"created_time": 27.5, "input_tokens": 6758, "output_tokens": 500, "hash_ids": [0, 1]}\n'
)
CORPORA = {
    "mooncake": ([MOONCAKE], [b'"session_id": "a"', b"null", b"-1", b"1e400", b"[]", b"512", b"\n", b'"timestamp": 1']),
    "mooncake-delta": ([MOONCAKE], [b'"session_id": "a"', b"9999999", b"0", b"\n", b'"delay": 1']),
    "azure": ([AZURE.encode()], [b",", b"\n", b"2024-05-10 00:00:00+00:00", b"9" * 30, b"\xef\xbb\xbf", b'"']),
}


@pytest.mark.parametrize("name", CORPORA)
def test_any_file_is_read_or_refused_with_its_name(name: str, tmp_path: Path) -> None:
    corpus: Sequence[bytes]
    corpus, tokens = CORPORA[name]
    path = tmp_path / "trace"
    read = 0
    for case, text in mutants(corpus, tokens, cases=max(CASES // 20, 100)):
        path.write_bytes(text)
        try:
            load = FORMATS[name](path, 1)
        except TraceError as error:
            assert str(error).startswith(str(path)), case
            continue
        read += 1
        check(load)
    assert read > 0
