"""Small requests for embeddings that come while others like them are under way, sent to an engine as one.

The one is a request like any client's, made over a connection of its own: it is queued, fails over and is recorded as
any other. Where it fails, for whatever reason, each of those that it stood for goes its own way: a bad input harms
nobody but its caller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from sollol_agents.dispatcher.requests.collecting import Collector
from sollol_agents.dispatcher.requests.intake import SUBJECT_OF, Request
from sollol_agents.dispatcher.requests.merging import Key, Part, Unlike, figures_for, merged, part_of, taken_apart
from sollol_agents.dispatcher.requests.shared import SharedRequest
from sollol_bus.errors import SollolError
from sollol_bus.parts import Spawn
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.results import decision_of, figures_of
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.streaming import grown
from sollol_bus.trust.callers import Roster
from sollol_schemas import headers as h
from sollol_schemas.decision import Decision
from sollol_schemas.execution import Figures
from sollol_schemas.owners import caller_of
from sollol_schemas.routing import routing_header

log = logging.getLogger(__name__)

_TEXTS_MAX: Final = 32
_TOKENS_MAX: Final = 4096
_LEAST_DEADLINE_S: Final = 0.01
_ALONE: Final = {routing_header("auto_batch"): "false"}


class Answer(NamedTuple):
    """What one caller is told."""

    body: bytes
    decision: Decision | None
    figures: Figures
    content_type: str


class Member(NamedTuple):
    """A request with its texts."""

    request: SharedRequest
    part: Part


class EmbeddingBatches:
    """Decides which requests go together, and serves these.

    Args:
        calls: The connection of the requests that stand for several.
        spawn: Runs a coroutine as a task of the dispatcher.
        window_s: How long a request waits for others at most; 0: each goes alone.
    """

    def __init__(self, calls: Callable[[], Bus], spawn: Spawn, *, window_s: float) -> None:
        self._calls = calls
        self._spawn = spawn
        self._is_on = window_s > 0
        self._collector: Collector[Key, Member] = Collector(
            window_s=window_s, texts_max=_TEXTS_MAX, tokens_max=_TOKENS_MAX
        )
        self._places: dict[SharedRequest, tuple[Key, Member]] = {}
        """Of requests that are under way alone, or wait for others."""
        self._timer: asyncio.TimerHandle | None = None
        self.batches = 0
        """Requests made since the start that stood for several."""

    def part_of(self, request: Request, roster: Roster) -> tuple[Key, Part] | None:
        """The request's texts and its kind; None where it goes alone whatever happens."""
        if not self._is_on:
            return None
        return part_of(request, roster.of(caller_of(request.headers)))

    def take(self, request: SharedRequest, key: Key, part: Part) -> bool:
        """Whether the request waits for others, which takes a few milliseconds at most; else it goes alone now."""
        member = Member(request, part)
        now = time.monotonic()
        waits = self._collector.offer(key, member, texts=len(part.texts), tokens=part.tokens, now=now)
        request.is_in_batch = waits
        self._places[request] = (key, member)
        self._look()
        return waits

    def over(self, request: SharedRequest) -> None:
        """A request is answered, or its caller is gone."""
        place = self._places.pop(request, None)
        if place is None:
            return
        key, member = place
        if request.is_in_batch:
            self._collector.withdraw(key, member)
        else:
            self._collector.ended(key)
            self._look()

    def _look(self) -> None:
        """Sends what is due, and looks again when the next is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key, members in self._collector.due(time.monotonic()):
            self._begin(key, members)
        delay_s = self._collector.next_at() - time.monotonic()
        if delay_s < float("inf"):
            self._timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._look)

    def _begin(self, key: Key, members: list[Member]) -> None:
        if len(members) == 1:
            members[0].request.go_alone()
            return
        for member in members:
            del self._places[member.request]
        self.batches += 1
        self._spawn(self._serve(key, members), name="embeddings")

    async def _serve(self, key: Key, members: Sequence[Member]) -> None:
        parts = [member.part for member in members]
        try:
            answers = await self._answers(key, members)
        except (SollolError, Unlike) as error:
            log.info(
                "%d requests for embeddings go alone after all: %s", len(parts), error, extra={"action": "batch_split"}
            )
            answers = None
        for place, member in enumerate(members):
            if member.request.is_over:
                continue
            if answers is None or not member.request.answer(*answers[place]):
                self._collector.began(key)
                self._places[member.request] = (key, member)
                member.request.go_alone()
        self._collector.ended(key)
        self._look()

    async def _answers(self, key: Key, members: Sequence[Member]) -> list[Answer]:
        """What each of them is to be told, in their order.

        Raises:
            SollolError: What ended the request that stood for them.
            Unlike: Its answer cannot be taken apart.
        """
        parts = [member.part for member in members]
        call = Call(
            self._calls(),
            SUBJECT_OF[key.kind],
            merged(key, parts),
            headers=_headers(key, members[0].request.request),
            deadline_s=max(_LEAST_DEADLINE_S, min(member.request.left_s for member in members)),
        )
        chunks: list[bytes] = []
        size = 0
        async with call:
            async for msg in call:
                size = grown(size, msg.data)
                chunks.append(msg.data)
        bodies = taken_apart(key, b"".join(chunks), parts)
        first = call.first
        content_type = (first.headers or {}).get(h.CONTENT_TYPE, "") if first is not None else ""
        decision, figures = decision_of(first), figures_for(figures_of(call.last), parts)
        return [Answer(body, decision, own, content_type) for body, own in zip(bodies, figures, strict=True)]


def _headers(key: Key, example: Request) -> dict[str, str]:
    """What goes with a request that stands for others like this one."""
    routing = {routing_header(name): _text(value) for name, value in msgspec.to_builtins(key.routing).items()}
    kept = {name: example.headers[name] for name in (h.CALLER, h.PATH, h.VIA, h.TRACEPARENT) if name in example.headers}
    return {**routing, **kept, **_ALONE}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
