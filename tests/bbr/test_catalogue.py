"""`--plugin` to steps: the types there are, what they take, and what is wrong with what."""

from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import msgspec
import pytest

from picker._core.bbr import STEP_BASE, STEP_FIELD, STEP_PYTHON
from picker.bbr import catalogue
from picker.bbr.catalogue import compile_plugins
from picker.bbr.plugins import Message, Plugin
from picker.errors import UsageError

HERE = "tests.bbr.test_catalogue"


class Parameters(msgspec.Struct):
    word: str
    often: int = 1


class Guard(Plugin):
    parameters = Parameters
    headers: ClassVar[tuple[str, ...]] = ("X-Risk",)
    sees_bodies = True

    def __init__(self, parameters: Parameters) -> None:
        if parameters.often < 1:
            raise ValueError("often is above 0")
        self.given = parameters

    def on_request(self, message: Message) -> None: ...
    def on_response(self, message: Message) -> None: ...


class Loose:
    """Not derived from anything."""

    def __init__(self, parameters: Any) -> None:
        self.given = parameters

    def on_response(self, message: Message) -> None: ...


class Idle(Plugin):
    """Does nothing at all."""


def test_the_default_sets_the_model_and_its_base() -> None:
    plan = compile_plugins()
    assert [step[:3] for step in plan.request] == [
        (STEP_FIELD, b"model", b"x-gateway-model-name"),
        (STEP_BASE, b"model", b"x-gateway-base-model-name"),
    ]
    assert (plan.response, plan.headers, plan.fields) == ([], [], {0: "model", 1: "model"})
    assert [(record.type, record.name) for record in plan.request_records] == [
        ("body-field-to-header", "model-to-header"),
        ("base-model-to-header", "base-model-to-header"),
    ]


def test_built_in_types_take_field_and_header() -> None:
    plan = compile_plugins(['body-field-to-header:u:{"fieldName":"user","headerName":"X-User"}'])
    kind, field, header, refusal = plan.request[0]
    assert (kind, field, header) == (STEP_FIELD, b"user", b"x-user")
    assert msgspec.json.decode(refusal)["error"]["param"] == "user"


def test_plugins_by_dotted_path() -> None:
    plan = compile_plugins(
        [
            f'{HERE}.Guard:g:{{"word":"a:b","failureMode":"closed","budget":"50ms"}}',
            "body-field-to-header:m",
            f'{HERE}.Loose:l:{{"any":{{"thing":1}}}}',
        ]
    )
    assert [step[0] for step in plan.request] == [STEP_PYTHON, STEP_FIELD]
    assert plan.response == [(STEP_PYTHON, True, True), (STEP_PYTHON, False, False)]
    assert plan.headers == [b"x-risk"]
    guard, loose = plan.response_records
    assert guard.plugin is plan.request_records[0].plugin
    assert (guard.plugin.given, guard.is_closed, guard.budget_s) == (Parameters("a:b"), True, 0.05)  # type: ignore[union-attr]
    assert (loose.plugin.given, loose.is_closed) == ({"any": {"thing": 1}}, False)  # type: ignore[union-attr]


def test_plugins_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("word-guard", f"{HERE}:Guard", catalogue.GROUP)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [entry] if group == catalogue.GROUP else [])
    assert compile_plugins(['word-guard:g:{"word":"x"}']).request_records[0].type == "word-guard"
    with pytest.raises(UsageError, match='did you mean "word-guard"'):
        compile_plugins(["word-gard:g"])


@pytest.mark.parametrize(
    ("specs", "why"),
    [
        (["x"], "expected <type>:<name>"),
        ([":x"], "expected <type>:<name>"),
        (["body-field-to-header:"], "expected <type>:<name>"),
        (["body-field-to-header:a", "base-model-to-header:a"], "there is a plugin 'a' already"),
        (["body-field-to-header:a:{"], "not JSON"),
        (["body-field-to-header:a:[]"], "a JSON object"),
        (['body-field-to-header:a:{"fieldname":"x"}'], 'did you mean "fieldName"'),
        (['body-field-to-header:a:{"fieldName":1}'], "Expected `str`"),
        (['body-field-to-header:a:{"headerName":"a b"}'], "not the name of a header"),
        (["body-field-to-heade:a"], 'did you mean "body-field-to-header"'),
        (["nowhere.At:a"], "No module named 'nowhere'"),
        ([f"{HERE}.Nothing:a"], "has no attribute 'Nothing'"),
        ([f"{HERE}.Idle:a"], "neither on_request nor on_response"),
        ([f"{HERE}.Guard:a"], "missing required field `word`"),
        ([f'{HERE}.Guard:a:{{"word":"x","wrong":1}}'], "unknown field 'wrong'"),
        ([f'{HERE}.Guard:a:{{"word":"x","often":0}}'], "often is above 0"),
        ([f'{HERE}.Guard:a:{{"word":"x","failureMode":"shut"}}'], '"open" or "closed"'),
        ([f'{HERE}.Guard:a:{{"word":"x","budget":"soon"}}'], "not a duration"),
        ([f"body-field-to-header:a{number}" for number in range(17)], "at most 16 plugins"),
    ],
)
def test_what_is_wrong_is_said(specs: list[str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_plugins(specs)
    assert why in str(caught.value)


def test_what_is_wrong_cannot_forge_a_line() -> None:
    with pytest.raises(UsageError) as caught:
        compile_plugins(["a\nb:c"])
    assert "\n" not in str(caught.value)
