"""Flags of `picker bbr` to settings; what is refused, what is warned of."""

import sys
import types

import pytest

from picker.cli import bbr
from picker.cli.flags import FlagParser
from picker.cli.main import main
from picker.config.bbr import BbrListenSettings, BbrSettings
from picker.config.settings import BodyRoutingSettings, LimitSettings, LogSettings
from picker.errors import UsageError


def settings(*words: str) -> BbrSettings:
    parser = FlagParser(prog="picker bbr")
    bbr.configure(parser)
    return bbr.settings_from(parser.parse(words))


def test_defaults_are_those_of_the_reference() -> None:
    found = settings()
    assert found.listen == BbrListenSettings(grpc_max_recv_msg_bytes=2 * (64 << 20))
    assert (found.listen.grpc_port, found.listen.grpc_health_port, found.listen.metrics_port) == (9004, 9005, 9090)
    assert (found.listen.secure_serving, found.listen.streaming) == (True, False)
    assert (found.limits, found.routing, found.log) == (LimitSettings(), BodyRoutingSettings(), LogSettings())
    assert found.warnings == ()


def test_flags_reach_their_settings() -> None:
    found = settings(
        *("--grpc-port", "1", "--grpc-health-port=2", "--metrics-port=3", "--secure-serving=false", "--streaming"),
        *("--cert-path=c", "--enable-cert-reload", "--v=4", "--zap-encoder=json", "--body-cap=1Mi"),
        *("--plugin", "a:b", '--plugin=c:d:{"e": 1}', "--base-models-file=f"),
    )
    assert (found.listen.grpc_port, found.listen.grpc_health_port, found.listen.metrics_port) == (1, 2, 3)
    assert (found.listen.secure_serving, found.listen.streaming) == (False, True)
    assert (found.listen.cert_path, found.listen.enable_cert_reload) == ("c", True)
    assert (found.log.verbosity, found.log.encoder) == (4, "json")
    assert (found.limits.body_cap_bytes, found.listen.grpc_max_recv_msg_bytes) == (1 << 20, 16 << 20)
    assert (found.routing.plugins, found.routing.base_models_file) == (("a:b", 'c:d:{"e": 1}'), "f")


def test_what_has_no_effect_is_warned_of() -> None:
    warnings = settings("--tracing", "--enable-pprof", "--metrics-endpoint-auth=true", "--zap-devel").warnings
    assert [warning.split()[0] for warning in warnings] == [
        "--enable-pprof",
        "--tracing",
        "--zap-devel",
        "--metrics-endpoint-auth",
    ]
    assert settings("--tracing=false", "--metrics-endpoint-auth=false", "--streaming=false").warnings == ()


@pytest.mark.parametrize(
    "words",
    [
        ("--grpc-port=9005",),
        ("--metrics-port=9004",),
        ("--grpc-health-port=9090",),
    ],
)
def test_ports_must_differ(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="they must differ"):
        settings(*words)
    assert settings("--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0").listen.grpc_port == 0


@pytest.mark.parametrize("port", ["65536", "-1", "x", ""])
def test_ports_are_ports(port: str) -> None:
    with pytest.raises(UsageError, match="is not a port"):
        settings(f"--grpc-port={port}")


def test_flags_of_the_other_command_are_unknown() -> None:
    for flag in ("--bbr-port=1", "--bbr-plugin=a:b", "--pool-name=x", "--port=1"):
        with pytest.raises(UsageError, match="unknown flag"):
            settings(flag)


def test_the_command_runs_what_the_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[BbrSettings] = []
    module = types.ModuleType("picker.bbr.app")
    module.serve = lambda given: taken.append(given) or 0  # type: ignore[attr-defined, func-returns-value]
    monkeypatch.setitem(sys.modules, "picker.bbr.app", module)
    assert main(["bbr", "--grpc-port=7"]) == 0
    assert taken[0].listen.grpc_port == 7
    assert main(["bbr", "--grpc-port=9005"]) == 2
