"""Flags of `picker serve` to settings; what is refused, what is warned of."""

import sys
import types
from pathlib import Path

import pytest

from picker.cli import serve
from picker.cli.flags import FlagParser
from picker.cli.main import main
from picker.config import DEFAULT_CONFIG
from picker.config.reference import GROUPS, options
from picker.config.settings import ServeSettings
from picker.errors import ConfigError, UsageError
from tests.support.config_samples import FOLDER, HEAD

BASE = ("--endpoints-file=e.yaml", "--secure-serving=false")


def settings(*words: str, base: tuple[str, ...] = BASE) -> ServeSettings:
    parser = FlagParser(prog="picker serve")
    serve.configure(parser)
    return serve.settings_from(parser.parse([*base, *words]))


def refusal(*words: str, base: tuple[str, ...] = BASE) -> str:
    with pytest.raises(UsageError) as caught:
        settings(*words, base=base)
    return str(caught.value)


def test_defaults_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAMESPACE", raising=False)
    found, plain = settings(), ServeSettings()
    different = {
        "endpoints_file",
        "secure_serving",
        "grpc_max_recv_msg_bytes",
        "grpc_max_send_msg_bytes",
        "pool_namespace",
        "endpoint_auth",
    }
    for name in GROUPS:
        for field in options(GROUPS[name]):
            if field.name not in different:
                assert getattr(getattr(found, name), field.name) == getattr(getattr(plain, name), field.name)
    assert found.discovery.endpoints_file == "e.yaml"
    assert found.listen.secure_serving is False
    assert found.listen.grpc_max_recv_msg_bytes == found.listen.grpc_max_send_msg_bytes == 2 * (64 << 20)
    assert found.kubernetes.pool_namespace == "default"
    assert found.config is DEFAULT_CONFIG
    assert found.warnings == ()


def test_flags_reach_their_settings() -> None:
    found = settings(
        *(
            "--grpc-port",
            "1",
            "--grpc-health-port=2",
            "--metrics-port",
            "3",
            "--health-checking",
            "--bind-address",
            "::1",
        ),
        *("--drain-timeout", "5s", "--body-cap=1Mi", "--request-timeout=250ms", "--max-streams", "9"),
        *("--header-cap", "8Ki"),
        *("--grpc-max-recv-msg-size", "10MiB", "--disable-endpoint-subset-filter=true"),
        *("--metrics-staleness-threshold", "2s", "-v4", "--zap-encoder=json", "--shell", "grpcio"),
        *("--endpoints-interval", "1s", "--pool-namespace", "prod"),
        *("--resources-file", "r.yaml", "--response-model=served"),
    )
    listen, limits = found.listen, found.limits
    assert (listen.grpc_port, listen.grpc_health_port, listen.metrics_port) == (1, 2, 3)
    assert (listen.health_checking, listen.bind_address, listen.shell) == (True, "::1", "grpcio")
    assert (listen.grpc_max_recv_msg_bytes, listen.grpc_max_send_msg_bytes) == (10 << 20, 16 << 20)
    assert (limits.drain_timeout_s, limits.body_cap_bytes, limits.header_cap_bytes) == (5.0, 1 << 20, 8192)
    assert (limits.request_timeout_s, limits.max_streams) == (0.25, 9)
    assert found.routing.disable_endpoint_subset_filter
    assert (found.scrape.staleness_threshold_s, found.log.verbosity, found.log.encoder) == (2.0, 4, "json")
    assert (found.discovery.endpoints_interval_s, found.kubernetes.pool_namespace) == (1.0, "prod")
    assert (found.discovery.resources_file, found.routing.response_model) == ("r.yaml", "served")


@pytest.mark.parametrize("shell", ["wire", "grpcio", "auto"])
def test_the_shell_can_be_chosen(shell: str) -> None:
    assert settings(f"--shell={shell}").listen.shell == shell


def test_the_manifest_of_a_chart_starts() -> None:
    """The arguments existing deployments pass, apart from discovery and TLS."""
    found = settings(
        *("--pool-name", "vllm-qwen", "--pool-namespace", "default", "--pool-group", "inference.networking.k8s.io"),
        *("--v", "1", "--zap-encoder", "json", "--grpc-port", "9002", "--grpc-health-port", "9003"),
        *("--config-file", str(FOLDER / "default-plugins.yaml"), "--metrics-endpoint-auth=false", "--tracing=false"),
        *("--enable-pprof=false", "--ha-enable-leader-election=false", "--allow-experimental-plugins"),
        *("--refresh-metrics-interval", "50ms", "--model-server-metrics-path", "/metrics"),
    )
    assert found.warnings == ("--pool-name labels metrics and chooses objects: endpoints come from the endpoints file",)
    assert found.kubernetes.pools == ("default/vllm-qwen",)


