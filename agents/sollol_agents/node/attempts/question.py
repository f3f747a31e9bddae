"""A question of the node's own to its engine, known to work: whether a failure was the engine's or the request's.

It asks for the version, and for one token of the model when that is in memory. Safety: never two questions at once,
none longer than `_LIMIT_S`, none of a model sooner than `_KEEP_S` after the last one: failures in between share its
answer. What a busy engine does not answer in time proves nothing. Window: an engine that breaks just after it answered
well is blamed `_KEEP_S` later.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sollol_agents.node.engines.base import Engine, LoadRequest
from sollol_agents.node.engines.view import EngineView
from sollol_bus.errors import SollolError
from sollol_schemas.errors import Owner

_KEEP_S: Final = 2.0
_LIMIT_S: Final = 10.0
_PROBE_S: Final = 3.0
_MODELS_MAX: Final = 64
_BLAMED: Final = (Owner.ENGINE, Owner.NODE, Owner.UNCLEAR)


class Question:
    """Asks one engine, now and then."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._answers: dict[str, tuple[float, bool]] = {}
        """By model: when it was asked about, and whether the engine failed."""

    async def is_failed(self, engine: Engine, view: EngineView, model: str, *, is_busy: bool) -> bool:
        """Whether the engine fails a question of our own.

        Args:
            engine: Whom to ask.
            view: What is known of it.
            model: The model whose request failed.
            is_busy: Whether other attempts run there, behind which a question may have to wait.
        """
        async with self._turn:
            known = self._answers.get(model)
            if known is not None and time.monotonic() - known[0] < _KEEP_S:
                return known[1]
            answer = await _asked(engine, view, model, is_busy=is_busy)
            self._answers.pop(model, None)
            self._answers[model] = (time.monotonic(), answer)
            if len(self._answers) > _MODELS_MAX:
                del self._answers[next(iter(self._answers))]
            return answer


async def _asked(engine: Engine, view: EngineView, model: str, *, is_busy: bool) -> bool:
    try:
        async with asyncio.timeout(_PROBE_S):
            await engine.probe()
    except TimeoutError:
        return True
    except SollolError as error:
        return error.body.blamed in _BLAMED
    in_force = view.in_force(model)
    if not in_force.is_loaded:
        return False
    options = ({"num_ctx": in_force.context_tokens} if in_force.context_tokens else {}) | dict(in_force.options)
    try:
        async with asyncio.timeout(_LIMIT_S):
            await engine.sample(LoadRequest(model=model, options=options))
    except TimeoutError:
        return not is_busy
    except SollolError as error:
        return error.body.blamed in _BLAMED
    return False
