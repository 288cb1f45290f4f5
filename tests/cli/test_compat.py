"""Every flag that manifests of the reference pickers pass (PROTOCOL 1.9, PEER 1.1, zap): what becomes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from picker.cli import serve
from picker.cli.compat import IGNORED, REFUSED
from picker.cli.flags import FlagParser
from picker.config.settings import ServeSettings
from picker.errors import UsageError
from tests.support.config_samples import FOLDER, HEAD

CLUSTER = ("--pool-name=qwen",)
PODS = ("--endpoint-selector=app=vllm", "--endpoint-target-ports=8000")
FILE = ("--endpoints-file=e.yaml",)
CONFIG = str(FOLDER / "default-plugins.yaml")


def settings(*words: str) -> ServeSettings:
    parser = FlagParser(prog="picker serve")
    serve.configure(parser)
    return serve.settings_from(parser.parse(words))


class Works(NamedTuple):
    """It comes to this value of the settings."""

    word: str
    reads: Callable[[ServeSettings], Any]
    value: Any
    base: tuple[str, ...] = CLUSTER


class Warned(NamedTuple):
    """It is taken, has no effect, and the warning begins so ("": there is nothing to say)."""

    word: str
    warning: str
    base: tuple[str, ...] = CLUSTER


class Refused(NamedTuple):
    """picker does not start."""

    word: str
    why: str


WORKS = (
    Works("--grpc-port=1", lambda s: s.listen.grpc_port, 1),
    Works("--grpc-health-port=2", lambda s: s.listen.grpc_health_port, 2),
    Works("--metrics-port=3", lambda s: s.listen.metrics_port, 3),
    Works("--grpc-max-recv-msg-size=10MiB", lambda s: s.listen.grpc_max_recv_msg_bytes, 10 << 20),
    Works("--grpc-max-send-msg-size=25MB", lambda s: s.listen.grpc_max_send_msg_bytes, 25_000_000),
    Works("--pool-name=prod/llama", lambda s: s.kubernetes.pools, ("prod/llama",), ()),
    Works("--pool-namespace=prod", lambda s: s.kubernetes.pools, ("prod/qwen",)),
    Works("--pool-group=inference.networking.k8s.io", lambda s: s.kubernetes.pool_group, "inference.networking.k8s.io"),
    Works(
        "--pool-group=inference.networking.x-k8s.io", lambda s: s.kubernetes.pool_group, "inference.networking.x-k8s.io"
    ),
    Works("--endpoint-selector=app=vllm", lambda s: s.kubernetes.endpoint_selector, "app=vllm", PODS[1:]),
    Works("--endpoint-target-ports=8000,8001", lambda s: s.kubernetes.target_ports, (8000, 8001), PODS[:1]),
    Works("--disable-endpoint-subset-filter", lambda s: s.routing.disable_endpoint_subset_filter, True),
    Works("--refresh-metrics-interval=50ms", lambda s: s.scrape.busy_interval_s, 0.05),
    Works("--metrics-staleness-threshold=2s", lambda s: s.scrape.staleness_threshold_s, 2.0),
    Works("--ha-enable-leader-election", lambda s: s.election.enabled, True),
    Works("--ha-enable-leader-election=false", lambda s: s.election.enabled, False),
    Works("--drain-timeout=30s", lambda s: s.limits.drain_timeout_s, 30.0),
    Works(f"--config-file={CONFIG}", lambda s: s.config_file, CONFIG),
    Works(f"--config-text={HEAD}plugins: []", lambda s: s.config.source, "--config-text"),
    Works("--secure-serving=false", lambda s: s.listen.secure_serving, False),
    Works("--enable-cert-reload", lambda s: (s.listen.enable_cert_reload, s.admin.cert_reload), (True, True)),
    Works("--tls-min-version=VersionTLS13", lambda s: s.listen.tls_min_version, "VersionTLS13"),
    Works(
        "--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        lambda s: s.listen.tls_cipher_suites,
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ),
    Works("--metrics-endpoint-auth", lambda s: s.admin.endpoint_auth, True),
    Works("--metrics-endpoint-auth=false", lambda s: s.admin.endpoint_auth, False),
    Works("--metrics-endpoint-auth=false", lambda s: s.admin.endpoint_auth, False, FILE),
    Works("--health-checking=true", lambda s: s.listen.health_checking, True),
    Works("--v=4", lambda s: s.log.verbosity, 4),
    Works("--zap-encoder=json", lambda s: s.log.encoder, "json"),
    Works("--model-server-metrics-scheme=https", lambda s: s.scrape.scheme, "https"),
    Works("--model-server-metrics-path=/m", lambda s: s.scrape.path, "/m"),
    Works("--model-server-metrics-port=9", lambda s: s.scrape.port, 9),
    Works(
        "--model-server-metrics-https-insecure-skip-verify=false", lambda s: s.scrape.insecure_skip_verify, False
    ),
)  # fmt: skip
"""--cert-path, --metrics-cert-dir and --metrics-client-ca-file want files: below."""

NOTHING_TRACED = "--tracing has no effect: nothing is traced"
WARNED = (
    Warned("--allow-experimental-plugins", ""),
    Warned("--emit-endpoint-scores", "--emit-endpoint-scores has no effect: scores of the latest picks"),
    Warned("--emit-endpoint-scores=false", ""),
    Warned("--refresh-prometheus-metrics-interval=5s", "--refresh-prometheus-metrics-interval has no effect"),
    Warned("--enable-grpc-stream-metrics", "--enable-grpc-stream-metrics has no effect"),
    Warned("--enable-pprof=true", "--enable-pprof has no effect: there is no profiling endpoint"),
    Warned("--enable-pprof=false", ""),
    Warned("--tracing=true", NOTHING_TRACED),
    Warned("--tracing=false", ""),
    Warned("--zap-devel", "--zap-devel has no effect: use --v and --zap-encoder"),
    Warned("--zap-log-level=debug", "--zap-log-level has no effect: use --v"),
    Warned("--zap-stacktrace-level=error", "--zap-stacktrace-level has no effect"),
    Warned("--zap-time-encoding=iso8601", "--zap-time-encoding has no effect"),
    Warned("--endpoint-target-ports=8000", "--endpoint-target-ports has no effect: the ports are those of the"),
    Warned("--pool-name=qwen", "--pool-name labels metrics and chooses objects", FILE),
    Warned("--endpoint-selector=app=vllm", "--endpoint-selector has no effect: endpoints come from the", FILE),
    Warned("--endpoint-target-ports=8000", "--endpoint-target-ports has no effect: endpoints come from the", FILE),
    Warned("--ha-enable-leader-election", "--ha-enable-leader-election has no effect: with an endpoints file", FILE),
    Warned("--metrics-endpoint-auth", "--metrics-endpoint-auth has no effect: with an endpoints file", FILE),
)
ENGINE_CONFIGS = "cannot be honoured: name the series in the configuration: core-metrics-extractor"
OLD_METRICS = (
    "total-queued-requests-metric",
    "total-running-requests-metric",
    "kv-cache-usage-percentage-metric",
    "lora-info-metric",
    "cache-info-metric",
)
REFUSALS = (
    *(Refused(f"--{name}=vllm:x", f"--{name} {ENGINE_CONFIGS}") for name in OLD_METRICS),
    Refused("--pool-group=example.com", 'argument --pool-group: "example.com" is not one of'),
    Refused("--endpoint-selector=app=x", "--pool-name and --endpoint-selector exclude each other"),
    Refused("--metrics-client-ca-file=ca.pem", "--metrics-client-ca-file needs TLS: pass --metrics-cert-dir"),
    Refused("--metrics-cert-dir=/nowhere", "--metrics-cert-dir must hold tls.crt and tls.key"),
    Refused("--cert-path=/nowhere", "--cert-path must hold tls.crt and tls.key"),
    Refused("--tls-min-version=VersionTLS10", "--tls-min-version: HTTP/2 forbids VersionTLS10"),
)

LWEPP = (
    "grpc-port grpc-health-port metrics-port pool-name pool-namespace pool-group endpoint-target-ports "
    "health-checking secure-serving"
).split()
FULL = (
    "ha-enable-leader-election endpoint-selector disable-endpoint-subset-filter refresh-metrics-interval "
    "refresh-prometheus-metrics-interval metrics-staleness-threshold tracing enable-pprof cert-path enable-cert-reload "
    "metrics-endpoint-auth config-file config-text v model-server-metrics-scheme model-server-metrics-path "
    "model-server-metrics-port model-server-metrics-https-insecure-skip-verify"
).split()
LLM_D = (
    "grpc-max-recv-msg-size grpc-max-send-msg-size emit-endpoint-scores drain-timeout allow-experimental-plugins "
    "tls-min-version tls-cipher-suites metrics-cert-dir metrics-client-ca-file enable-grpc-stream-metrics"
).split()
ZAP = "zap-devel zap-encoder zap-log-level zap-stacktrace-level zap-time-encoding".split()
"""Flags of the light picker, of the full one besides, of llm-d's besides, and of the logger of all three."""


