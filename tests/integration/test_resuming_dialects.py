"""Streams in each dialect, cut on their way out of an engine: callers of a gateway see no difference."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from sollol_agents.lab.testing.broken_streams import ids_in, steady
from sollol_agents.lab.testing.cut_fleet import CutFleet
from sollol_agents.lab.testing.fake_vllm import FakeVllm

ENGINES: Final = {
    "ollama": ("sollol_agents.lab.emulator", "--preset", "rtx4090-24", "--time-scale", "5", "--parallel", "4"),
    "openai": ("sollol_agents.lab.engine", "--slots", "4"),
}
COUNT: Final = [{"role": "user", "content": "count 9"}]
LONG: Final = [{"role": "user", "content": "count 30"}]
THINK: Final = [{"role": "user", "content": "count think"}]
USAGE: Final = {"stream_options": {"include_usage": True}}
ASKED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", {"messages": COUNT} | USAGE),
    "chat that thinks": ("/v1/chat/completions", {"messages": THINK, "max_tokens": 20}),
    "chat that stops at a word": ("/v1/chat/completions", {"messages": LONG, "stop": ["11"]}),
    "completion": ("/v1/completions", {"prompt": "count 20", "max_tokens": 15} | USAGE),
    "message": ("/v1/messages", {"messages": COUNT, "max_tokens": 90}),
    "message that stops at a word": ("/v1/messages", {"messages": LONG, "max_tokens": 90, "stop_sequences": ["11"]}),
    "message that thinks": ("/v1/messages", {"messages": THINK, "max_tokens": 20}),
    "response": ("/v1/responses", {"input": "count 9"}),
    "response that thinks": ("/v1/responses", {"input": "count think", "max_output_tokens": 20}),
}
CUTS: Final = ([1], [3], [5], [4, 2], [7, 1, 1])
"""After how many pieces of an answer, and then of its rest, its engine's connection ends."""


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The kind of an engine, and where it listens."""
    kind: str = request.param
    flags: tuple[str, ...] = ()
    if kind == "openai":
        if importlib.util.find_spec("xllamacpp") is None:
            pytest.skip("needs the extra `engine`")
        flags = ("--cache-dir", str(tmp_path_factory.mktemp("models")))
    process = subprocess.Popen([sys.executable, "-m", *ENGINES[kind], *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = [line for line in iter(process.stdout.readline, "ready\n") if line]
        yield kind, next(line.split()[1] for line in said if line.startswith("engine "))
    finally:
        process.terminate()
        process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
async def fleet(engine: tuple[str, str], tmp_path: Path) -> AsyncIterator[CutFleet]:
    async with CutFleet(tmp_path, *engine) as made:
        yield made


def _plain(raw: bytes) -> bytes:
    """A stream without what differs between two answers to one request."""
    raw = re.sub(rb"(?m)^: .*\n\n", b"", steady(raw))
    raw = re.sub(rb'"((?:item_)?id)":"[^"]*"', rb'"\1":""', raw)
    raw = re.sub(rb',"_sollol_routing":\{.*?\}(?=[,}])', b"", raw)
    return re.sub(rb'"created":\d+', b'"created":0', raw)


@pytest.mark.parametrize("name", ASKED)
async def test_a_stream_that_is_cut_comes_out_as_if_nothing_had_happened(fleet: CutFleet, name: str) -> None:
    await _hold_to_undisturbed(fleet, *ASKED[name])


@pytest.mark.parametrize("name", ["chat", "completion"])
async def test_so_does_one_of_vllm(tmp_path: Path, name: str) -> None:
    async with FakeVllm() as vllm, CutFleet(tmp_path, "openai", vllm.url) as fleet:
        await _hold_to_undisturbed(fleet, *ASKED[name])


async def _hold_to_undisturbed(fleet: CutFleet, path: str, body: dict[str, Any]) -> None:
    undisturbed = _plain(await fleet.ask(path, body))
    for cuts in CUTS:
        told = await fleet.ask(path, body, *cuts)
        assert _plain(told) == undisturbed, cuts
        assert all(len(ids) == 1 for ids in ids_in(told).values()), cuts
