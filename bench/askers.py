"""Callers who ask short questions all the time: lists, figures, one vector, one job; each is to be answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

import httpx
import msgspec

from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client

_PAUSE_S: Final = 0.25
_PATIENCE_S: Final = 60.0
_AGAIN_S: Final = 0.2
PAGES: Final = ("/api/tags", "/v1/models", "/api/ps", "/api/version")


class Asked(msgspec.Struct):
    """What became of the questions."""

    answered: int = 0
    longest_s: float = 0.0
    longest: str = ""
    errors: Counter[str] = msgspec.field(default_factory=Counter)


class Askers:
    """One worker for each question, who asks it again and again.

    Args:
        client: Over NATS.
        url: Where the gateways serve.
        model: Of jobs and short requests.
    """

    def __init__(self, client: Client, url: str, model: str) -> None:
        self.asked = Asked()
        self._client = client
        self._url = url
        self._model = model
        self._is_over = False

    def stop(self) -> None:
        """Nobody asks anything new."""
        self._is_over = True

    def works(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """A worker for each question."""
        client = self._client
        over_nats: Mapping[str, Callable[[], Awaitable[object]]] = {
            "nodes": client.nodes,
            "models": client.models,
            "stats": client.stats,
            "jobs list": client.jobs.latest,
            "job": self._job,
            "generate": lambda: client.generate(self._model, "count down from 2"),
        }
        works = [partial(self._work, name, ask) for name, ask in over_nats.items()]
        return [*works, *(partial(self._browse, page) for page in PAGES)]

    async def _work(self, name: str, ask: Callable[[], Awaitable[object]]) -> None:
        while not self._is_over:
            began = time.monotonic()
            try:
                await asyncio.wait_for(ask(), _PATIENCE_S)
            except (SollolError, TimeoutError) as error:
                why = error.body.code.value if isinstance(error, SollolError) else "no answer"
                self.asked.errors[f"{name}: {why}: {error}"] += 1
            else:
                self._note(name, began)
            await asyncio.sleep(_PAUSE_S)

    async def _job(self) -> None:
        job_id = await self._client.jobs.generate(self._model, "count down from 2")
        answer = await self._client.jobs.end(job_id)
        if answer.text.split() != ["1", "0"]:
            self.asked.errors[f"job: {answer}"] += 1

    async def _browse(self, page: str) -> None:
        # a connection of its own; certificates are not read for nothing
        pool = httpx.AsyncHTTPTransport(verify=False)
        async with httpx.AsyncClient(base_url=self._url, timeout=_PATIENCE_S, transport=pool) as http:
            while not self._is_over:
                began = time.monotonic()
                try:
                    reply = await http.get(page)
                except httpx.ConnectError:
                    await asyncio.sleep(_AGAIN_S)
                    continue
                except httpx.HTTPError as error:
                    self.asked.errors[f"{page}: {type(error).__name__}: {error}"] += 1
                    continue
                if reply.status_code == httpx.codes.OK:
                    self._note(page, began)
                else:
                    self.asked.errors[f"{page}: {reply.status_code}: {reply.text[:200]}"] += 1
                await asyncio.sleep(_PAUSE_S)

    def _note(self, name: str, began: float) -> None:
        self.asked.answered += 1
        took_s = time.monotonic() - began
        if took_s > self.asked.longest_s:
            self.asked.longest_s, self.asked.longest = took_s, name