def name(word: str) -> str:
    return word.removeprefix("--").partition("=")[0]


def test_no_flag_is_forgotten() -> None:
    said = {name(row.word) for row in (*WORKS, *WARNED, *REFUSALS)}
    assert said == {*LWEPP, *FULL, *LLM_D, *ZAP, *OLD_METRICS}
    assert {flag.name for flag in (*IGNORED, *REFUSED)} <= said


@pytest.mark.parametrize("row", WORKS, ids=lambda row: row.word[:40])
def test_works(row: Works) -> None:
    found = settings(*row.base, row.word)
    assert row.reads(found) == row.value
    assert found.warnings == ()


@pytest.mark.parametrize("row", WARNED, ids=lambda row: f"{row.word} {row.base[0]}")
def test_is_taken_with_a_warning(row: Warned) -> None:
    found = settings(*row.base, row.word).warnings
    assert len(found) == bool(row.warning)
    for warning in found:
        assert warning.startswith(row.warning)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.word)
def test_is_refused(row: Refused) -> None:
    with pytest.raises(UsageError) as caught:
        settings(*CLUSTER, row.word)
    assert row.why in str(caught.value)


@pytest.mark.parametrize("flag", OLD_METRICS)
def test_an_empty_name_of_a_series_says_nothing(flag: str) -> None:
    assert settings(*CLUSTER, f"--{flag}=").warnings == ()


