"""Finds out what answers at an address: an engine, and which; or something that only looks like one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from sollol_agents.node.config import NodeConfig, engine_candidates
from sollol_agents.node.engines.base import Engine
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.ollama import OllamaEngine
from sollol_agents.node.engines.openai import OpenAIEngine
from sollol_bus.errors import ConfigError, SollolError
from sollol_schemas.errors import ErrorCode
from sollol_schemas.telemetry import EngineKind

_OURS: Final = "SOLLOL"
_PAGES: Final = ("/openapi.json", "/login", "/")
"""Where our gateway and our dashboard say who they are."""
_SHOWN: Final = 120


class Probed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was found at one address."""

    url: str
    kind: EngineKind | None = None
    """None: no engine."""
    version: str = ""
    models: int | None = None
    """Models on disk, or served; None: it did not tell in time."""
    loaded: tuple[str, ...] = ()
    """Names of the models in memory."""
    is_silent: bool = False
    """Nothing answers there at all."""
    is_ours: bool = False
    """It is a gateway or a dashboard, of whichever fleet."""
    wants_key: bool = False
    """It may be an engine, and tells nothing without a key."""
    detail: str = ""
    """Why it is no engine, in words."""


async def first_answering(engines: Sequence[Engine]) -> tuple[Engine, str]:
    """The first adapter whose engine answers in its dialect, and the engine's version.

    Raises:
        SollolError: None does; this is what the first of them met.
    """
    failures: list[SollolError] = []
    for engine in engines:
        try:
            return engine, await engine.probe()
        except SollolError as error:
            failures.append(error)
    raise failures[0]


def engine_at(kind: EngineKind, url: str, config: NodeConfig, mark: str = "") -> Engine:
    """The adapter for one dialect at one address, which is told `mark`; connects to nothing yet."""
    http = EngineHttp(url, api_key=config.engine_api_key, mark=mark)
    if kind is EngineKind.OLLAMA:
        return OllamaEngine(http)
    return OpenAIEngine(http, config.model_alias)


async def probe(config: NodeConfig, *, timeout_s: float) -> Probed:
    """What answers at the engine's address of `config`; never raises for what it meets there.

    Args:
        config: Its `url`, `engine` and `engine_api_key` say where to look and for what.
        timeout_s: Bound on each of the three steps: who is it, which dialect, which models.
    """
    candidates = engine_candidates(config)
    url = candidates[0][1]
    engines: list[Engine] = []
    http: EngineHttp | None = None
    try:
        http = EngineHttp(url, api_key=config.engine_api_key, connect_timeout_s=timeout_s)
        engines = [engine_at(kind, where, config) for kind, where in candidates]
        async with asyncio.timeout(timeout_s):
            if await _is_ours(http):
                return Probed(url=url, is_ours=True, detail="a gateway or dashboard of SOLLOL, not an engine")
        async with asyncio.timeout(timeout_s):
            engine, version = await first_answering(engines)
        return await _described(Probed(url=url, kind=engine.kind, version=version), engine, timeout_s)
    except TimeoutError:
        return Probed(url=url, is_silent=True, detail=f"no answer within {timeout_s:g} s")
    except ConfigError as error:
        return Probed(url=url, detail=error.message[:_SHOWN])
    except SollolError as error:
        is_silent = error.body.code is ErrorCode.ENGINE_UNAVAILABLE
        return Probed(url=url, is_silent=is_silent, wants_key=_wants_key(error), detail=_words(error))
    finally:
        for engine in engines:
            await engine.aclose()
        if http is not None:
            await http.aclose()


async def _described(found: Probed, engine: Engine, timeout_s: float) -> Probed:
    try:
        async with asyncio.timeout(timeout_s):
            inventory, loaded = await engine.inventory(), await engine.loaded()
    except (TimeoutError, SollolError):
        return found  # an engine all the same: a busy one may be slow to list its models
    names = tuple(one.name for one in loaded)
    version = inventory.version or found.version
    return msgspec.structs.replace(found, version=version, models=len(inventory.installed), loaded=names)


async def _is_ours(http: EngineHttp) -> bool:
    """Whether a page there, or the refusal of one, bears our name.

    Raises:
        SollolError: Nobody answers.
    """
    for path in _PAGES:
        try:
            text = (await http.call("GET", path, timeout_s=None)).decode("utf-8", "replace")
        except SollolError as error:
            if error.body.code is ErrorCode.ENGINE_UNAVAILABLE:
                raise
            text = str(error.body.details.get("engine_body", ""))
        if _OURS in text[:4096]:
            return True
    return False


def _wants_key(error: SollolError) -> bool:
    return "credentials" in error.message


def _words(error: SollolError) -> str:
    if error.body.code is ErrorCode.ENGINE_UNAVAILABLE:
        return error.message[:_SHOWN]
    if _wants_key(error):
        return "wants a key: try `sollol node --engine-api-key`"
    return "answers, but neither like Ollama nor like an OpenAI-compatible engine"
