"""How endpoints are scraped. Frozen, passed down once; times in seconds."""

from dataclasses import dataclass

__all__ = ["ScrapeSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeSettings:
    """Where the metrics page is, and what reading it may cost."""

    busy_interval_s: float = 0.2
    """From the start of one scrape to that of the next while the endpoint has work."""

    idle_interval_s: float = 2.0
    """The same while it has none."""

    backoff_max_s: float = 10.0
    """Longest pause after failures; it starts at the busy interval and doubles."""

    timeout_s: float = 1.0
    """Longest time one scrape may take, connecting included."""

    page_bytes_max: int = 4 << 20
    """Largest page; a larger one is a failure."""

    concurrency: int = 16
    """Most scrapes at once, over all endpoints."""

    scheme: str = "http"
    """`http` or `https`."""

    path: str = "/metrics"
    """Path of the page."""

    port: int = 0
    """Port of the page; 0: the endpoint's own."""

    insecure_skip_verify: bool = True
    """Whether a server's certificate goes unchecked."""

    ca_cert_path: str = ""
    """CA bundle that servers are checked against; empty: the system's."""

    client_cert_path: str = ""
    """Client certificate shown to servers."""

    client_key_path: str = ""
    """Key of that certificate."""
