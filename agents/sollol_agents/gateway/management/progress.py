"""Operations on models at one node or many: their progress as it comes, or the one answer at their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sollol_agents.gateway.http.errors import NDJSON, error_in_stream
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.requests.dialects import Dialect
from sollol_bus.errors import SollolError, error_from
from sollol_schemas.control import ControlEngine
from sollol_schemas.errors import ErrorBody, ErrorCode

T = TypeVar("T")

_SUCCESS: Final = b'"status":"success"'
_LINES_MAX: Final = 256


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation at one node or many, and what the fleet knows when it has succeeded."""

    nodes: list[str]
    request: ControlEngine
    model: str = ""
    """The model that is new or gone then; empty: none is."""
    makes: bool = True
    """Whether that model is there then, or gone."""

    async def settled(self, fleet: Fleet, node_ids: list[str]) -> None:
        """Returns when the fleet knows what these nodes have now."""
        if self.model:
            await fleet.settled(node_ids, self.model, is_there=self.makes)


async def at_the_end(fleet: Fleet, operation: Operation) -> bytes:
    """The last object of an engine's answer; the fleet knows what changed.

    Every node is asked, whatever another one says.

    Raises:
        SollolError: A node failed: a single one in its engine's own words, of several all that failed are named.
    """
    last: dict[str, bytes] = {}
    failed: dict[str, SollolError] = {}

    async def ask(node_id: str) -> None:
        try:
            async for last[node_id] in fleet.operate(node_id, operation.request):  # noqa: B020 the last one stays
                pass
            last.setdefault(node_id, b"")
        except SollolError as error:
            failed[node_id] = error

    async with asyncio.TaskGroup() as group:
        for node_id in operation.nodes:
            group.create_task(ask(node_id), name=f"{operation.request.operation.value} on {node_id}")
    succeeded = [one for one in operation.nodes if one not in failed]
    await operation.settled(fleet, succeeded)
    if failure := failure_of(operation.request.operation.value, succeeded, failed):
        raise failure
    return last[operation.nodes[-1]]


def failure_of(what: str, succeeded: list[str], failed: dict[str, SollolError]) -> SollolError | None:
    """What is told of an operation that failed on some nodes; None when it succeeded."""
    if succeeded:  # that another one did not have the model any more is no failure
        failed = {node_id: error for node_id, error in failed.items() if error.body.http_status != 404}
    if not failed:
        return None
    first = next(iter(failed.values()))
    words = {node_id: error.message for node_id, error in failed.items()}
    if not succeeded and len(set(words.values())) == 1:
        return first  # all say the same: the request is at fault, in the engine's own words
    told = "; ".join(f"{node_id}: {text}" for node_id, text in words.items())
    done = f" (done on {', '.join(succeeded)})" if succeeded else ""
    return error_from(
        ErrorBody(
            code=first.body.code,
            status=first.body.http_status,
            message=f"{what} failed on {told}{done}",
            details={"nodes": words},
        )
    )


async def streamed(fleet: Fleet, operation: Operation, path: str) -> Response:
    """The objects as they come, a line each; an error before the first is an answer of its own."""
    alone = len(operation.nodes) == 1
    objects = _alone(fleet, operation) if alone else _merged(fleet, operation)
    first = await anext(objects, None)

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(objects):
            if first is None:
                return
            yield first.rstrip() + b"\n"
            try:
                async for one in objects:
                    yield one.rstrip() + b"\n"
            except SollolError as error:
                yield error_in_stream(Dialect.OLLAMA, error.body, path)

    return StreamingResponse(lines(), media_type=NDJSON.decode())


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work that is given up when the client leaves.

    Raises:
        SollolError: It left, or what the work raises.
    """
    error: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_miss(request), name=f"client of {request.url.path}")
            result = await work
            watching.cancel()
    except* SollolError as failed:
        error = failed.exceptions[0]
    if error is not None:
        raise error
    return result


async def _miss(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise error_from(ErrorBody(code=ErrorCode.CANCELLED, message="the client left"))


async def _alone(fleet: Fleet, operation: Operation) -> AsyncGenerator[bytes, None]:
    async with aclosing(fleet.operate(operation.nodes[0], operation.request)) as objects:
        async for one in objects:
            if _SUCCESS in one:
                await operation.settled(fleet, operation.nodes)
            yield one


async def _merged(fleet: Fleet, operation: Operation) -> AsyncGenerator[bytes, None]:
    """The progress of several nodes, each object with its node; `success` is said once, when all have."""
    lines: asyncio.Queue[bytes | None] = asyncio.Queue(_LINES_MAX)
    failed: list[str] = []

    async def follow(node_id: str) -> None:
        try:
            async for one in fleet.operate(node_id, operation.request):
                if _SUCCESS in one:
                    one = msgspec.json.encode({"status": f"success on {node_id}"})  # noqa: PLW2901 told at the end
                await lines.put(with_node(one, node_id))
        except SollolError as error:
            failed.append(node_id)
            await lines.put(with_node(error_in_stream(Dialect.OLLAMA, error.body), node_id))
        finally:
            await lines.put(None)

    async with asyncio.TaskGroup() as group:
        for node_id in operation.nodes:
            group.create_task(follow(node_id))
        running = len(operation.nodes)
        while running:
            line = await lines.get()
            if line is None:
                running -= 1
            else:
                yield line
    await operation.settled(fleet, [one for one in operation.nodes if one not in failed])
    if not failed:
        yield b'{"status":"success"}'


def with_node(line: bytes, node_id: str) -> bytes:
    """An object with the node that it is about."""
    return line.rstrip()[:-1] + b',"node_id":' + msgspec.json.encode(node_id) + b"}"
