import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picker._core import form
from tests.model import form as model
from tests.support.builds import debug_build_only
from tests.support.leaks import assert_flat, failing_allocations

SOUND = b"RIFF\r\n\0\xff" + bytes(range(256)) * 40


def part(name: bytes, content: bytes, *more: bytes) -> bytes:
    disposition = b'Content-Disposition: form-data; name="%b"' % name
    return b"\r\n".join((disposition, *more, b"", content))


def sound(content: bytes = SOUND) -> bytes:
    head = b'content-disposition: form-data; name="file"; filename="a;\\"b.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return head + content


def body(*parts: bytes, boundary: bytes = b"xyz") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, each) for each in parts) + b"--%b--\r\n" % boundary


def test_model_prompt_and_files_of_a_form() -> None:
    text = body(sound(), part(b"model", b"whisper"), part(b"prompt", b"Words: \r\nZyx", b"Content-Type: text/plain"))
    found = form.read(text, b"xyz")
    assert found == model.read(text, b"xyz")
    assert found is not None
    assert (found["model"], found["prompt"], found["files"]) == (b"whisper", b"Words: \r\nZyx", 1)
    assert found["tokens"] == (len("Words: \r\nZyx") + 2 + 1024 + 3) // 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"preamble\r\n" + body(part(b"model", b"m")) + b"epilogue", b"m"),
        (b"--xyz \t\r\n" + part(b"model", b"m") + b"\r\n--xyz--", b"m"),
        (body(part(b"model", b"a"), part(b"model", b"b")), b"b"),
        (body(part(b"model", b"")), b""),
        (body(part(b"model", b"m\r\n--xyzz\r\n-- xyz\r\n--xy")), b"m\r\n--xyzz\r\n-- xyz\r\n--xy"),
        (body(b"CONTENT-DISPOSITION:form-data;NAME=model\r\n\r\nm"), b"m"),
        (body(b'X: y\r\nContent-Disposition: form-data; x=";name=a"; name="model"; y\r\n\r\nm'), b"m"),
        (body(b'Content-Disposition: form-data; name="mod\\el"\r\n\r\nm'), b""),
        (body(b'Content-Disposition: form-data; name="model"; filename=""\r\n\r\nm'), b""),
        (body(b"Content-Disposition: form-data; name=model; FileName*=UTF-8''x\r\n\r\nm"), b""),
        (body(b"\r\nno name"), b""),
        (body(), b""),
    ],
)
def test_how_forms_are_written(text: bytes, expected: bytes) -> None:
    found = form.read(text, b"xyz")
    assert found is not None
    assert found["model"] == expected
    assert b";name=a" in text or found == model.read(text, b"xyz")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"--xyz",
        b"--xyz\r\n",
        b"--xyz\n" + part(b"model", b"m") + b"\n--xyz--\n",
        b"--xyz\r\n" + part(b"model", b"m"),
        body(part(b"model", b"m"))[:-4],
        b"--xyz\r\nContent-Disposition: form-data; name=model\r\n--xyz--",
        body(part(b"model", b"m"), boundary=b"zyx"),
        body(part(b"model", b"m", b"x: " + b"y" * 9000)),
        b"--xyz\r\n--xyz\r\n" + part(b"model", b"m") + b"\r\n--xyz--",
        b"--xyz\r\nContent-Disposition: form-data; name=model\r\n\r\n--xyz--",
        b'{"model":"m"}',
    ],
)
def test_what_is_no_form_is_not_read(text: bytes) -> None:
    assert form.read(text, b"xyz") is None
    assert model.read(text, b"xyz") is None


@pytest.mark.parametrize("boundary", [b"", b"x" * 71])
def test_a_boundary_has_up_to_70_bytes(boundary: bytes) -> None:
    assert form.read(body(part(b"model", b"m"), boundary=boundary), boundary) is None
    assert form.read(body(part(b"model", b"m"), boundary=b"x" * 70), b"x" * 70)


def test_files_are_told_apart_and_stand_for_256_tokens_each() -> None:
    large = b"x" * 200_000
    files = [SOUND, SOUND + b"x", large, large + b"x", b"y" + large[1:], b""]
    found = [form.read(body(sound(each)), b"xyz") for each in files]
    assert all(each and each["tokens"] == 257 for each in found)
    assert len({str(each) for each in found}) == len(files)
    assert [each and each["tokens"] for each in (form.read(body(*[sound()] * 70), b"xyz"),)] == [64 * 256 + 1]


NAMES = st.sampled_from([b"model", b"prompt", b"file", b"Model", b"", b'a"b'])
CONTENT = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"\r\n", b"--", b"ab", b"a", b"x" * 300]), max_size=8).map(
    b"".join
)
HEADS = st.sampled_from([b'name="%b"', b"name=%b", b'filename="x"; name="%b"', b'name="%b"; filename=x', b"name %b"])


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        head = draw(HEADS) % draw(NAMES)
        parts.append(b"Content-Disposition: form-data; " + head + b"\r\n\r\n" + draw(CONTENT))
    text = body(*parts, boundary=b"ab")
    return draw(CONTENT) + text[: len(text) - draw(st.sampled_from([0, 0, 0, 2, 4, 9]))]


@settings(max_examples=300)
@given(forms(), st.sampled_from([b"ab", b"a"]), st.integers(0, 2**64 - 1), st.sampled_from([1, 3, 1024]))
def test_equals_the_model(text: bytes, boundary: bytes, seed: int, blocks: int) -> None:
    assert form.read(text, boundary, seed, blocks=blocks) == model.read(text, boundary, seed, blocks)


def test_leaks_nothing() -> None:
    text = body(sound(), part(b"model", b"m"))

    def each() -> None:
        form.read(text, b"xyz")
        form.read(text[:-9], b"xyz")

    assert_flat(each, calls=50)


@debug_build_only
def test_survives_failing_allocations() -> None:
    assert failing_allocations(lambda: form.read(body(sound()), b"xyz")) > 0