def test_certificates(tmp_path: Path) -> None:
    for file in ("tls.crt", "tls.key"):
        (tmp_path / file).write_text("x")
    found = settings(
        *CLUSTER,
        f"--cert-path={tmp_path}",
        f"--metrics-cert-dir={tmp_path}",
        f"--metrics-client-ca-file={tmp_path}/tls.crt",
    )
    assert found.listen.cert_path == found.admin.cert_dir == str(tmp_path)
    assert (found.admin.client_ca_file, found.admin.cert_reload) == (f"{tmp_path}/tls.crt", False)
    assert found.warnings == ()


def test_metrics_want_a_token_where_there_is_somebody_to_ask() -> None:
    assert settings(*CLUSTER).admin.endpoint_auth is True
    assert settings(*PODS).admin.endpoint_auth is True
    plain = settings(*FILE)
    assert (plain.admin.endpoint_auth, plain.warnings) == (False, ())


def test_times_of_an_election() -> None:
    words = ("--leader-election-lease-duration=3s", "--leader-election-renew-deadline=2s")
    found = settings(
        *CLUSTER, *words, "--leader-election-retry-period=500ms", "--leader-election-lease-name=x"
    ).election
    assert (found.lease_s, found.renew_deadline_s, found.retry_s, found.lease_name) == (3.0, 2.0, 0.5, "x")
    with pytest.raises(UsageError, match=r"--leader-election-lease-duration .* the lease \(3 s\) must be longer than"):
        settings(*CLUSTER, "--leader-election-lease-duration=3s")
