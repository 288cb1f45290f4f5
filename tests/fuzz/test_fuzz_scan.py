"""Mutated documents: the scanner and `json.loads` must agree on what is JSON and on what it says."""

import json
import re
from array import array
from pathlib import Path

import pytest
from typing_extensions import Buffer

from picker._core.scan import Scanner
from tests.model import scan as model
from tests.support.fuzz import kept, mutants

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
WORDS = r"""null true false NaN Infinity -Infinity [] {} "" [1,2] {"a":1} "a": [[ ]] {{ }} // ' abcdefgh
00 -0 1. .5 0.0 1e 1e5 -1 12345678 4294967295 4294967296 18446744073709551616
\u \ud800 \udc00 \uD83D\uDE00 \u12 \u000G \x \\ \" \n"""
NOT_ASCII = ["é", "中", "😀", "\ud800", "\udc00", "\ufeff", "\xa0"]
NOT_UTF8 = [bytes.fromhex(text) for text in "c180 c1bf e08080 f0808080 f4908080 c3 e4b8 f09f98".split()]
TOKENS = [
    *(bytes((byte,)) for byte in b'{}[]:,"\\ \t\n\r\0\x0b\x1f\x7f\x80\xff0123456789-+.eEu'),
    *(word.encode() for word in WORDS.split()),
    *(text.encode("utf-8", "surrogatepass") for text in NOT_ASCII),
    *NOT_UTF8,
    *(b", ", b"        "),
]


def exactly(body: bytes) -> Buffer:
    """The body in a block that ends where it does, so that a sanitized build sees a read of even one byte too many."""
    return array("B", body)


def refused_at(scanner: Scanner, body: bytes) -> int | None:
    """Offset of the byte that the scanner calls wrong; None if it takes the body."""
    try:
        scanner.scan(exactly(body))
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
    scanner.scan(exactly(body))
    scanner._check()
    assert model.rebuild(scanner, body) == expected


def test_agrees_with_json_loads() -> None:
    scanner = Scanner()
    for case, body in mutants(DOCUMENTS, TOKENS, seed=SEED):
        try:
            check(scanner, body)
        except Exception as error:
            error.add_note(f"case {case}: {body!r}")
            raise


@pytest.mark.parametrize("path", kept("scan"), ids=lambda path: path.stem)
def test_kept_cases(path: Path) -> None:
    check(Scanner(), path.read_bytes())
