"""Bodies of HTTP answers, read whole and bounded."""

import aiohttp

__all__ = ["whole_body"]


async def whole_body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """All of it, however it comes in pieces. Raises ValueError if it is more than that, and what aiohttp raises."""
    found = bytearray()
    async for piece in response.content.iter_any():
        found += piece
        if len(found) > most_bytes:
            raise ValueError(f"an answer of more than {most_bytes} bytes")
    return bytes(found)
