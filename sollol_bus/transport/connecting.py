"""How long connecting may take, and what to do when it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sollol_bus.transport.config import DEFAULT_URL
from sollol_bus.transport.reading import NO_TLS
from sollol_bus.waiting import end


async def within(timeout_s: float, connecting: Coroutine[Any, Any, None], refused: asyncio.Event) -> None:
    """Connects, or gives up in time: the client library may lose the one cancellation that a timeout is.

    Args:
        timeout_s: How long it may take.
        connecting: Connects; it would try again and again.
        refused: Set when the server refuses us, which it would again and again.

    Raises:
        TimeoutError: It did not connect.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(connecting, name="connect")
    refusal = loop.create_task(refused.wait(), name="connect refused")
    try:
        await asyncio.wait((task, refusal), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        is_connected = task.done()
    finally:
        await end((task, refusal), in_peace_s=0.0)
    if not is_connected:
        raise TimeoutError
    task.result()


def is_absence(why: str) -> bool:
    """Whether a connection may succeed later although nobody changes anything here."""
    return "CERTIFICATE" not in why and not any(word in why.lower() for word in ("authorization", "revoked", "ssl"))


def advice(why: str, url: str) -> str:
    """What to do about a connection that could not be made to this address."""
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return "Name the CA that signed the server's certificate with --nats-tls-ca-file."
    if NO_TLS in why:
        return "Switch TLS on there; without tls:// and a CA in the settings everything would be sent in clear."
    if "revoked" in why.lower():
        return "These credentials count no more; `sollol fleet rotate NAME` where the fleet was made gives new ones."
    if "authorization" in why.lower():
        return (
            "Join with the line that `sollol invite` prints, or give credentials: --nats-creds-file or --nats-user; "
            "those of a member that was revoked count no more."
        )
    if url != DEFAULT_URL:
        return (
            "Does `sollol up` run there, and does that machine let others in? Another address is given with --nats or "
            "SOLLOL_NATS, in Python with Client(address)."
        )
    return (
        "The first machine of a fleet runs `sollol up`; from any other one name it with --nats or SOLLOL_NATS, in "
        "Python with Client(address)."
    )
