"""The model server as the side-car sees it: vLLM's adapter API over HTTP."""

import aiohttp
import msgspec

from picker.bodies import whole_body
from picker.errors import PickerError, printable
from picker.lora.config import Adapter

__all__ = ["ModelServerError", "VllmServer"]

QUICK_S = 10.0
"""Longest that the health or the list of models may take."""
LOAD_S = 600.0
"""Longest that an adapter may take to load: its source may have to be fetched."""
MOST_BYTES = 16 << 20


class ModelServerError(PickerError):
    """The model server did not do as asked."""


class _Card(msgspec.Struct):
    id: str = ""


class _Cards(msgspec.Struct):
    data: list[_Card]


class VllmServer:
    """The model server at `address`."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session, self.address = session, address

    async def is_healthy(self) -> bool:
        """Whether it says so."""
        try:
            await self._send("GET", "/health", None, QUICK_S)
        except ModelServerError:
            return False
        return True

    async def models(self) -> frozenset[str]:
        """What it lists, base models too. Raises ModelServerError."""
        answer = await self._send("GET", "/v1/models", None, QUICK_S)
        try:
            return frozenset(card.id for card in msgspec.json.decode(answer, type=_Cards).data)
        except (msgspec.MsgspecError, RecursionError) as problem:
            raise ModelServerError(f"its list of models cannot be read: {printable(str(problem))[:200]}") from None

    async def load(self, adapter: Adapter) -> None:
        """Raises ModelServerError."""
        body = {"lora_name": adapter.id, "lora_path": adapter.source, "base_model_name": adapter.base_model}
        await self._send("POST", "/v1/load_lora_adapter", body, LOAD_S)

    async def unload(self, name: str) -> None:
        """Raises ModelServerError."""
        await self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name}, QUICK_S)

    async def _send(self, method: str, path: str, body: dict[str, str] | None, limit_s: float) -> bytes:
        timeout = aiohttp.ClientTimeout(total=limit_s, connect=QUICK_S)
        try:
            async with self._session.request(
                method, f"http://{self.address}{path}", json=body, timeout=timeout, allow_redirects=False
            ) as response:
                answer = await whole_body(response, MOST_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
            said = printable(str(problem)) or type(problem).__name__
            raise ModelServerError(f"{method} {path}: {said[:300]}") from None
        if response.status != 200:
            said = printable(answer[:300].decode(errors="replace"))
            raise ModelServerError(f"{method} {path}: {response.status} {said}")
        return answer
