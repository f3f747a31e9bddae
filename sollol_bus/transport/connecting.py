"""How long connecting may take, and what to do when it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sollol_bus.transport.reading import NO_TLS
from sollol_bus.waiting import end


async def within(timeout_s: float, connecting: Coroutine[Any, Any, None]) -> None:
    """Connects, or gives up in time: the client library may lose the one cancellation that a timeout is."""
    task = asyncio.get_running_loop().create_task(connecting, name="connect")
    try:
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
    finally:
        await end((task,), in_peace_s=0.0)
    if not done:
        raise TimeoutError
    task.result()


def is_absence(why: str) -> bool:
    """Whether a connection may succeed later although nobody changes anything here."""
    return "CERTIFICATE" not in why and "authorization" not in why.lower() and "ssl" not in why.lower()


def advice(why: str) -> str:
    """What to do about a connection that could not be made."""
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return "Name the CA that signed the server's certificate with --nats-tls-ca-file."
    if NO_TLS in why:
        return "Switch TLS on there; without tls:// and a CA in the settings everything would be sent in clear."
    if "authorization" in why.lower():
        return "Give credentials: --config with a file of `sollol credentials`, or --nats-user and --nats-password."
    return "Start one with `sollol up` (without --nats and SOLLOL_NATS), or name another with --nats."
