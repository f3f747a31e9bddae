"""Operators' requests about the scorer: which strategy decides with which settings, and which breakers are open.

What an operator chooses while the system runs is kept in the settings bucket under one key, from which every
scorer starts and which every standby overhears; it wins over the scorer's own settings until it is changed again.
"""

from __future__ import annotations

import functools

import msgspec
import msgspec.inspect

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.queue.refusals import unknown_node
from sollol_agents.scorer.strategies import available
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.steering import (
    BreakerRequest,
    BreakersReply,
    BreakerView,
    SettingLimits,
    StrategyReply,
    StrategyRequest,
)

STEERABLE = (
    "hold",
    "prefer_s",
    "cheap_patience_s",
    "theta",
    "size_clamp",
    "risk_overhead_s",
    "async_gpu_factor",
    "soft_success_floor",
    "resident_keep_alive_s",
    "one_off_keep_alive_s",
)
"""Settings of the scorer that may change while it runs."""


def settings_of(core: SchedulerCore) -> dict[str, float]:
    """The settings that may change at run time, with their values."""
    return {name: float(getattr(core.config, name)) for name in STEERABLE}


def strategy_reply(core: SchedulerCore) -> StrategyReply:
    """The strategy in use and those that could be."""
    return StrategyReply(
        strategy=core.strategy, available=available(), settings=settings_of(core), limits=limits_of_settings()
    )


@functools.cache
def limits_of_settings() -> dict[str, SettingLimits]:
    """What each setting that may change means and takes, as the configuration declares it."""
    config = msgspec.inspect.type_info(ScorerConfig)
    assert isinstance(config, msgspec.inspect.StructType)
    return {field.name: _limits(field) for field in config.fields if field.name in STEERABLE}


def _limits(field: msgspec.inspect.Field) -> SettingLimits:
    declared = field.type
    assert isinstance(declared, msgspec.inspect.Metadata), field.name
    kind = declared.type
    assert isinstance(kind, msgspec.inspect.FloatType), field.name
    lowest = kind.gt if kind.ge is None else kind.ge
    highest = kind.lt if kind.le is None else kind.le
    assert lowest is not None, field.name
    assert highest is not None, field.name
    return SettingLimits(
        text=(declared.extra_json_schema or {})["description"],
        lowest=float(lowest),
        highest=float(highest),
        default=float(field.default),
        excludes_lowest=kind.ge is None,
        excludes_highest=kind.le is None,
    )


def refusal_of(asked: StrategyRequest, core: SchedulerCore) -> ErrorBody | None:
    """Why a change cannot be made, or None."""
    if asked.strategy is not None and asked.strategy not in available():
        known = ", ".join(available())
        return _bad(f"strategy {asked.strategy!r} is unknown; known are {known}")
    unknown = sorted(set(asked.settings) - set(STEERABLE))
    if unknown:
        return _bad(f"{unknown[0]!r} cannot be changed while the scorer runs; these can: {', '.join(STEERABLE)}")
    try:
        core.config_with(asked.settings)
    except msgspec.ValidationError as error:
        return _bad(f"setting refused: {in_plain_words(str(error))}")
    return None


def merged(asked: StrategyRequest, kept: StrategyRequest) -> StrategyRequest:
    """Everything that operators chose so far, the latest choice winning; what they left alone stays configured."""
    return StrategyRequest(strategy=asked.strategy or kept.strategy, settings=kept.settings | asked.settings)


def apply(chosen: StrategyRequest, core: SchedulerCore) -> bool:
    """Makes the core decide as chosen; returns whether that changed anything.

    Raises:
        UnknownStrategy: This process does not know the strategy.
        msgspec.ValidationError: A setting is outside its range.
    """
    before = (core.strategy, settings_of(core))
    known = {name: value for name, value in chosen.settings.items() if name in STEERABLE}
    core.change_settings(known)
    if chosen.strategy is not None:
        core.set_strategy(chosen.strategy)
    return before != (core.strategy, settings_of(core))


def breakers_reply(core: SchedulerCore, now: float) -> BreakersReply:
    """Every breaker that is open, on trial, or has seen failures since the last success."""
    return BreakersReply(
        breakers=tuple(
            BreakerView(
                node_id=node.node_id,
                model=model,
                state=breaker.state,
                failures=breaker.failures,
                opens_for_s=round(breaker.opens_in_s(now), 3),
            )
            for node in sorted(core.fleet.nodes.values(), key=lambda n: n.node_id)
            for model, breaker in sorted(node.breakers.by_model.items())
            if breaker.is_worth_telling
        )
    )


def reset_breakers(asked: BreakerRequest, core: SchedulerCore, now: float) -> list[Effect] | ErrorBody:
    """Closes what was asked for; the effects are events and whatever may start now."""
    if asked.node_id and asked.node_id not in core.fleet.nodes:
        return unknown_node(asked.node_id, core.fleet.nodes)
    model = canonical(asked.model) if asked.model else ""
    effects: list[Effect] = []
    if not asked.node_id:
        core.binder.breakers.close(model)
    for node_id in [asked.node_id] if asked.node_id else list(core.fleet.nodes):
        effects += core.reset_breaker(node_id, model, now)
    return effects


def _bad(message: str) -> ErrorBody:
    return ErrorBody(code=ErrorCode.BAD_REQUEST, message=message)
