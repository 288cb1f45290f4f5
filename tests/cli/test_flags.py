"""Flags as pflag reads them."""

import argparse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picker.cli import flags
from picker.cli.flags import FlagParser
from picker.errors import UsageError


def parser() -> FlagParser:
    made = FlagParser(prog="picker test")
    made.flag("name", default="none", help="any text, 100 % of it")
    made.flag("port", default=1, kind=flags.port)
    made.flag("wait", default=0.0, kind=flags.duration)
    made.flag("size", default=0, kind=flags.size)
    made.flag("mode", default="a", kind=flags.choice("a", "b"))
    made.flag("v", default=2, kind=flags.count)
    made.switch("tls", default=True)
    made.switch("log")
    made.add_argument("--old-style", action="store_true")
    made.add_argument("--many", action="append", default=[])
    made.add_argument("words", nargs="*")
    return made


def parse(*words: str) -> argparse.Namespace:
    return parser().parse(words)


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults() -> None:
    assert vars(parse()) == {
        "name": "none",
        "port": 1,
        "wait": 0.0,
        "size": 0,
        "mode": "a",
        "v": 2,
        "tls": True,
        "log": False,
        "old_style": False,
        "many": [],
        "words": [],
    }


@pytest.mark.parametrize("words", [("--name", "x"), ("--name=x",), ("--name", "y", "--name=x")])
def test_a_value_follows_or_is_joined_and_the_last_counts(words: tuple[str, ...]) -> None:
    assert parse(*words).name == "x"


@pytest.mark.parametrize("value", ["", "-", "--port", "-v", "a=b", "--", "x y", "a: b\n- c\n", "=", "é"])
def test_a_value_may_be_anything(value: str) -> None:
    assert parse("--name", value, "--port", "7").name == value
    assert parse(f"--name={value}", "--port=7").name == value
    assert parse(f"--name={value}", "--port=7").port == 7


def test_kinds() -> None:
    found = parse(
        "--port", "9002", "--wait=1m30s", "--size", "10MiB", "--mode=b", "--old-style", "--many=1", "--many", "2"
    )
    assert (found.port, found.wait, found.size, found.mode) == (9002, 90.0, 10 << 20, "b")
    assert (found.old_style, found.many) == (True, ["1", "2"])


@pytest.mark.parametrize("words", [("-v", "4"), ("-v4",), ("-v=4",), ("--v", "4"), ("--v=4",)])
def test_verbosity(words: tuple[str, ...]) -> None:
    assert parse(*words).v == 4


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--log", True),
        ("--log=true", True),
        ("--log=1", True),
        ("--log=T", True),
        ("--log=false", False),
        ("--log=0", False),
    ],
)
def test_booleans(word: str, value: bool) -> None:
    assert parse(word).log is value


def test_a_boolean_never_swallows_a_word() -> None:
    found = parse("--log", "false", "--tls=false")
    assert (found.log, found.words, found.tls) == (True, ["false"], False)
    assert parse("--old-style=false").old_style is False


def test_two_dashes_end_the_flags() -> None:
    assert parse("--log", "--", "--name", "-v").words == ["--name", "-v"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nmae", "x"), "picker test: unknown flag \"--nmae\"; did you mean --name?; see 'picker test --help'"),
        (("--zzzzzz",), "picker test: unknown flag \"--zzzzzz\"; see 'picker test --help'"),
        (
            ("-name", "x"),
            "picker test: unknown flag \"-name\"; long flags take two dashes: --name; see 'picker test --help'",
        ),
        (("-x",), "picker test: unknown flag \"-x\"; see 'picker test --help'"),
        (("--nam=x",), "picker test: unknown flag \"--nam\"; did you mean --name?; see 'picker test --help'"),
        (("--name",), "picker test: flag --name needs a value, as in --name=VALUE; see 'picker test --help'"),
        (("-v",), "picker test: flag --v needs a value, as in --v=VALUE; see 'picker test --help'"),
        (
            ("--log=maybe",),
            "picker test: argument --log: \"maybe\" is neither true nor false; see 'picker test --help'",
        ),
        (
            ("--port=70000",),
            "picker test: argument --port: \"70000\" is not a port (0-65535); see 'picker test --help'",
        ),
        (("--port=",), "picker test: argument --port: \"\" is not a port (0-65535); see 'picker test --help'"),
        (
            ("--v=-1",),
            "picker test: argument -v/--v: \"-1\" is not a whole number of 0 or more; see 'picker test --help'",
        ),
        (("--mode", "c"), "picker test: argument --mode: \"c\" is not one of: a, b; see 'picker test --help'"),
        (
            ("--wait", "5"),
            "picker test: argument --wait: '5' is not a duration; "
            "write a number and a unit, such as 50ms, 2s or 1m30s; see 'picker test --help'",
        ),
        (
            ("--size", "5X"),
            "picker test: argument --size: '5X' is not a quantity; "
            "write a number with a unit if any, such as 500M or 64Mi; see 'picker test --help'",
        ),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str) -> None:
    assert refusal(*words) == message


def test_a_word_where_none_belongs() -> None:
    made = FlagParser(prog="picker test")
    made.switch("tls", default=True)
    with pytest.raises(UsageError) as caught:
        made.parse(["--tls", "false"])
    assert str(caught.value) == (
        "picker test: unrecognized arguments: false "
        "(a boolean flag takes its value after '=', as in --flag=false); see 'picker test --help'"
    )


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--log", "--help")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "--port PORT" in printed
    assert "any text, 100 % of it" in printed


WORDS = st.one_of(
    st.sampled_from(
        ["--name", "--port", "--log", "--tls=false", "-v", "-v4", "--v=", "--", "-", "--many", "-h=", "--port=1"]
    ),
    st.text(max_size=8),
    st.text("-=vname4 ", max_size=8),
).filter(lambda word: word.partition("=")[0] not in ("-h", "--help") and not word.startswith("-h"))


@given(st.lists(WORDS, max_size=6))
def test_any_words_are_parsed_or_refused(words: list[str]) -> None:
    try:
        parse(*words)
    except UsageError as error:
        assert str(error).startswith("picker test: ")


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(max_size=8),
    "port": st.integers(0, 65535),
    "v": st.integers(0, 10**9),
    "mode": st.sampled_from("ab"),
    "log": st.booleans(),
    "tls": st.booleans(),
}


@st.composite
def given_flags(draw: st.DrawFn) -> tuple[list[str], dict[str, object]]:
    """A command line and what it must come to."""
    words, wanted = [], {}
    for name in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=8)):
        value = draw(VALUES[name])
        wanted[name] = value
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, bool):
            words.append(f"--{name}" if value and draw(st.booleans()) else f"--{name}={text}")
        elif draw(st.booleans()):
            words.append(f"--{name}={text}")
        else:
            words += [f"--{name}", text]
    return words, wanted


@given(given_flags())
def test_what_is_written_is_what_is_read(case: tuple[list[str], dict[str, object]]) -> None:
    words, wanted = case
    found = vars(parse(*words))
    assert {name: found[name] for name in wanted} == wanted
    assert found["words"] == []
