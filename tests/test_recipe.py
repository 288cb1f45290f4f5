"""What flags and a configuration come to together."""

import pytest

from picker.config import DEFAULT_CONFIG, load_config
from picker.config.settings import ScrapeSettings
from picker.errors import ConfigError
from picker.recipe import scraping
from tests.support.config_samples import HEAD


def read_by(text: str = "", **flags: object) -> ScrapeSettings:
    config = load_config(text, source="epp.yaml") if text else DEFAULT_CONFIG
    return scraping(ScrapeSettings(**flags), config).scrape  # type: ignore[arg-type]


def test_the_data_source_of_the_configuration_wins() -> None:
    text = HEAD + (
        "plugins: [{type: metrics-data-source, parameters: "
        "{scheme: https, port: 9400, path: /m, interval: 10ms, insecureSkipVerify: false, caCertPath: /ca}}]\n"
    )
    scrape = read_by(text, path="/other")
    assert (scrape.scheme, scrape.port, scrape.path) == ("https", 9400, "/m")
    assert (scrape.insecure_skip_verify, scrape.ca_cert_path) == (False, "/ca")
    assert scrape.busy_interval_s == 0.05  # the floor
    assert read_by(path="/other").path == "/other"


def test_an_idle_endpoint_is_never_read_more_often_than_a_busy_one() -> None:
    assert read_by(busy_interval_s=10.0).idle_interval_s == 10.0


@pytest.mark.parametrize(
    ("flag", "default", "enabled"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_either_can_switch_it_off(flag: bool, default: bool, enabled: bool) -> None:
    text = HEAD + f"dataLayer: {{injectDefaults: {str(default).lower()}}}"
    assert read_by(text, enabled=flag).enabled is (flag and default)


def test_engines_that_cannot_be_are_refused() -> None:
    text = HEAD + "plugins: [{type: core-metrics-extractor, parameters: {defaultEngine: none}}]"
    with pytest.raises(ConfigError, match=r"epp.yaml: core-metrics-extractor: default engine 'none' is none of"):
        read_by(text)
