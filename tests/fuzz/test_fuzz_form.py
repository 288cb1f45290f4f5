"""Mutated forms: the reader and its model agree on every one."""

from picker._core import form
from tests.core.test_form import body, part, sound
from tests.model import form as model
from tests.support.fuzz import CASES, mutants

SEED = 20_261_122
FORMS = [
    body(part(b"model", b"whisper-large"), sound(b"RIFF\r\n--xy\r\n" * 20), part(b"prompt", b"Words.")),
    b"preamble\r\n" + body(part(b"prompt", b"a cat", b"Content-Type: text/plain; charset=utf-8")) + b"epilogue",
    body(sound(b""), sound(b"x" * 400), part(b"model", b"")),
    body(),
]
TOKENS = [
    *(b"\r\n", b"\r", b"\n", b"--", b"--xyz", b"--xyz--", b"--xyz\r\n", b"\r\n--xyz", b"\r\n\r\n", b"; ", b'"', b"\\"),
    *(b"name=", b'name="model"', b'filename="x"', b"filename*=x", b"Content-Disposition: form-data", b"\t", b":", b"="),
]


def test_mutated_forms() -> None:
    read = 0
    for number, text in mutants(FORMS, TOKENS, seed=SEED):
        found = form.read(text, b"xyz", number, blocks=8)
        assert found == model.read(text, b"xyz", number, 8), f"form {number}: {text!r}"
        read += found is not None
    assert CASES // 10 < read < CASES
