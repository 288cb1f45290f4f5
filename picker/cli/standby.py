"""Who serves of several replicas, and who may read their metrics port: what of these flags goes together, and where."""

import dataclasses

from picker.cli.pair import check_pair
from picker.config.settings import AdminSettings, ElectionSettings
from picker.errors import UsageError
from picker.kube.lease import Terms

__all__ = ["admin_settings", "election_settings"]

_NOBODY_TO_ASK = (
    "--metrics-endpoint-auth has no effect: with an endpoints file there is no API server to ask, and /metrics is "
    "served without authentication; restrict it by --metrics-client-ca-file or a network policy"
)
_NO_LEASE = (
    "--ha-enable-leader-election has no effect: with an endpoints file there is no Lease, and every replica serves"
)


def admin_settings(
    given: AdminSettings, *, in_cluster: bool, is_auth_asked: bool, cert_reload: bool
) -> tuple[AdminSettings, tuple[str, ...]]:
    """The settings, and what to warn of. `is_auth_asked`: whether the flag was given. Raises UsageError."""
    if given.client_ca_file and not given.cert_dir:
        raise UsageError("picker serve: --metrics-client-ca-file needs TLS: pass --metrics-cert-dir")
    check_pair("metrics-cert-dir", given.cert_dir)
    in_vain = given.endpoint_auth and is_auth_asked and not in_cluster
    found = dataclasses.replace(given, endpoint_auth=given.endpoint_auth and in_cluster, cert_reload=cert_reload)
    return found, (_NOBODY_TO_ASK,) if in_vain else ()


def election_settings(given: ElectionSettings, *, in_cluster: bool) -> tuple[ElectionSettings, tuple[str, ...]]:
    """The settings, and what to warn of. Raises UsageError."""
    try:
        Terms(lease_s=given.lease_s, renew_s=given.renew_deadline_s, retry_s=given.retry_s)
    except ValueError as problem:
        raise UsageError(f"picker serve: --leader-election-lease-duration and its like: {problem}") from problem
    in_vain = given.enabled and not in_cluster
    found = dataclasses.replace(given, enabled=given.enabled and in_cluster)
    return found, (_NO_LEASE,) if in_vain else ()
