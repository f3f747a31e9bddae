"""Where engines of this machine may be, and whether something listens there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from sollol_agents.cli.open_doors import is_loopback
from sollol_agents.node.config import OLLAMA_URL, USUAL_PORTS

_CONNECT_S: Final = 0.3
_OLLAMA_PORT: Final = 11434
_NAMED: Final = ("OLLAMA_HOST", "OPENAI_BASE_URL", "OPENAI_API_BASE")
"""Variables in which people keep an engine's address."""
_LLAMA_PORT: Final = "LLAMA_ARG_PORT"
_ANY: Final = ("0.0.0.0", "::", "")  # noqa: S104 what such an engine listens on is not dialled


def usual_urls(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where engines of this machine may be: what the environment names, then the usual ports; Ollama's first."""
    named = [urlsplit(_with_scheme(environ[name])) for name in _NAMED if environ.get(name)]
    ports: list[int] = []
    for url in named:
        host = url.hostname or ""
        with contextlib.suppress(ValueError):
            if host in _ANY or is_loopback(host):
                ports.append(url.port or _OLLAMA_PORT)
    if environ.get(_LLAMA_PORT, "").isdigit():
        ports.append(int(environ[_LLAMA_PORT]))
    ollama = ports[:1] if environ.get("OLLAMA_HOST") else []
    first = ollama or [port_of(OLLAMA_URL)]
    return tuple(
        f"http://127.0.0.1:{port}" for port in dict.fromkeys([*first, *USUAL_PORTS, *ports]) if 0 < port < 65536
    )


async def is_listening(url: str = OLLAMA_URL) -> bool:
    """Whether something on this machine accepts connections at the port of `url`."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def port_of(url: str) -> int:
    """The port that an address names; 0 for none."""
    port = url.rpartition(":")[2]
    return int(port) if port.isdigit() else 0


def _with_scheme(text: str) -> str:
    """`:11434`, `gpu-box:1234` and whole URLs alike as a URL."""
    return text if "://" in text else f"http://{text}"
