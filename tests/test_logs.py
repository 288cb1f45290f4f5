"""Log lines: one JSON object or one plain line each, whatever they hold."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest

from picker.logs import configure_logging


class Stderr:
    """What was written to it so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._seen = capsys, ""

    def getvalue(self) -> str:
        self._seen += self._capsys.readouterr().err
        return self._seen


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield Stderr(capsys)
    root.handlers[:], level = before
    root.setLevel(level)
    logging.captureWarnings(False)


LOG = logging.getLogger("picker.test")


def test_json_lines(stderr: Stderr) -> None:
    configure_logging(2, "json")
    LOG.info(
        "scraped %d",
        3,
        extra={
            "endpoint": "10.0.0.1:80",
            "level": "mine",
            "odd": {
                1,
            },
        },
    )
    line = json.loads(stderr.getvalue())
    assert list(line) == ["ts", "level", "logger", "msg", "endpoint", "odd"]
    assert (line["level"], line["logger"], line["msg"]) == ("info", "picker.test", "scraped 3")
    assert (line["endpoint"], line["odd"]) == ("10.0.0.1:80", "{1}")


def test_json_lines_carry_the_stack(stderr: Stderr) -> None:
    configure_logging(2, "json")
    try:
        raise ValueError("boom")
    except ValueError:
        LOG.exception("failed")
    line = json.loads(stderr.getvalue())
    assert line["msg"] == "failed"
    assert line["stack"].endswith("ValueError: boom")


@pytest.mark.parametrize("encoder", ["json", "console"])
def test_nothing_in_a_message_makes_another_line(stderr: Stderr, encoder: str) -> None:
    configure_logging(2, encoder)
    LOG.info("one\ntwo\x1b[31m", extra={"model": "a\nERROR forged"})
    assert stderr.getvalue().count("\n") == 1
    assert "\x1b" not in stderr.getvalue()


def test_console_lines_show_key_and_value(stderr: Stderr) -> None:
    configure_logging(2, "console")
    LOG.warning("left out", extra={"endpoint": "10.0.0.1:80"})
    assert stderr.getvalue().endswith(" W picker.test: left out endpoint=10.0.0.1:80\n")


def test_auto_is_json_unless_on_a_terminal(stderr: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging(2, "auto")
    LOG.info("one")
    json.loads(stderr.getvalue())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure_logging(2, "auto")
    LOG.info("two")
    assert stderr.getvalue().endswith(" I picker.test: two\n")


@pytest.mark.parametrize(
    ("verbosity", "shown"), [(0, "we"), (1, "we"), (2, "iwe"), (3, "iwe"), (4, "diwe"), (9, "diwe")]
)
def test_verbosity(stderr: Stderr, verbosity: int, shown: str) -> None:
    configure_logging(verbosity, "json")
    for name in ("debug", "info", "warning", "error"):
        getattr(LOG, name)("x")
    assert "".join(json.loads(line)["level"][0] for line in stderr.getvalue().splitlines()) == shown


def test_warnings_are_logged_too(stderr: Stderr) -> None:
    configure_logging(2, "json")
    warnings.simplefilter("always")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert json.loads(stderr.getvalue())["logger"] == "py.warnings"
