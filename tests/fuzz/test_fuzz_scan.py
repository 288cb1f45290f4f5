"""Mutated documents: the scanner and `json.loads` must agree on what is JSON and on what it says."""

import json
import re
from pathlib import Path

import pytest

from picker._core.scan import Scanner
from tests.model import scan as model
from tests.support.fuzz import Mutator, case_count, corpus

SEED = 20_240_901
CHAT = {
    "model": "llama-3",
    "messages": [
        {"role": "system", "content": 'You are "terse".\n\tAnswer in 日本語 or français… 😀'},
        {"role": "user", "content": [{"type": "text", "text": "a\\b/c\u0001\ud800"}, {"type": "image_url", "url": ""}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "arguments": '{"a": [1, 2.5e-3]}'}]},
    ],
    "stream": True,
    "max_tokens": 4294967295,
    "logit_bias": {"50256": -100, "": 0.0},
    "stop_token_ids": [0, 1, 128009, 4294967295],
    "prompt": [[1, 2, 3], [], {}, [12345678, 4294967296], [1, -2], [False]],
}
DOCUMENTS = [
    json.dumps(CHAT).encode(),
    json.dumps(CHAT, ensure_ascii=False, indent=2).encode("utf-8", "surrogatepass"),
    json.dumps(CHAT, separators=(",", ":")).encode(),
    b'\xef\xbb\xbf{"a":NaN,"b":[Infinity,-Infinity],"a":1E+400}',
    b' [\t"\\u00e9\\ud83d\\ude00\\ud83d" ,\r\n-0.0e-1 , 10 ] ',
    b'"\xed\xa0\x80\xf4\x8f\xbf\xbf\xe0\xa0\x80\xc2\x80\\/\\"\\\\\\b\\f\\n\\r\\t"',
    b"[0,10,200,3000,40000,500000,6000000,70000000,800000000,4294967295,4294967296]",
    b"[1,2,3]",
    b'{"":{"":[{"":[[[[]]]]}]}}',
    b"-12.50e+07",
]
TOKENS = [
    *(bytes((byte,)) for byte in b'{}[]:,"\\ \t\n\r\0\x1f\x7f\x80\xff0123456789-+.eEutfnNI/'),
    *(
        b"null",
        b"true",
        b"false",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"[]",
        b"{}",
        b'""',
        b"[1,2]",
        b'{"a":1}',
        b'"a":',
    ),
    *(b"\\u", b"\\ud800", b"\\udc00", b"\\uD83D\\uDE00", b"\\u12", b"\\u000g", b"\\x", b"\\\\", b'\\"'),
    *(
        b"\xc3\xa9",
        b"\xe4\xb8\xad",
        b"\xf0\x9f\x98\x80",
        b"\xed\xa0\x80",
        b"\xed\xb0\x80",
        b"\xef\xbb\xbf",
        b"\xc0\x80",
    ),
    *(b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\xe4\xb8", b"\xf0\x9f\x98"),
    *(b"00", b"-0", b"1.", b".5", b"1e", b"1e5", b"4294967295", b"4294967296", b"18446744073709551616", b"0.0"),
    *(b", ", b"  ", b"        ", b"abcdefgh", b"12345678", b"]]", b"}}", b"//", b"\x0b", b"\xc2\xa0", b"'"),
]


def refused_at(scanner: Scanner, body: bytes) -> int | None:
    """Offset of the byte that the scanner calls wrong; None if it takes the body."""
    try:
        scanner.scan(body)
    except ValueError as error:
        scanner._check()
        assert len(scanner) == 0
        return int(re.findall(r"byte (\d+)", str(error))[0])
    return None


def check(scanner: Scanner, body: bytes) -> None:
    """Scanner and model agree on `body`; all before the byte named wrong was fine, and nothing after it counts."""
    try:
        expected = model.loads(body)
    except ValueError:
        wrong = refused_at(scanner, body)
        assert wrong is not None
        assert refused_at(scanner, body[: wrong + 1]) == wrong
        assert refused_at(scanner, body[:wrong]) in (wrong, None)
        return
    scanner.scan(body)
    scanner._check()
    assert model.rebuild(scanner, body) == expected


def test_agrees_with_json_loads() -> None:
    scanner = Scanner()
    for body in Mutator(DOCUMENTS, TOKENS, SEED).cases(case_count()):
        try:
            check(scanner, body)
        except BaseException:
            print(f"failing case: {body!r}")
            raise


@pytest.mark.parametrize("path", corpus("scan"), ids=lambda path: path.stem)
def test_kept_cases(path: Path) -> None:
    check(Scanner(), path.read_bytes())