TLS = ("--endpoints-file=e.yaml",)


def test_tls_is_the_default(tmp_path: Path) -> None:
    listen = settings(base=TLS).listen
    assert (listen.secure_serving, listen.cert_path) == (True, "")
    (tmp_path / "tls.crt").write_text("x")
    assert "tls.key cannot be read; --cert-path must hold tls.crt and tls.key" in refusal(
        f"--cert-path={tmp_path}", base=TLS
    )
    (tmp_path / "tls.key").write_text("x")
    listen = settings(f"--cert-path={tmp_path}", base=TLS).listen
    assert (listen.secure_serving, listen.cert_path, listen.enable_cert_reload) == (True, str(tmp_path), False)
    renewed = settings(f"--cert-path={tmp_path}", "--enable-cert-reload", base=TLS)
    assert (renewed.listen.enable_cert_reload, renewed.warnings) == (True, ())


def test_clients_are_asked_for_certificates_by_tls_alone() -> None:
    assert settings("--client-ca-file=ca.pem", base=TLS).listen.client_ca_file == "ca.pem"
    wanted = "picker serve: --client-ca-file needs TLS: leave --secure-serving at true"
    assert refusal("--client-ca-file=ca.pem") == wanted


def test_versions_and_suites() -> None:
    suite = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
    listen = settings("--tls-min-version=VersionTLS13", f"--tls-cipher-suites={suite}", base=TLS).listen
    assert (listen.tls_min_version, listen.tls_cipher_suites) == ("VersionTLS13", suite)
    assert "picker serve: --tls-min-version: HTTP/2 forbids VersionTLS11" in refusal(
        "--tls-min-version=VersionTLS11", base=TLS
    )
    assert 'picker serve: --tls-cipher-suites: "RC4" is unknown or forbidden' in refusal(
        "--tls-cipher-suites=RC4", base=TLS
    )
    assert settings("--shell=grpcio", "--tls-min-version=VersionTLS12", base=TLS).listen.tls_min_version
    for words in ("--tls-min-version=VersionTLS13", f"--tls-cipher-suites={suite}"):
        assert refusal("--shell=grpcio", words, base=TLS).endswith("can be told no other; use --shell=wire")


def test_the_configuration_may_name_the_endpoints_file() -> None:
    base = ("--secure-serving=false", f"--config-file={FOLDER / 'no-kubernetes.json'}")
    assert settings(base=base).discovery.endpoints_file == "/etc/picker/endpoints.yaml"
    assert settings("--endpoints-file=/etc/picker/endpoints.yaml", base=base).discovery.endpoints_file
    assert "no-kubernetes.json says /etc/picker/endpoints.yaml; give one" in refusal("--endpoints-file=e", base=base)


def test_configuration_from_text_or_file() -> None:
    text = HEAD + "plugins:\n- type: queue-scorer\n"
    assert settings("--config-text", text).config.source == "--config-text"
    assert "exclude each other" in refusal("--config-text", text, "--config-file=x")
    with pytest.raises(ConfigError, match=r"--config-text:3: plugin: unknown field"):
        settings("--config-text", HEAD + "plugin: []")
    with pytest.raises(ConfigError, match="cannot be read"):
        settings("--config-file=/nowhere")


def test_the_namespace_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMESPACE", "prod")
    assert settings().kubernetes.pool_namespace == "prod"
    assert settings("--pool-namespace=other").kubernetes.pool_namespace == "other"


def test_it_serves_what_the_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServeSettings] = []

    def stand_in(given: ServeSettings) -> int:
        served.append(given)
        return 5

    app = types.ModuleType("picker.app")
    app.serve = stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picker.app", app)
    monkeypatch.setattr(serve, "require_core", lambda: None)
    assert main(["serve", *BASE, "--grpc-port=7"]) == 5
    assert served[0].listen.grpc_port == 7


@pytest.mark.parametrize(
    "words", [["--grpc-prot=1"], ["--shell=wires"], [], ["--secure-serving", "false", "--endpoints-file=e"]]
)
def test_wrong_flags_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert capsys.readouterr().err.startswith("picker: error: picker serve: ")


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    printed = capsys.readouterr().out
    for group in GROUPS.values():
        for field in options(group):
            assert f"--{field.metadata['flag']} " in printed
    assert "Port of the ext_proc server that the gateway calls. (default 9002)" in " ".join(printed.split())
