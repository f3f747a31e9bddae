"""How long connecting may take, and what to do when it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

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


_JOIN: Final = "Join with the line that `sollol invite` prints, or"
_ADVICE: Final = (
    ("mismatch", "Use an address that its certificate names: one that `sollol fleet init` was given with --host."),
    ("certificate_verify_failed", f"{_JOIN} name the CA that signed the server's certificate with --nats-tls-ca-file."),
    (NO_TLS.lower(), "Switch TLS on there; without tls:// and a CA in the settings everything would be sent in clear."),
    ("revoked", "These credentials count no more; `sollol fleet rotate NAME` where the fleet was made gives new ones."),
    (
        "authorization",
        f"{_JOIN} give credentials: --nats-creds-file or --nats-user; a revoked member's count no more.",
    ),
)
"""Words of what went wrong, in lower case, and what to do; the first that fits."""
_ELSEWHERE: Final = (
    "Does `sollol up` run there, and does that machine let others in? Another address is given with --nats or "
    "SOLLOL_NATS, in Python with Client(address)."
)
_HERE: Final = (
    "The first machine of a fleet runs `sollol up`; from any other one name it with --nats or SOLLOL_NATS, in "
    "Python with Client(address)."
)


def advice(why: str, url: str) -> str:
    """What to do about a connection that could not be made to this address."""
    told = why.lower()
    found = next((text for words, text in _ADVICE if words in told), "")
    return found or (_HERE if url == DEFAULT_URL else _ELSEWHERE)
