"""Computes a prompt's beginning on nodes before anybody waits for it.

An engine keeps what it computed of a prompt while it can, and the scorer knows by each answer which beginnings lie
where: requests that begin so go there when that saves time. So one short request with the same beginning is all that
it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.sdk.results import Answer
from sollol_schemas.errors import ErrorBody
from sollol_schemas.routing import Routing

NODES_MAX: Final = 64
_LEAST_BYTES: Final = 256
"""Shorter beginnings are looked for in no cache."""
_END: Final = "."


class Warmed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What it took to have a prompt's beginning computed on one node, or why it is not."""

    node: str
    """Its id; where nothing was computed, as it was called."""
    prompt_tokens: int = 0
    """Tokens that lie there now."""
    cached_tokens: int | None = None
    """Of these, tokens that lay there before; None: the engine does not tell."""
    load_s: float = 0.0
    """Seconds until the model was in memory."""
    actual_s: float = 0.0
    """Seconds in all."""
    error: ErrorBody | None = None


Ask = Callable[[Routing], Awaitable[Answer]]


def beginning(system: str, prompt: str = "") -> list[dict[str, str]]:
    """The messages that stand for every prompt which begins so.

    Raises:
        BadRequest: It is too short to be worth it.
    """
    if len(system.encode()) + len(prompt.encode()) < _LEAST_BYTES:
        raise BadRequest(f"a beginning of less than {_LEAST_BYTES} bytes is computed faster than it is looked for")
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": prompt or _END}]


async def warmed(ask: Ask, nodes: Sequence[str], routing: Routing) -> AsyncIterator[Warmed]:
    """What became of each node, in the order in which they are done.

    Args:
        ask: Sends the short request with a routing.
        nodes: Which nodes, as they may be called.
        routing: Everything but the node.
    """
    done: asyncio.Queue[Warmed] = asyncio.Queue()

    async def work(node: str) -> None:
        try:
            answer = await ask(msgspec.structs.replace(routing, node_id=node, strict=True))
        except SollolError as error:
            done.put_nowait(Warmed(node=node, error=error.body))
        else:
            done.put_nowait(_of(node, answer))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(node)) for node in nodes]
        try:
            for _ in tasks:
                yield await done.get()
        finally:
            for task in tasks:
                task.cancel()


def _of(node: str, answer: Answer) -> Warmed:
    decision, figures = answer.decision, answer.figures
    told: dict[str, Any] = {"node": decision.node_id if decision is not None else node}
    if figures is not None:
        told |= {
            "prompt_tokens": figures.prompt_tokens or 0,
            "cached_tokens": figures.cached_tokens,
            "load_s": figures.load_s,
            "actual_s": figures.actual_s,
        }
    return Warmed(**told)
