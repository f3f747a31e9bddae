"""A gateway as a process whose clients have other limits than usual.

    python -m sollol_agents.lab.testing.gateway NATS_URL CONFIG LIMITS

CONFIG and LIMITS are JSON objects with fields of `GatewayConfig` and `ClientLimits`; `http ADDRESS` and `ready` are
printed once it serves, and SIGTERM drains it.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import msgspec
import uvloop

from sollol_agents.gateway.actor import Gateway
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.http_server import ClientLimits
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.inboxes import CLIENT_INBOX_PREFIX


async def serve(nats_url: str, config: GatewayConfig, limits: ClientLimits) -> None:
    """Serves until SIGTERM comes."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    bus = BusConfig(url=nats_url, name="gateway", inbox_prefix=CLIENT_INBOX_PREFIX)
    async with Gateway(config, bus, limits) as gateway:
        sys.stdout.write(f"http {gateway.url}\nready\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    uvloop.run(
        serve(
            sys.argv[1],
            msgspec.json.decode(sys.argv[2], type=GatewayConfig),
            msgspec.json.decode(sys.argv[3], type=ClientLimits),
        )
    )
