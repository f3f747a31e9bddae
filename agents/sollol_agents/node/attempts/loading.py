"""Loads models by requests of the node's own, one at a time for each model, and says how long a load may take.

An engine aborts a load when the client that caused it leaves, so no caller's request may own one. Engines tell
nothing of a load's progress; so its limit grows with the size of the model, and a load that was cut gets twice the
time when it is tried again: no disk is too slow for good.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

from sollol_agents.node.engines.base import Engine, EngineRequest
from sollol_bus.errors import SollolError, error_from
from sollol_bus.parts import Spawn
from sollol_schemas.errors import ErrorBody, ErrorCode

OnLoaded = Callable[[str, float], None]

_LOAD_FACTOR: Final = 5.0
_SLOW_DISK_BYTES_PER_S: Final = 20e6
_LONGEST_S: Final = 86_400.0
_RECENT_S: Final = 60.0
"""A model that answered so lately is in memory; after it, an engine that swaps models may have dropped it."""
_MODELS_MAX: Final = 512


class LoadPatience:
    """How long loads may take, and whether a request may have to wait for one.

    Args:
        floor_s: Every load may take so long.
    """

    def __init__(self, floor_s: float) -> None:
        self._floor_s = floor_s
        self._cut_s: dict[str, float] = {}
        self._answered_at: dict[str, float] = {}

    def limit_s(self, model: str, size_bytes: float, forecast_s: float = 0.0) -> float:
        """Seconds that the next load of a model of this size may take."""
        usual_s = max(self._floor_s, _LOAD_FACTOR * forecast_s, size_bytes / _SLOW_DISK_BYTES_PER_S)
        return min(_LONGEST_S, max(usual_s, 2.0 * self._cut_s.get(model, 0.0)))

    def is_doubtful(self, model: str, now: float) -> bool:
        """Whether an engine that loads on demand may have to load this model for its next request."""
        return now - self._answered_at.get(model, -math.inf) > _RECENT_S

    def answered(self, model: str, now: float) -> None:
        """The model is in memory: it said something."""
        self._cut_s.pop(model, None)
        _note(self._answered_at, model, now)

    def cut(self, model: str, after_s: float) -> None:
        """A load, or what may have been one, was given up after so long."""
        _note(self._cut_s, model, after_s)


def _note(values: dict[str, float], model: str, value: float) -> None:
    """Notes a value, and forgets the oldest of those beyond the limit."""
    values.pop(model, None)
    values[model] = value
    if len(values) > _MODELS_MAX:
        del values[next(iter(values))]


class Loader:
    """Loads that are under way.

    Args:
        spawn: Runs a load as a task of the actor, so that it outlives the attempt that asked for it.
        on_loaded: Called with the model and the seconds that its load took.
        patience: How long loads may take.
    """

    def __init__(self, spawn: Spawn, on_loaded: OnLoaded, patience: LoadPatience) -> None:
        self.patience = patience
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
            if time.perf_counter() - began >= limit_s:
                self.patience.cut(request.model, limit_s)
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
        hint = f"the next try has {2 * limit_s:g} s; the node's setting load_floor_s gives every load more"
        raise _failed(f"{request.model} was not loaded within {limit_s:g} s; {hint}") from error
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
