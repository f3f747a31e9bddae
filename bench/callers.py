"""Callers of every kind who never stop asking, and check each answer to its last word."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

import httpx
import msgspec

from sollol_bus.errors import ActorStopped, NoResponders, SollolError
from sollol_bus.sdk.call import Call
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.many import request_many
from sollol_bus.transport.messages import encode, error_of
from sollol_schemas import headers as h
from sollol_schemas import subjects

WAYS: Final = ("sdk", "nats", "http")
_AGAIN_S: Final = 0.2
_STOPPED: Final = "is shutting down"
_PATIENCE_S: Final = 60.0


Ask = Callable[[str, str], AsyncIterator[str]]
"""The pieces of the answer to a prompt, asked under an id."""


class ComeBack(Exception):
    """Nothing was begun, and the caller was told so: it asks again."""


class Broken(Exception):
    """The request ended otherwise than with its answer."""


class Tally(msgspec.Struct):
    """What became of the requests."""

    answered: int = 0
    told_to_come_back: int = 0
    """Refused before anything began, with the advice to ask again: as good as a refused connection."""
    cut: int = 0
    """Begun answers that ended with an error which says that whoever served them stopped."""
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    lost: int = 0
    """Answers with words missing."""
    doubled: int = 0
    """Answers with words twice."""
    gap_s: float = 0.0
    """Longest silence in the middle of an answer."""
    gapped: str = ""
    """In which request that was."""
    wait_s: float = 0.0
    """Longest wait for the first word of one."""
    waited: str = ""
    """Who waited so long, and for which request."""


class Callers:
    """Workers who ask one thing after another until they are told to stop.

    Args:
        bus: The connection of those that use the SDK and of the plain ones.
        url: Where the gateways serve.
        model: What they ask.
        rng: Spreads them over the ways.
    """

    def __init__(self, bus: Bus, url: str, model: str, rng: random.Random) -> None:
        self.tally = Tally()
        self.gaps: list[float] = []
        """The longest silence of each answer."""
        self.begun = 0
        """Streams that are in their middle."""
        self.open = 0
        """Requests that are not over."""
        self.words = 0
        """How often anything came."""
        self._bus = bus
        self._url = url
        self._model = model
        self._rng = rng
        self._is_over = False

    def stop(self) -> None:
        """Nobody asks anything new."""
        self._is_over = True

    async def work(self, way: str, tokens: int) -> None:
        """Asks one thing after another, each with an answer of so many words."""
        await asyncio.sleep(self._rng.random())
        # a connection of its own: a shared pool is slower than what is measured; certificates are not read for nothing
        pool = httpx.AsyncHTTPTransport(verify=False)
        async with httpx.AsyncClient(base_url=self._url, timeout=_PATIENCE_S, transport=pool) as http:
            ways: dict[str, Ask] = {
                "sdk": self._by_sdk,
                "nats": self._by_nats,
                "http": partial(self._by_http, http),
            }
            while not self._is_over:
                self.open += 1
                try:
                    await self._until_answered(ways[way], way, tokens + self._rng.randrange(tokens // 4 + 1))
                except Broken as error:
                    self._note_break(str(error))
                finally:
                    self.open -= 1

    def _note_break(self, why: str) -> None:
        if _STOPPED in why:
            self.tally.cut += 1
        else:
            self.tally.errors[why] += 1

    async def _until_answered(self, ask: Ask, way: str, tokens: int) -> None:
        began = time.monotonic()
        while True:
            try:
                await self._ask(ask, way, tokens, began)
            except ComeBack as told:
                self.tally.told_to_come_back += 1
                if time.monotonic() - began > _PATIENCE_S:
                    raise Broken(f"told to come back for too long: {told}") from told
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def _ask(self, ask: Ask, way: str, tokens: int, began: float) -> None:
        text, last, gap_s = "", began, 0.0
        request_id = f"{way}-{self._rng.getrandbits(64):016x}"
        try:
            async for piece in ask(f"count down from {tokens}", request_id):
                now = time.monotonic()
                self.words += 1
                if text:
                    gap_s = max(gap_s, now - last)
                else:
                    self.begun += 1
                    self._note_wait(now - began, request_id)
                text, last = text + piece, now
        except ComeBack as told:
            if text:
                raise Broken(f"{request_id} in its middle: {told}") from told
            raise
        except Broken as error:
            raise Broken(f"{request_id} {'in its middle' if text else 'before it began'}: {error}") from error
        finally:
            self.begun -= bool(text)
        self._note_gap(gap_s, request_id)
        self._check(text.split(), [str(n) for n in range(tokens - 1, -1, -1)])

    def _body(self, prompt: str) -> bytes:
        return encode({"model": self._model, "prompt": prompt, "stream": True})

    def _note_wait(self, wait_s: float, request_id: str) -> None:
        if wait_s > self.tally.wait_s:
            self.tally.wait_s, self.tally.waited = wait_s, request_id

    def _note_gap(self, gap_s: float, request_id: str) -> None:
        self.gaps.append(gap_s)
        if gap_s > self.tally.gap_s:
            self.tally.gap_s, self.tally.gapped = gap_s, request_id

    def _check(self, said: list[str], wanted: list[str]) -> None:
        if said == wanted:
            self.tally.answered += 1
        elif any(count > 1 for count in Counter(said).values()):
            self.tally.doubled += 1
        else:
            self.tally.lost += 1

    async def _by_sdk(self, prompt: str, request_id: str) -> AsyncIterator[str]:
        try:
            async with Call(self._bus, subjects.GENERATE, self._body(prompt), request_id=request_id) as call:
                async for msg in call:
                    yield _word(msg.data)
        except SollolError as error:
            raise Broken(f"{error.body.code}: {error}") from error

    async def _by_nats(self, prompt: str, request_id: str) -> AsyncIterator[str]:
        try:
            async for msg in request_many(
                self._bus,
                subjects.GENERATE,
                self._body(prompt),
                headers={h.REQUEST_ID: request_id},
                first_s=_PATIENCE_S,
                gap_s=_PATIENCE_S,
                total_s=2 * _PATIENCE_S,
            ):
                if error_of(msg) is None:
                    yield _word(msg.data)
        except SollolError as error:
            if isinstance(error, (NoResponders, ActorStopped)):
                raise ComeBack(f"{error.body.code}: {error}") from error
            raise Broken(f"{error.body.code}: {error}") from error

    async def _by_http(self, http: httpx.AsyncClient, prompt: str, request_id: str) -> AsyncIterator[str]:
        headers, body = {"X-Sollol-Request-Id": request_id}, self._body(prompt)
        try:
            async with http.stream("POST", "/api/generate", content=body, headers=headers) as reply:
                if reply.headers.get("x-should-retry") == "true":
                    raise ComeBack(f"{reply.status_code}: {(await reply.aread())[:200]!r}")
                async for line in reply.aiter_lines():
                    yield _word(line.encode())
        except httpx.ConnectError as error:
            raise ComeBack("connection refused") from error
        except httpx.HTTPError as error:
            raise Broken(f"{type(error).__name__}: {error}") from error


def _word(line: bytes) -> str:
    said = msgspec.json.decode(line)
    if "error" in said:
        raise Broken(str(said["error"]))
    return str(said["response"])


def spread(count: int, ways: Sequence[str] = WAYS) -> list[str]:
    """The ways of so many callers, as many of each as of any other."""
    return list(itertools.islice(itertools.cycle(ways), count))
