"""Scale signals are posted to the operator's address alone, until they are taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.posting import SIGNATURE
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.office.scale_signals import ScaleSignals, host_of
from sollol_bus.errors import ConfigError
from sollol_bus.transport.connection import Bus
from sollol_schemas.scaling import ScaleEvent, ScaleVerdict, ScaleView

EVENT = ScaleEvent(scale=ScaleView(model="m", verdict=ScaleVerdict.TOO_FEW, saved_s=12.5))


class Hook:
    """A program that takes signals; the first it refuses."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.bodies.append(await reader.readexactly(length))
        self.heads.append(head)
        status = b"503 no" if len(self.bodies) == 1 else b"204 ok"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def hook() -> AsyncIterator[tuple[Hook, str]]:
    hook = Hook()
    async with await asyncio.start_server(hook.serve, "127.0.0.1", 0) as server:
        yield hook, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/scale"


async def test_a_signal_is_posted_signed_and_again_when_it_was_not_taken(bus: Bus, hook: tuple[Hook, str]) -> None:
    program, url = hook
    config = ScorerConfig(scale_webhook=url, scale_webhook_secret="s")
    signals = ScaleSignals(bus, config, pauses_s=(0.01, 0.01))
    async with signals, asyncio.TaskGroup() as group:
        task = group.create_task(signals.run())
        signals.tell(EVENT)
        await eventually(lambda: len(program.bodies) == 2, complaint="it is posted again")
        task.cancel()
    told = msgspec.json.decode(program.bodies[1], type=ScaleEvent)
    assert told.scale == EVENT.scale
    assert told.at
    assert SIGNATURE.lower().encode() in program.heads[1].lower()


@pytest.mark.parametrize("url", ["ftp://hooks.example/x", "hooks.example", "http://user@hooks.example/", "http://["])
def test_an_address_that_cannot_be_posted_to_is_said_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="scale_webhook"):
        host_of(url)
