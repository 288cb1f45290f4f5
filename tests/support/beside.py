"""A request that is sent while its answer is received, as HTTP allows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any


@contextlib.asynccontextmanager
async def sent_beside(sending: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Sends while the block receives; then whatever is left is not sent, and the connection is closed."""
    task = asyncio.ensure_future(sending)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # of a server that has closed: what it answered counts
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
