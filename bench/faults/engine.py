"""An emulated engine that also tells how often it answered each prompt to its end: doubled work shows nowhere else.

python -m bench.faults.engine …   with the flags of the emulator
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import msgspec
import uvloop

from sollol_agents.lab.emulator.__main__ import parse_config
from sollol_agents.lab.emulator.config import EmulatorConfig
from sollol_agents.lab.emulator.http import Request, Responder
from sollol_agents.lab.emulator.node import EmulatedNode


class _Prompt(msgspec.Struct):
    prompt: str = ""


class CountingNode(EmulatedNode):
    """It counts, for as long as it lives; a benchmark's prompts are few."""

    def __init__(self, config: EmulatorConfig) -> None:
        super().__init__(config)
        self.finished: Counter[str] = Counter()
        """How often each prompt was answered to its end."""

    def state(self) -> dict[str, Any]:
        """The emulator's state, and with it what was finished."""
        return super().state() | {"finished": self.finished}

    async def _guard(self, work: Coroutine[Any, Any, None], request: Request, responder: Responder) -> None:
        await super()._guard(work, request, responder)  # a caller that leaves cancels it
        with contextlib.suppress(msgspec.DecodeError):
            self.finished[msgspec.json.decode(request.body, type=_Prompt).prompt] += 1


async def serve(config: EmulatorConfig) -> None:
    """Serves until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with CountingNode(config) as node:
        print(f"engine {node.url}", flush=True)
        print("ready", flush=True)
        await ended.wait()


if __name__ == "__main__":
    uvloop.run(serve(parse_config(sys.argv[1:])))
