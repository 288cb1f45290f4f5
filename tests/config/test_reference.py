"""The settings, their table, and an effective configuration told in words."""

import dataclasses

import pytest

from picker.config import DEFAULT_CONFIG, load_config
from picker.config.describe import describe
from picker.config.reference import GROUPS, field_docs, options, settings_table, shown_default
from picker.config.settings import ListenSettings, ServeSettings
from tests.support.config_samples import FOLDER


@pytest.mark.parametrize("group", [*GROUPS.values(), ServeSettings], ids=lambda group: group.__name__)
def test_every_setting_is_documented(group: type) -> None:
    documented = field_docs(group)
    plain = {field.name for field in dataclasses.fields(group) if field.default_factory is dataclasses.MISSING}
    assert plain <= documented.keys()


def test_every_group_is_a_field_of_the_whole() -> None:
    assert {name: type(getattr(ServeSettings(), name)) for name in GROUPS} == GROUPS


def test_the_table_has_a_row_per_flag() -> None:
    rows = settings_table().splitlines()
    flags = [field.metadata["flag"] for group in GROUPS.values() for field in options(group)]
    assert len(flags) == len(set(flags)) == len(rows) - 2
    assert all(row.count("|") == 5 for row in rows)
    assert "| `--grpc-port` | `9002` | port | Port of the ext_proc server that the gateway calls. |" in rows
    assert any(row.startswith("| `--body-cap` | `64Mi` | bytes |") for row in rows)
    assert any(row.startswith("| `--drain-timeout` | `30s` | duration |") for row in rows)


def test_defaults_are_shown_as_one_writes_them() -> None:
    shown = {field.name: shown_default(field) for field in options(ListenSettings)}
    assert (shown["secure_serving"], shown["shell"], shown["cert_path"]) == ("true", "auto", "")


def test_the_default_configuration_in_words() -> None:
    assert describe(DEFAULT_CONFIG) == (
        "profile default\n"
        "  scorers\n"
        "    1 × ttft-scorer  priorPrefillTokensPerSecond=15000 residentTokenWeight=0.05 uncachedTokenWeight=2"
        " waitingRequestTokens=512\n"
        "  picker\n"
        "    max-score-picker  maxNumOfEndpoints=1\n"
        "flow control\n"
        "  room for requests by adaptive-detector\n"
        "  all priorities from 0 wait at most 60s, at most 5000 requests, 1GB; flows by tokens, fcfs\n"
        "  no endpoints: 503 at once\n"
        "  flows by x-llm-d-inference-fairness-id, x-gateway-inference-fairness-id\n"
        "  priorities below 0: 429 where there is no room\n"
    )


def test_a_configuration_in_words() -> None:
    config = load_config((FOLDER / "payload-agnostic.yaml").read_text(), source="f")
    assert describe(config).partition("flow control\n")[0] == (
        "profile default\n"
        "  filters\n"
        "    decode-filter\n"
        "  scorers\n"
        "    1 × active-request-scorer  idleThreshold=2 maxBusyScore=0.9\n"
        '    0.5 × session-affinity-scorer  strategy="encoded_endpoint_header" headerName="x-session-token" '
        "evictionTtlSeconds=300 evictionSweepSeconds=10\n"
        "  picker\n"
        "    weighted-random-picker  maxNumOfEndpoints=2\n"
        "beside it\n"
        "  passthrough-parser\n"
    )


def test_names_durations_and_warnings_in_words() -> None:
    text = describe(load_config((FOLDER / "flow-control.yaml").read_text(), source="f"))
    assert '    label-selector-filter (named h100)  matchLabels={"gpu":"h100"} matchExpressions=[' in text
    assert "metricsStalenessThreshold=1s" in text
    assert "warnings" not in text
    text = describe(load_config((FOLDER / "legacy-gie.yaml").read_text(), source="f"))
    assert "\nwarnings (3)\n  f:9: plugins[2].parameters.hashBlockSize: this has no effect" in text
