"""What a configuration comes to beside its policy: engines with their limits, and how metrics are read."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from picker._core.engine import Engine
from picker._core.quotas import Quota
from picker.config.model import PickerConfig
from picker.config.settings import ScrapeSettings, ServeSettings
from picker.config.support import ApproxPrefixCacheProducer, CoreMetricsExtractor, MetricsDataSource
from picker.control.messages import Scraping
from picker.errors import ConfigError
from picker.policy.compile import Policy, compile_policy
from picker.pools import Recipe
from picker.scrape.engines import configured_engines

__all__ = ["make_recipe", "scraping"]

MAX_ENDPOINT_BLOCKS = 1 << 24  # index blocks, 1 G tokens: more than any engine caches
MIN_SCRAPE_INTERVAL_S = 0.05  # the peer's floor; values below are raised to it


def make_recipe(
    settings: ServeSettings,
    configs: Mapping[str, PickerConfig],
    *,
    hash_seed: int,
    random_seed: int,
    quota: Callable[[str], Quota] | None = None,
) -> Recipe:
    """How pools are made. `configs`: by pool, and that of all others by "". `quota`: what counts a pool's rate limits.

    The seeds are secrets of this process: no client can aim at another's prefix.
    """

    def config_of(name: str) -> PickerConfig:
        return configs.get(name, configs[""])

    def engine(name: str, policy: Policy) -> Engine:
        limits = _limits(settings, config_of(name))
        made = Engine(hash_seed=hash_seed, random_seed=random_seed, prior_rate=policy.prior_rate, limits=limits)
        if quota is not None:
            made.set_quota(quota(name))
        return made

    return Recipe(
        policy=lambda name: compile_policy(config_of(name)),
        engine=engine,
        install=lambda engine, policy: _install(settings, engine, policy),
    )


def _limits(settings: ServeSettings, config: PickerConfig) -> dict[str, int]:
    """What the engine may hold; an `approx-prefix-cache-producer` says what an endpoint is thought to cache."""
    limits = {
        "body_bytes": settings.limits.body_cap_bytes,
        "header_bytes": settings.limits.header_cap_bytes,
        "sessions": settings.limits.max_streams,
        "surplus": settings.limits.max_streams,
    }
    producer = config.parameters(ApproxPrefixCacheProducer)
    if producer is not None and producer.lruCapacityPerServer > 0:
        limits["endpoint_blocks"] = min(producer.lruCapacityPerServer, MAX_ENDPOINT_BLOCKS)
    return limits


def _install(settings: ServeSettings, engine: Engine, policy: Policy) -> None:
    engine.set_policy(
        policy.steps,
        wanted=policy.wanted,
        plugins=policy.host,
        ignore_subset=settings.routing.disable_endpoint_subset_filter,
        session_header=policy.session_header,
        response_tracking=policy.response_tracking,
        restores_models=settings.routing.response_model == "client",
        apis=policy.apis,
        reads_test_header=policy.reads_test_header,
        tells_served=policy.tells_served,
    )
    engine.set_flow(policy.flow)


def scraping(given: ScrapeSettings, config: PickerConfig) -> Scraping:
    """How metrics are read: a `metrics-data-source` of the configuration wins over the (deprecated) flags `given`.

    Raises ConfigError for engines that cannot be.
    """
    extractor = config.parameters(CoreMetricsExtractor)
    try:
        configured_engines(extractor)  # what the control process would trip over
    except ValueError as problem:
        raise ConfigError(
            str(problem), source=config.source, field="core-metrics-extractor", hint="correct its engineConfigs"
        ) from problem
    return Scraping(_scrape(given, config), extractor)


def _scrape(given: ScrapeSettings, config: PickerConfig) -> ScrapeSettings:
    busy = given.busy_interval_s
    changes: dict[str, Any] = {"enabled": given.enabled and config.scraping}
    source = config.parameters(MetricsDataSource)
    if source is not None:
        busy = busy if source.interval is None else float(source.interval)
        changes |= {
            "scheme": source.scheme,
            "path": source.path,
            "port": source.port or 0,
            "insecure_skip_verify": source.insecureSkipVerify,
            "ca_cert_path": source.caCertPath,
            "client_cert_path": source.clientCertPath,
            "client_key_path": source.clientKeyPath,
        }
    busy = max(busy, MIN_SCRAPE_INTERVAL_S)
    idle = max(given.idle_interval_s, busy)
    return replace(given, busy_interval_s=busy, idle_interval_s=idle, **changes)
