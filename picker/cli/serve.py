"""Runs the endpoint picker: an ext_proc server for Envoy, a health server, and /metrics, until SIGTERM drains it."""

import argparse
import dataclasses
import importlib
from pathlib import Path
from ssl import TLSVersion

from picker.cli.cluster import cluster_settings, pool_id
from picker.cli.compat import add_compatibility_flags, compatibility_warnings
from picker.cli.core import require_core
from picker.cli.flags import FlagParser
from picker.cli.groups import add_group, largest_message, read_group
from picker.cli.pair import check_pair
from picker.cli.standby import admin_settings, election_settings
from picker.config.document import read_text
from picker.config.extras import InstalledTypes
from picker.config.load import load_config
from picker.config.model import DEFAULT_CONFIG, PickerConfig
from picker.config.reference import GROUPS
from picker.config.settings import DiscoverySettings, KubernetesSettings, ListenSettings, ServeSettings
from picker.config.suggest import quoted
from picker.config.support import FileDiscovery
from picker.config.tls import cipher_list, lowest_version
from picker.errors import UsageError

__all__ = ["configure", "run", "settings_from"]


def configure(parser: FlagParser) -> None:
    """Every flag of the reference endpoint picker, and picker's own."""
    parser.usage = "picker serve --pool-name NAME | --endpoints-file FILE [--config-file FILE] [FLAGS]"
    parser.flag("config-file", default="", help="EndpointPickerConfig file (YAML or JSON); followed while picker runs")
    parser.flag("config-text", default="", help="the EndpointPickerConfig itself")
    for group in GROUPS.values():
        add_group(parser, group)
    parser.set_defaults(metrics_endpoint_auth=None)  # true, but it makes a difference whether somebody said so
    add_compatibility_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Raises `UsageError`, `ConfigError` or `CoreUnavailable` if it cannot start."""
    settings = settings_from(args)
    require_core()
    code: int = importlib.import_module("picker.app").serve(settings)  # here: a wrong flag needs no server to be told
    return code


def settings_from(args: argparse.Namespace) -> ServeSettings:
    """The settings these flags, the configuration they name and the environment come to."""
    groups = {name: read_group(args, group) for name, group in GROUPS.items()}
    config = _config(args)
    discovery = _discovery(groups["discovery"], config)
    warnings = compatibility_warnings(args)
    routes_bodies = groups["body_routing"].port and not groups["body_routing"].base_models_file
    groups["kubernetes"], more = cluster_settings(
        groups["kubernetes"], endpoints_file=discovery.endpoints_file, base_models=bool(routes_bodies)
    )
    listen: ListenSettings = groups["listen"]
    _check_tls(listen)
    largest = largest_message(groups["limits"])
    groups["listen"] = dataclasses.replace(
        listen,
        grpc_max_recv_msg_bytes=listen.grpc_max_recv_msg_bytes or largest,
        grpc_max_send_msg_bytes=listen.grpc_max_send_msg_bytes or largest,
    )
    groups["discovery"] = discovery
    in_cluster = not discovery.endpoints_file
    groups["election"], of_election = election_settings(groups["election"], in_cluster=in_cluster)
    groups["admin"], of_admin = admin_settings(
        dataclasses.replace(groups["admin"], endpoint_auth=args.metrics_endpoint_auth is not False),
        in_cluster=in_cluster,
        is_auth_asked=args.metrics_endpoint_auth is not None,
        cert_reload=listen.enable_cert_reload,
    )
    return ServeSettings(
        config=config,
        config_file=args.config_file,
        pool_configs=_pool_configs(groups["kubernetes"]),
        warnings=(*warnings, *more, *of_election, *of_admin),
        **groups,
    )


def _config(args: argparse.Namespace) -> PickerConfig:
    if args.config_file and args.config_text:
        raise UsageError("picker serve: --config-file and --config-text exclude each other; give one")
    if args.config_file:
        text = read_text(Path(args.config_file))
        return load_config(text, source=args.config_file, extra_types=InstalledTypes())
    if args.config_text:
        return load_config(args.config_text, source="--config-text", extra_types=InstalledTypes())
    return DEFAULT_CONFIG


def _pool_configs(kubernetes: KubernetesSettings) -> dict[str, PickerConfig]:
    """The configurations of pools that have their own, by `namespace/name`."""
    found: dict[str, PickerConfig] = {}
    if kubernetes.endpoint_selector and kubernetes.pool_config_files:
        raise UsageError(
            "picker serve: --pool-config-file is of InferencePools; with --endpoint-selector there is none"
        )
    for text in kubernetes.pool_config_files:
        name, _, file = text.partition("=")
        pool = pool_id(name, kubernetes.pool_namespace)
        if not file or pool in found:
            raise UsageError(f"picker serve: --pool-config-file {quoted(text)}: write NAME=FILE, once for each pool")
        if kubernetes.pools and pool not in kubernetes.pools:
            raise UsageError(f"picker serve: --pool-config-file: {pool} is none of the pools of --pool-name")
        found[pool] = load_config(read_text(Path(file)), source=file, extra_types=InstalledTypes())
    return found


def _discovery(given: DiscoverySettings, config: PickerConfig) -> DiscoverySettings:
    """The configuration may name the endpoints file too (`file-discovery`); the two must not disagree."""
    spec = config.discovery
    named = spec.parameters.path if spec is not None and isinstance(spec.parameters, FileDiscovery) else ""
    if named and given.endpoints_file and named != given.endpoints_file:
        raise UsageError(
            f"picker serve: --endpoints-file is {given.endpoints_file}, but {config.source} says {named}; give one"
        )
    return dataclasses.replace(given, endpoints_file=given.endpoints_file or named)


def _check_tls(listen: ListenSettings) -> None:
    """What is in the files is told when they are read, at the start of the server."""
    if not listen.secure_serving:
        if listen.client_ca_file:
            raise UsageError("picker serve: --client-ca-file needs TLS: leave --secure-serving at true")
        return
    for flag, check in (("tls-min-version", _check_version), ("tls-cipher-suites", _check_ciphers)):
        try:
            check(listen)
        except ValueError as problem:
            raise UsageError(f"picker serve: --{flag}: {problem}") from problem
    check_pair("cert-path", listen.cert_path)


def _check_version(listen: ListenSettings) -> None:
    if lowest_version(listen.tls_min_version) > TLSVersion.TLSv1_2 and listen.shell == "grpcio":
        raise ValueError("grpcio takes TLS 1.2 and 1.3 and can be told no other; use --shell=wire")


def _check_ciphers(listen: ListenSettings) -> None:
    cipher_list(listen.tls_cipher_suites, lowest_version(listen.tls_min_version))
    if listen.tls_cipher_suites and listen.shell == "grpcio":
        raise ValueError("grpcio chooses by itself and can be told no other; use --shell=wire")
