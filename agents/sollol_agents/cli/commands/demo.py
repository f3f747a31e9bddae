"""`sollol demo`: a fleet on this machine, a streamed answer, a node killed while it works, and what was recorded."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from sollol_agents.children import Child
from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands.engine_places import is_listening
from sollol_agents.cli.commands.listings import show_stats
from sollol_agents.cli.commands.requesting import provenance
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say, seconds
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.fleet_view.gpus import short_gpu
from sollol_agents.stack import LocalStack
from sollol_bus.errors import BackendError, ConfigError, SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import Answer
from sollol_schemas.queries import NodesReply, StatsReply
from sollol_schemas.routing import Routing, RoutingMode
from sollol_schemas.telemetry import NodeState

_REAL: Final = ("attic", "cellar")
_VICTIM: Final = "attic"
_EMULATED: Final = "garage"
_COUNTDOWN: Final = "countdown"
_LLAMA: Final = "llama3.2:3b"
_REQUESTS: Final = 20
_KILL_AFTER: Final = 4
_FLEET_WITHIN_S: Final = 20.0
_RECORDED_WITHIN_S: Final = 10.0
_POLL_S: Final = 0.05
_REASKS: Final = 3
_LENGTH: Final = 40
_LONG: Final = "please " * 700
"""Reading it takes an engine long enough that some requests have not begun to stream when their node dies."""

_NEXT: Final = """Next, with your own machines:
  sollol up             starts it here to stay; an Ollama on this machine joins by itself
  sollol fleet init     in its place, where other machines are to join: sollol invite node NAME
  sollol chat MODEL     asks it; any program for Ollama or OpenAI does at http://127.0.0.1:8000
  sollol why            tells why the last answer came from where it did"""


class _Result(msgspec.Struct, kw_only=True):
    """How one of the twenty requests went."""

    kind: str
    node_id: str = ""
    attempts: int = 0
    reasked: int = 0
    error: str = ""


@with_settings(of_commands.KNOWN, log=of_commands.QUIET_LOG)
def demo(*, log: LogConfig) -> int:
    """Runs a whole fleet on this machine for a few seconds and shows what it does.

    Two real llama.cpp engines with a tiny generated model, one emulated GPU machine, and your Ollama if one runs.
    Nothing is left behind.
    """
    # killing a node is part of the show: its echo in the logs is not news
    log_lines.set_up(msgspec.structs.replace(log, level="error") if log.level == "warning" else log)
    return running.run(_main, is_long=True)


async def _main() -> int:
    began = time.monotonic()
    say("SOLLOL Bus: a fleet of LLM machines on this one")
    async with AsyncExitStack() as floor:
        folder = Path(floor.enter_context(tempfile.TemporaryDirectory(prefix="sollol-demo-")))
        stack = await floor.enter_async_context(LocalStack(store_dir=folder / "store"))
        say(f"\n  nats      {stack.nats_url}, embedded, JetStream on")
        say("  actors    scorer, dispatcher and recorder in this process")
        nodes = await _start_nodes(floor, stack, folder)
        client = await floor.enter_async_context(stack.client())
        await _wait_for(lambda: _up(client, set(nodes)), _FLEET_WITHIN_S, "the nodes did not join")
        _show_fleet(await client.nodes())
        await _stream_one(client)
        results = await _mixed_while_killing(client, nodes[_VICTIM])
        # what the victim finished in its last instant may have died with it unrecorded
        await _show_recorded(client, at_least=1 + sum(not r.error and r.node_id != _VICTIM for r in results))
        say("\nstopping: nodes, dispatcher, scorer, recorder, server")
    say(f"done in {time.monotonic() - began:.0f} s\n\n{_NEXT}")
    return exit_codes.FAILED if any(r.error for r in results) else exit_codes.OK


async def _start_nodes(floor: AsyncExitStack, stack: LocalStack, folder: Path) -> dict[str, Child]:
    """Starts engines, then a node monitor beside each; returns the monitors by node id."""

    async def start(name: str, *argv: str) -> Child:
        return await floor.enter_async_context(Child(name, *argv, log_file=folder / f"{name}.log"))

    engine_argv = ("sollol_agents.lab.engine", "--slots", "2", "--preset", "small", "--alias", _COUNTDOWN)
    emulator_argv = ("sollol_agents.lab.emulator", "--preset", "rtx3060-12", "--model", f"{_LLAMA}=3.2")
    try:
        engines = [await start(f"{name}-engine", *engine_argv) for name in _REAL]
    except SollolError as error:
        raise ConfigError(f"{error}; the demo needs the extra: pip install 'sollol-bus[engine]'") from error
    engines.append(await start(f"{_EMULATED}-engine", *emulator_argv, "--model", f"{_COUNTDOWN}=1"))
    nodes = {}
    for name, engine in zip((*_REAL, _EMULATED), engines, strict=True):
        kind = "ollama" if name == _EMULATED else "openai"
        where = ("--engine", kind, "--url", engine.served["engine"])
        nodes[name] = await start(name, "sollol_agents.cli", "node", "--nats", stack.nats_url, "--id", name, *where)
    if await is_listening():
        nodes["ollama"] = await start(
            "ollama", "sollol_agents.cli", "node", "--nats", stack.nats_url, "--id", "ollama", "--engine", "ollama"
        )
    return nodes


async def _up(client: Client, wanted: set[str]) -> bool:
    return wanted <= {v.node_id for v in (await client.nodes()).nodes if v.state is NodeState.UP}


def _show_fleet(reply: NodesReply) -> None:
    for view in sorted(reply.nodes, key=lambda v: v.node_id):
        told = view.telemetry
        what = f"emulated {short_gpu(told.gpus[0].name)}" if told.gpus and view.node_id == _EMULATED else "real engine"
        slots = "1 slot" if told.slots == 1 else f"{told.slots} slots"
        models = ", ".join(m.name for m in told.installed[:3])
        say(f"  node      {view.node_id:<8} {what}, {told.engine.kind} {told.engine.version}, {slots}: {models}")


async def _stream_one(client: Client) -> None:
    say("\n1. One streamed answer\n")
    prompt = "count down from 12"
    sys.stdout.write(f"  > {prompt}\n  ")
    async with client.generate_stream(_COUNTDOWN, prompt) as stream:
        async for chunk in stream:
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
    say(f"\n  {provenance(stream.answer)}")


async def _mixed_while_killing(client: Client, victim: Child) -> list[_Result]:
    say(f"\n2. {_REQUESTS} mixed requests; after {_KILL_AFTER} answers, kill -9 of the node `{_VICTIM}`\n")
    began = time.monotonic()
    done = 0
    killed_at = 0.0

    def on_done() -> None:
        nonlocal done, killed_at
        done += 1
        if done == _KILL_AFTER:
            victim.kill()
            killed_at = time.monotonic() - began

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask(client, number, on_done)) for number in range(_REQUESTS)]
    results = [task.result() for task in tasks]
    took = time.monotonic() - began
    good = [r for r in results if not r.error]
    by_node = Counter(r.node_id for r in good)
    say(f"  {len(good)} of {_REQUESTS} answered in {seconds(took)}; the node died after {seconds(killed_at)}")
    say("  by node   " + ", ".join(f"{name} {count}" for name, count in by_node.most_common()))
    say("  by kind   " + ", ".join(f"{kind} {count}" for kind, count in Counter(r.kind for r in good).most_common()))
    say(f"  moved     {sum(r.attempts > 1 for r in good)} to another node by the dispatcher, unnoticed by the caller")
    say(f"  cut       {sum(r.reasked for r in good)} in mid-stream: the caller was told at once and asked again")
    for result in results:
        if result.error:
            say(f"  failed    {result.kind}: {result.error}")
    return results


async def _ask(client: Client, number: int, on_done: Callable[[], None]) -> _Result:
    """One of the mixed requests. After a first chunk nobody but the caller may start over, so this caller does."""
    kind = ("chat", "generate", "generate, urgent", "embed", "generate on the GPU")[number % 5]
    result = _Result(kind=kind)
    for reasked in range(_REASKS + 1):
        try:
            decision = (await _one(client, kind, number)).decision
        except BackendError as error:
            result.error = f"{error.body.code}: {error}"
            continue
        except SollolError as error:
            result.error = f"{error.body.code}: {error}"
            break
        result.error, result.reasked = "", reasked
        if decision is not None:
            result.node_id, result.attempts = decision.node_id, decision.attempt
        break
    on_done()
    return result


async def _one(client: Client, kind: str, number: int) -> Answer:
    prompt = f"{_LONG} count down from {_LENGTH + number}"
    match kind:
        case "chat":
            return await client.chat(_COUNTDOWN, [{"role": "user", "content": prompt}])
        case "generate, urgent":
            return await client.generate(_COUNTDOWN, prompt, routing=Routing(priority=9))
        case "generate on the GPU":
            return await client.generate(_LLAMA, prompt, routing=Routing(routing_mode=RoutingMode.RELIABLE))
        case "embed":
            made = await client.embed(_COUNTDOWN, prompt)
            return Answer(text="", model=made.model, request_id=made.request_id, decision=made.decision)
        case _:
            return await client.generate(_COUNTDOWN, prompt)


async def _show_recorded(client: Client, *, at_least: int) -> None:
    say("\n3. What the recorder wrote to SQLite\n")
    reply = StatsReply(total=(await client.stats()).total)

    async def all_written() -> bool:
        nonlocal reply
        reply = await client.stats()
        return reply.total.successes >= at_least

    await _wait_for(all_written, _RECORDED_WITHIN_S, "the recorder did not write every outcome")
    show_stats(reply)


async def _wait_for(condition: Callable[[], Awaitable[bool]], within_s: float, complaint: str) -> None:
    deadline = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > deadline:
            raise SollolError(f"{complaint} within {within_s:g} s")
        await asyncio.sleep(_POLL_S)
