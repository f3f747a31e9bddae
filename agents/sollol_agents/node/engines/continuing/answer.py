"""The rest of an answer, told as native objects whatever the dialect of the request."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import msgspec

from sollol_agents.node.engines.base import EngineAnswer, EngineRequest
from sollol_agents.node.engines.continuing.marks import Marks
from sollol_agents.node.engines.continuing.reader import Piece, RestReader
from sollol_agents.node.engines.continuing.refusing import refused_to_go_on
from sollol_agents.node.engines.refusals import broken_off
from sollol_agents.node.engines.translation.native_lines import CONTENT_TYPE, NativeLines, created_at
from sollol_bus.errors import SollolError
from sollol_bus.sdk.answers import joined
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Figures

LENGTH = "length"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rest begins."""

    text: str
    """The prompt, and all that was said as the model wrote it."""
    prompt_tokens: int | None = None
    """Of the prompt alone; None: what the engine read, without what was said."""
    said_tokens: int | None = None
    """None: what the engine read, without the prompt."""
    left_tokens: int | None = None
    """So many may still be made; None: there is no limit."""
    thought: Marks | None = None
    """The marks of the thought in which the rest begins."""
    calls: tuple[str, ...] = ()
    """How calls of tools begin, where there are tools."""
    trims: bool = False
    spent: Figures = Figures()
    """What it took to find out."""


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine's completion ended."""

    reason: str
    figures: Figures
    """`prompt_tokens`: all that it read, what was said included."""
    stopping_word: str = ""
    """The text at which it stopped, where the engine tells."""


class Way(Protocol):
    """How one engine goes on."""

    completed: Completed | None

    async def start(self) -> Start:
        """Finds out where the rest begins.

        Raises:
            SollolError: `not_continued`, with the reason, or what the engine met.
        """

    def rest(self, start: Start) -> AsyncGenerator[list[str], None]:
        """The raw completion; `completed` says how it ended."""


class ContinuedAnswer(EngineAnswer):
    """An answer that goes on.

    Args:
        way: How the engine does it.
        request: What is gone on with.
    """

    content_type = CONTENT_TYPE

    def __init__(self, way: Way, request: EngineRequest) -> None:
        self._way = way
        self._is_foreign = request.kind is RequestKind.PASSTHROUGH
        self._kind = RequestKind.CHAT if request.kind is RequestKind.CHAT else RequestKind.GENERATE
        self._lines = NativeLines(self._kind, request.model)

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """Native objects of the rest, and the final one."""
        began = time.perf_counter()
        try:
            start = await self._way.start()
            self.seam_s = time.perf_counter() - began
            reader = RestReader(start.thought, start.calls, trims=start.trims)
            completed = Completed(reason=LENGTH, figures=_all_read(start))
            if start.left_tokens is None or start.left_tokens > 0:
                async with aclosing(self._way.rest(start)) as pieces:
                    async for batch in pieces:
                        self.output_chunks += len(batch)
                        yield self._told([reader.feed(data) for data in batch])
                if self._way.completed is None:
                    raise broken_off("the engine's stream ended without its final message")
                completed = self._way.completed
        except SollolError as error:
            raise refused_to_go_on(error) from error
        total_s = time.perf_counter() - began
        said = said_tokens(start, completed)
        told = completed.figures
        self.figures = msgspec.structs.replace(
            told,
            continued_tokens=said,
            cached_tokens=told.cached_tokens if start.spent.cached_tokens is None else start.spent.cached_tokens,
            prompt_s=_sum(start.spent.prompt_s, told.prompt_s),
            load_s=start.spent.load_s + told.load_s,
            slot_wait_s=start.spent.slot_wait_s + told.slot_wait_s,
        )
        alone = max(0, (told.prompt_tokens or 0) - said) if start.prompt_tokens is None else start.prompt_tokens
        made = told.output_tokens or 0
        whole = msgspec.structs.replace(self.figures, prompt_tokens=alone, output_tokens=said + made)
        word = completed.stopping_word if self._is_foreign else ""
        final = self._lines.final(created_at(), whole, total_s, completed.reason, stopping_word=word)
        yield [*self._told([reader.finish()]), final]

    def join(self, chunks: list[bytes]) -> bytes:
        """Ollama's single reply."""
        return joined(self._kind, chunks)

    def _told(self, pieces: list[Piece]) -> list[bytes]:
        now = created_at()
        return [self._lines.piece(now, one.text, one.thinking) for one in pieces if one.text or one.thinking]


def said_tokens(start: Start, completed: Completed) -> int:
    """Tokens of what was said."""
    if start.said_tokens is not None:
        return start.said_tokens
    return max(0, (completed.figures.prompt_tokens or 0) - (start.prompt_tokens or 0))


def _all_read(start: Start) -> Figures:
    """The figures where nothing is left to be made."""
    return Figures(prompt_tokens=(start.prompt_tokens or 0) + (start.said_tokens or 0), output_tokens=0)


def _sum(one: float | None, other: float | None) -> float | None:
    return other if one is None else one + (other or 0.0)
