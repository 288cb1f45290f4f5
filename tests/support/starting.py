"""What a control process is told first, of one pool in a file; what a test does not say is the default."""

from typing import Any

from picker.config.settings import (
    AdminSettings,
    DiscoverySettings,
    ElectionSettings,
    KubernetesSettings,
    LogSettings,
    ScrapeSettings,
)
from picker.control.messages import Start
from tests.support.rig import POOL


def start_of(discovery: DiscoverySettings, **given: Any) -> Start:
    told: dict[str, Any] = {"confirmed_ns": 0, "restarts": 0, **given}
    return Start(
        scrape=ScrapeSettings(enabled=False),
        discovery=discovery,
        kubernetes=KubernetesSettings(pools=(POOL,)),
        election=ElectionSettings(),
        admin=AdminSettings(),
        log=LogSettings(),
        extractor=None,
        identity="me",
        pool=POOL,
        fingerprint="",
        shell="wire",
        **told,
    )
