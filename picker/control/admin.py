"""The metrics port's certificate: read here, shown by `picker.admin`, renewed while picker runs."""

import asyncio
import time

from picker.config.settings import AdminSettings
from picker.extproc.certificate import Certificate

__all__ = ["admin_certificate", "keep_renewed"]

LOOK_S = 1.0


def admin_certificate(settings: AdminSettings) -> Certificate | None:
    """What the metrics port shows and asks for; None: it speaks plain HTTP. Raises OSError."""
    if not settings.cert_dir:
        return None
    return Certificate(
        settings.cert_dir,
        client_ca=settings.client_ca_file,
        reload=settings.cert_reload,
        protocols=("http/1.1",),
    )


async def keep_renewed(certificate: Certificate) -> None:
    """Takes what changes on disk, if that was asked for, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        certificate.renew(time.monotonic_ns())
