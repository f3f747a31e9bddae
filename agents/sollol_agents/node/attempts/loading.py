"""Loads models by requests of the node's own, one at a time for each model.

An engine aborts a load when the client that caused it leaves, so no caller's request may own one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sollol_agents.node.engines.base import Engine, EngineRequest
from sollol_bus.errors import SollolError, error_from
from sollol_bus.parts import Spawn
from sollol_schemas.errors import ErrorBody, ErrorCode

OnLoaded = Callable[[str, float], None]


class Loader:
    """Loads that are under way.

    Args:
        spawn: Runs a load as a task of the actor, so that it outlives the attempt that asked for it.
        on_loaded: Called with the model and the seconds that its load took.
    """

    def __init__(self, spawn: Spawn, on_loaded: OnLoaded) -> None:
        self._spawn = spawn
        self._on_loaded = on_loaded
        self._loads: dict[str, asyncio.Future[None]] = {}

    def is_loading(self, model: str) -> bool:
        """Whether a load of this model is under way."""
        return model in self._loads

    async def ensure(self, engine: Engine, request: EngineRequest, limit_s: float) -> None:
        """Returns when the model is in memory; joins a load that is under way. Being cancelled ends no load.

        Raises:
            SollolError: The engine could not load it, or took longer than `limit_s` (`load_failed`).
        """
        load = self._loads.get(request.model)
        if load is None:
            load = self._loads[request.model] = asyncio.get_running_loop().create_future()
            load.add_done_callback(_look_at)
            self._spawn(self._load(engine, request, limit_s, load), name=f"load.{request.model}")
        await asyncio.shield(load)

    async def _load(self, engine: Engine, request: EngineRequest, limit_s: float, load: asyncio.Future[None]) -> None:
        began = time.perf_counter()
        try:
            await _load_within(engine, request, limit_s)
        except SollolError as error:
            load.set_exception(error)
        else:
            load.set_result(None)
            self._on_loaded(request.model, time.perf_counter() - began)
        finally:
            self._loads.pop(request.model, None)
            load.cancel()  # without effect unless the actor stops


async def _load_within(engine: Engine, request: EngineRequest, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await engine.load(request)
    except TimeoutError as error:
        raise _failed(f"{request.model} was not loaded within {limit_s:g} s") from error
    except SollolError as error:
        if error.body.code is ErrorCode.ENGINE_FAILED:
            raise _failed(f"loading {request.model}: {error.message}") from error
        raise


def _look_at(load: asyncio.Future[None]) -> None:
    """Marks an error as seen: whoever waited for it may have left."""
    if not load.cancelled():
        load.exception()


def _failed(message: str) -> SollolError:
    return error_from(ErrorBody(code=ErrorCode.LOAD_FAILED, message=message))
