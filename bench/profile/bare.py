"""One hop of a request that nobody thinks about: the floor under what the actors do.

    python -m bench.profile.bare dispatcher|scorer|node NATS_URL [ENGINE_URL]

The same five messages in the same order over the same connection: caller, dispatcher, scorer, dispatcher, node, caller;
the node asks a real engine in between. Nothing is checked, kept, learnt or told.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import msgspec
import uvloop

from bench.gateway.caller import Caller
from bench.overhead import measures
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg

REQUEST, GRANT, EXEC = "bare.request", "bare.grant", "bare.exec"
BODY = msgspec.json.encode(
    {"model": measures.MODEL, "prompt": "count 0", "options": {"num_predict": 1}, "stream": True}
)


def serve_dispatcher(bus: Bus) -> None:
    """Asks for leave, and passes the request on with the caller's inbox."""

    def on_request(msg: Msg) -> None:
        def granted(_: object) -> None:
            bus.publish(EXEC, msg.data, reply=msg.reply)

        bus.ask(GRANT, b"{}", granted, timeout_s=60)

    bus.subscribe(REQUEST, on_request)


def serve_scorer(bus: Bus) -> None:
    """Says yes."""
    bus.subscribe(GRANT, lambda msg: bus.publish(msg.reply, b"{}"))


def serve_node(bus: Bus, engine_url: str) -> None:
    """Asks the engine and publishes what it says."""
    idle: list[Caller] = []
    running: set[asyncio.Task[None]] = set()

    async def answer(msg: Msg) -> None:
        caller = idle.pop() if idle else await Caller(engine_url).__aenter__()
        async for piece in caller.pieces("/api/generate", msg.data):
            bus.publish(msg.reply, piece)
        idle.append(caller)

    def on_exec(msg: Msg) -> None:
        task = asyncio.get_running_loop().create_task(answer(msg))
        running.add(task)
        task.add_done_callback(running.discard)

    bus.subscribe(EXEC, on_exec)


async def ask(bus: Bus) -> None:
    """One request over the bare hops."""
    await bus.request(REQUEST, BODY, timeout_s=60)


async def _serve(role: str, nats_url: str, *engine_url: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    bus = await Bus.connect(BusConfig(url=nats_url, name=f"bare-{role}"))
    if role == "node":
        serve_node(bus, *engine_url)
    else:
        {"dispatcher": serve_dispatcher, "scorer": serve_scorer}[role](bus)
    await bus.flush()
    print("ready", flush=True)
    await stopped.wait()
    await bus.close()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
