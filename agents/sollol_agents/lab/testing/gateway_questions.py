"""What tests ask a gateway before emulated engines, and how they read the answers."""

# ruff: noqa: ANN401 fields of a body are passed on by name

from __future__ import annotations

import json
from typing import Any, Final

import httpx

from sollol_agents.gateway.actor import Gateway
from sollol_agents.gateway.config import GatewayConfig

MODEL: Final = "m"
CHAT: Final = "/v1/chat/completions"
ANY_PORT: Final = GatewayConfig(port=0)


def address(gateway: Gateway) -> tuple[str, int]:
    """Where a gateway listens."""
    url = httpx.URL(gateway.url)
    return url.host, url.port or 80


def generate(count: int, **fields: Any) -> dict[str, Any]:
    """A body for `/api/generate` that is answered with `count` numbers."""
    return {"model": MODEL, "prompt": f"count {count}", **fields}


def chat(count: int, **fields: Any) -> dict[str, Any]:
    """A body for a chat that is answered with `count` numbers."""
    return {"model": MODEL, "messages": [{"role": "user", "content": f"count {count}"}], **fields}


def words(lines: list[str]) -> list[str]:
    """What the lines of a stream of `/api/generate` say together."""
    return "".join(json.loads(line)["response"] for line in lines).split()
