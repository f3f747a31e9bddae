"""Brings a model into memory as an attempt needs it, before the attempt begins."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final

import msgspec

from sollol_agents.node.attempts.attempt import Attempt
from sollol_agents.node.attempts.load_options import RunnerOptions, Settled, settled
from sollol_agents.node.attempts.loading import Loader, LoadPatience
from sollol_agents.node.attempts.speeds import Speeds
from sollol_agents.node.engines.base import Engine, LoadRequest
from sollol_agents.node.engines.view import EngineView
from sollol_bus.errors import SollolError
from sollol_bus.parts import Spawn
from sollol_schemas.telemetry import EngineKind

log = logging.getLogger(__name__)

_LOADS_MAX: Final = 3
"""Loads that one attempt waits for: its own may come to nothing because others ask for something else meanwhile."""


class Preparation:
    """Loads of one engine, caused by attempts or asked for.

    Args:
        rule: What happens to options that would load a model anew.
        view: The engine as last seen.
        speeds: Learns what loads take.
        patience: How long loads may take.
        spawn: Runs a load as a task of the actor, so that it outlives the attempt that asked for it.
        look_again: Called when a load has ended.
    """

    def __init__(
        self,
        rule: RunnerOptions,
        view: Callable[[], EngineView],
        speeds: Speeds,
        *,
        patience: LoadPatience,
        spawn: Spawn,
        look_again: Callable[[], None],
    ) -> None:
        self._rule = rule
        self._view = view
        self._speeds = speeds
        self._look_again = look_again
        self._loader = Loader(spawn, self._load, patience)

    async def prepare(self, attempt: Attempt) -> None:
        """Settles the body of an attempt, and loads its model when it is not loaded as the attempt needs it.

        Raises:
            SollolError: The model could not be loaded, or the body asks for what this node refuses.
        """
        view, model = self._view(), attempt.request.model
        if view.kind is not EngineKind.OLLAMA:
            return
        is_believed_cold = attempt.decision.forecast.needs_load
        for _ in range(_LOADS_MAX):
            wanted = self._settle(attempt)
            attempt.is_order = wanted.is_order
            if wanted.is_unload:
                view.note_unloaded(model)
                return
            load = wanted.options if wanted.load is None and is_believed_cold else wanted.load
            if load is None and not self._loader.is_loading(view.blob(model)):
                break
            is_believed_cold = False
            began = time.monotonic()
            attempt.enter_loading()
            request = LoadRequest(model=model, options=dict(load or {}), keep_alive_s=attempt.request.keep_alive_s)
            await self._loader.ensure(view.blob(model), attempt.engine, request, attempt.limits.load_s)
            attempt.load_s += time.monotonic() - began
        else:
            wanted = self._settle(attempt, is_last=True)
        self._take_over(attempt, wanted)

    async def load(self, engine: Engine, wanted: LoadRequest, limit_s: float) -> None:
        """Loads a model because somebody says so; one that is loaded stays as it is, and at least as long as is said.

        Raises:
            SollolError: The engine could not load it, or took longer than `limit_s`.
        """
        view = self._view()
        blob = view.blob(wanted.model)
        if view.loaded_model(wanted.model) is None:
            await self._loader.ensure(blob, engine, wanted, limit_s)
        in_force = view.in_force(wanted.model)
        if wanted.keep_alive_s is None or not in_force.is_loaded:
            return
        stay_s = max(_stay(wanted.keep_alive_s), in_force.floor_s)
        options = ({"num_ctx": in_force.context_tokens} if in_force.context_tokens else {}) | dict(in_force.options)
        view.runners.keeps(blob, stay_s, 0.0)
        await engine.load(LoadRequest(model=wanted.model, options=options, keep_alive_s=_told(stay_s)))

    def _settle(self, attempt: Attempt, *, is_last: bool = False) -> Settled:
        return settled(
            attempt.request,
            self._rule,
            self._view().in_force(attempt.request.model),
            prompt_tokens=attempt.decision.forecast.prompt_tokens,
            is_last=is_last,
        )

    def _take_over(self, attempt: Attempt, wanted: Settled) -> None:
        view, model = self._view(), attempt.request.model
        if wanted.body is not attempt.request.body:
            attempt.request = msgspec.structs.replace(attempt.request, body=wanted.body)
        attempt.left_out = wanted.left_out
        if wanted.sent_s:
            view.runners.keeps(view.blob(model), wanted.sent_s, wanted.asked_s, is_order=wanted.is_order)
        if wanted.left_out:
            log.info(
                "attempt %s runs without %s of its body",
                attempt.attempt_id,
                ", ".join(wanted.left_out),
                extra={"action": "body_changed", "request_id": attempt.decision.request_id},
            )

    async def _load(self, engine: Engine, wanted: LoadRequest) -> None:
        """Loads a model and finds out what came of it.

        How long it stays is left to the engine's own setting, as far as that lasts until the request comes; a model
        that is loaded anew stays as long as was wanted before.
        """
        view, model = self._view(), wanted.model
        was_loaded = view.loaded_model(model) is not None
        keep_alive_s = wanted.keep_alive_s
        if was_loaded:
            floor_s = view.in_force(model).floor_s
            keep_alive_s = _told(floor_s) if floor_s else keep_alive_s
        elif view.runners.stays_by_itself():
            keep_alive_s = None
        began = time.perf_counter()
        await engine.load(msgspec.structs.replace(wanted, keep_alive_s=keep_alive_s))
        load_s = time.perf_counter() - began
        if not was_loaded:
            self._speeds.learn_load(model, load_s)
        try:
            view.saw(await engine.loaded())
        except SollolError as error:
            log.debug("no look after a load: %s", error, extra={"action": "engine_unreachable"})
        told = view.loaded_model(model)
        if keep_alive_s is None and view.kind is EngineKind.OLLAMA:
            view.runners.note_usual_stay(0.0 if told is None else _left(told.expires_in_s))
        view.note_loaded(model, wanted.options)
        self._look_again()


def _stay(keep_alive_s: float) -> float:
    return math.inf if keep_alive_s < 0 else keep_alive_s


def _left(expires_in_s: float | None) -> float:
    return math.inf if expires_in_s is None else expires_in_s


def _told(stay_s: float) -> float:
    return -1.0 if math.isinf(stay_s) else stay_s
