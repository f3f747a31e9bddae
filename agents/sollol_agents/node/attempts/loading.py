"""Loads models by requests of the node's own, one at a time for each place in memory.

An engine aborts a load when the client that caused it leaves, so no caller's request may own one. Engines tell
nothing of a load's progress; so its limit grows with the size of the model, and a load that was cut gets twice the
time when it is tried again: no disk is too slow for good.

A load that carries none of a caller's options is a question of the node's own: when it fails, so did the engine.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import Engine, LoadRequest
from sollol_bus.errors import SollolError, error_from
from sollol_bus.parts import Spawn
from sollol_schemas.errors import ErrorBody, ErrorCode, Owner

Load = Callable[[Engine, LoadRequest], Awaitable[None]]

_LOAD_FACTOR: Final = 5.0
_SLOW_DISK_BYTES_PER_S: Final = 20e6
_LONGEST_S: Final = 86_400.0
_RECENT_S: Final = 60.0
"""A model that answered so lately is in memory; after it, an engine that swaps models may have dropped it."""
_MODELS_MAX: Final = 512
_DURATION: Final = re.compile(rb'("(?:total|load)_duration":)(\d+)(?=[,}][^{]*$)')
"""At the end of the last object of an answer; what a model says stands before it."""


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


def with_load(line: bytes, load_s: float) -> bytes:
    """An object of Ollama's whose durations, where it has any, include a load that the node did before the request."""
    load_ns = round(load_s * 1e9)
    return _DURATION.sub(lambda found: b"%b%d" % (found[1], int(found[2]) + load_ns), line)


def _note(values: dict[str, float], model: str, value: float) -> None:
    """Notes a value, and forgets the oldest of those beyond the limit."""
    values.pop(model, None)
    values[model] = value
    if len(values) > _MODELS_MAX:
        del values[next(iter(values))]


class _Loading:
    """One load under way."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        """What the caller wanted of it that caused it: another caller's may succeed where this one fails."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended.add_done_callback(_look_at)


class Loader:
    """Loads that are under way.

    Args:
        spawn: Runs a load as a task of the actor, so that it outlives the attempt that asked for it.
        load: Performs one.
        patience: How long loads may take.
    """

    def __init__(self, spawn: Spawn, load: Load, patience: LoadPatience) -> None:
        self._patience = patience
        self._spawn = spawn
        self._load = load
        self._loads: dict[str, _Loading] = {}

    def is_loading(self, blob: str) -> bool:
        """Whether a load of a model with these weights is under way."""
        return blob in self._loads

    async def ensure(self, blob: str, engine: Engine, wanted: LoadRequest, limit_s: float) -> None:
        """Returns when a load of these weights has ended: one that is under way is joined, whatever its options.

        Being cancelled ends no load.

        Raises:
            SollolError: The engine could not load it, or took longer than `limit_s` (`load_failed`).
        """
        joined = self._loads.get(blob)
        if joined is not None:
            try:
                return await asyncio.shield(joined.ended)
            except SollolError:
                if joined.options == wanted.options:
                    raise
        load = self._loads.get(blob)
        if load is None:
            load = self._loads[blob] = _Loading(wanted.options)
            self._spawn(self._perform(blob, engine, wanted, limit_s, load.ended), name=f"load.{wanted.model}")
        return await asyncio.shield(load.ended)

    async def _perform(
        self, blob: str, engine: Engine, wanted: LoadRequest, limit_s: float, load: asyncio.Future[None]
    ) -> None:
        try:
            await self._load_within(engine, wanted, limit_s)
        except SollolError as error:
            load.set_exception(error)
        else:
            load.set_result(None)
        finally:
            self._loads.pop(blob, None)
            load.cancel()  # without effect unless the actor stops

    async def _load_within(self, engine: Engine, wanted: LoadRequest, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._load(engine, wanted)
        except TimeoutError as error:
            self._patience.cut(wanted.model, limit_s)
            hint = f"the next try has {2 * limit_s:g} s; the node's setting load_floor_s gives every load more"
            message = f"{wanted.model} was not loaded within {limit_s:g} s; {hint}"
            raise _failed(wanted, ErrorBody(code=ErrorCode.LOAD_FAILED, message=message)) from error
        except SollolError as error:
            if error.body.blamed is not Owner.UNCLEAR:
                raise
            raise _failed(wanted, error.body) from error


def _look_at(load: asyncio.Future[None]) -> None:
    """Marks an error as seen: whoever waited for it may have left."""
    if not load.cancelled():
        load.exception()


def _failed(wanted: LoadRequest, body: ErrorBody) -> SollolError:
    owner = Owner.UNCLEAR if wanted.options else Owner.ENGINE
    return error_from(msgspec.structs.replace(body, code=ErrorCode.LOAD_FAILED, owner=owner))
