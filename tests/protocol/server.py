"""The server under test: one that is given by its address, or `picker serve` as the suite starts it itself."""

import asyncio
import json
import os
import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import grpc.aio
from prometheus_client.parser import text_string_to_metric_families

from picker.demo.processes import Child, free_port, picker_command
from tests.protocol.play import LARGEST
from tests.support.ports import EXT_PROC, HEALTH, METRICS, ports_in

HERE = Path(__file__).parent
READY_S = DEADLINE_S = 30.0
COUNTED_S = 10.0
POLL_S = 0.02
HELD = (
    "picker_endpoint_requests",
    "picker_endpoint_prefill_tokens",
    "picker_endpoint_resident_tokens",
    "picker_buffered_body_bytes",
)
"""What is held for streams, in all."""
FLAGS = (
    f"--endpoints-file={HERE / 'endpoints.yaml'}",
    f"--resources-file={HERE / 'resources.yaml'}",
    f"--base-models-file={HERE / 'models.yaml'}",
    "--pool-name=protocol",
    "--body-cap=8Mi",
    "--request-timeout=2s",
    "--max-streams=64",
    "--health-checking",
)
"""As the README has them."""
VARIANTS = {
    "plain": "",
    "headers": "responseTracking: headers\n",
    "off": "responseTracking: off\n",
    "conformance": "",
}
"""What a server's configuration may have besides."""
CONFORMANCE = ("header-based-testing-filter", "destination-endpoint-served-verifier")


class Admin:
    """What the server counts, over its admin port."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def get(self, path: str) -> str:
        return await asyncio.to_thread(self.read, path)

    def read(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5) as response:
            return str(response.read().decode())

    async def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels."""
        return total(await self.page(), name, labels)

    async def endpoints(self) -> dict[str, dict[str, Any]]:
        """By `ip:port`."""
        return {entry["target"]: entry for entry in json.loads(await self.get("/debug/endpoints"))}

    async def decision(self) -> dict[str, Any]:
        """The latest one."""
        (found,) = json.loads(await self.get("/debug/decisions?limit=1"))
        return dict(found)

    async def page(self) -> str:
        """All that is counted, for `total`."""
        return await self.get("/metrics")

    async def becomes(self, name: str, value: float, **labels: str) -> str:
        """Until the total is that; the page that says so. AssertionError if it never is."""
        deadline = time.monotonic() + COUNTED_S
        while (now := total(page := await self.page(), name, labels)) != value:
            assert time.monotonic() < deadline, f"{name} {labels} is {now}, not {value}"
            await asyncio.sleep(POLL_S)
        return page

    async def idle(self) -> None:
        """Until no stream is open; then nothing may be held for one."""
        deadline = time.monotonic() + COUNTED_S
        while total(page := await self.page(), "picker_open_streams"):
            assert time.monotonic() < deadline, "a stream stays open"
            await asyncio.sleep(POLL_S)
        held = {name: total(page, name) for name in HELD}
        assert not any(held.values()), held


def total(page: str, name: str, labels: Mapping[str, str] = MappingProxyType({})) -> float:
    """The sum of the samples of that name with these labels, on a page of metrics."""
    lines = [line for line in page.splitlines() if line.startswith(name)]  # all of it takes long to read
    families = text_string_to_metric_families("\n".join([*lines, ""]))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@dataclass(frozen=True)
class Server:
    """Where it is. `admin`, `health` and `bbr` (its body-based router) are None where they were not given."""

    address: str
    admin: Admin | None = None
    health: str | None = None
    is_tls: bool = False
    bbr: str | None = None
    variant: str = "plain"

    def channel(self, address: str = "", *, is_plain: bool = False) -> grpc.aio.Channel:
        """A new connection, to `address` if that is another one. With TLS the server is believed, as gateways do."""
        address = address or self.address
        own = ("grpc.use_local_subchannel_pool", 1)
        limits = (("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST), own)
        if is_plain or not self.is_tls:
            return grpc.aio.insecure_channel(address, options=limits)
        host, _, port = address.rpartition(":")
        shown = ssl.get_server_certificate((host.strip("[]"), int(port)))
        name = os.environ.get("PICKER_TLS_NAME", "localhost")
        options = (*limits, ("grpc.ssl_target_name_override", name))
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(shown.encode()), options=options)


def given() -> Server | None:
    """The server of the environment: PICKER_ADDR, PICKER_ADMIN and so on, as `make test-protocol` sets them."""
    address, admin, health, tls, bbr, variant = (
        os.environ.get(f"PICKER_{name}", "") for name in ("ADDR", "ADMIN", "HEALTH", "TLS", "BBR", "VARIANT")
    )
    if not address:
        return None
    where = Admin(admin) if admin else None
    return Server(address, where, health or None, tls == "1", bbr or None, variant or "plain")


def configuration(variant: str) -> str:
    """The suite's, as a server of that variant has it."""
    text = (HERE / "config.yaml").read_text() + VARIANTS[variant]
    if variant == "conformance":
        declared = "".join(f"- {{type: {name}}}\n" for name in CONFORMANCE)
        text = text.replace("plugins:\n", f"plugins:\n{declared}", 1)
        text = text.replace("  plugins:\n", f"  plugins:\n  - {{pluginRef: {CONFORMANCE[0]}}}\n")
    return text


class Started:
    """`picker serve` on free ports."""

    def __init__(self, directory: Path, shell: str, variant: str = "plain", *flags: str) -> None:
        """Starts it, and waits until it is ready."""
        routing = free_port()  # which cannot be left to picker: 0 is none
        words = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", f"--bbr-port={routing}"]
        words += [f"--shell={shell}", "--bind-address=127.0.0.1", "--secure-serving=false", *FLAGS, *flags]
        command = picker_command("serve", *words, f"--config-text={configuration(variant)}")
        self.child = Child("picker", command, directory / "picker.log")
        self.child.wait_until(self._is_ready, READY_S)
        said = {name: f"127.0.0.1:{port}" for name, port in ports_in(self.child.log_text()).items()}
        router = f"127.0.0.1:{routing}"
        self.server = Server(said[EXT_PROC], Admin(said[METRICS]), said[HEALTH], bbr=router, variant=variant)

    def _is_ready(self) -> bool:
        said = ports_in(self.child.log_text())
        if not {EXT_PROC, METRICS} <= said.keys():
            return False
        try:
            return Admin(f"127.0.0.1:{said[METRICS]}").read("/readyz") == "ready\n"
        except OSError:
            return False

    def stop(self) -> None:
        self.child.stop()
