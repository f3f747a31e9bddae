"""Every snippet of the guides for other projects runs as it stands there, on two emulated engines.

A comment in front of a `python` block names it and says which words it prints: `<!-- snippet NAME: word | word -->`.
The blocks of a guide share their names, as in one program; each has a test, which runs those before it first.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.ports import free_port
from sollol_bus.compat import SOLLOL
from sollol_bus.loop_thread import LoopThread

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
NAMES = ("sollol", "hydra", "synapticllamas", "flockparser", "the-task-router")
MODELS = ("llama3.2=2", "llama3.2:3b=2", "qwen3:14b=9", "qwen3:1.7b=1", "mixtral:8x7b=5", "llama3.1:70b=12")
LOADED = ("llama3.2", "qwen3:1.7b", "nomic-embed-text")

_SNIPPET = re.compile(
    r"^<!-- snippet (?P<name>[a-z-]+)(?:: (?P<words>[^\n]*?))? -->\n+```python\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)

pytestmark = pytest.mark.skipif(not GUIDES.is_dir(), reason="the documents are in the checkout only")


class Snippet(NamedTuple):
    """One block of a guide."""

    name: str
    words: list[str]
    code: str


def guide_of(project: str) -> Path:
    return GUIDES / f"migrating-from-{project}.md"


def snippets_of(project: str) -> list[Snippet]:
    path = guide_of(project)
    if not path.exists():
        return []
    found = _SNIPPET.finditer(path.read_text(encoding="utf-8"))
    return [Snippet(one["name"], (one["words"] or "").split(" | "), one["code"]) for one in found]


class Reader:
    """Somebody who types a guide's blocks into one program, in order."""

    def __init__(self, project: str, places: Mapping[str, str]) -> None:
        self.snippets = snippets_of(project)
        self.printed: dict[str, str] = {}
        self.loop = asyncio.new_event_loop()
        self._names: dict[str, Any] = {"asyncio": asyncio, "__name__": project}
        self._places = places

    def read(self, name: str) -> str:
        """What a block prints; those before it that did not run are run first."""
        for snippet in self.snippets:
            if snippet.name not in self.printed:
                self.printed[snippet.name] = self._run(snippet)
            if snippet.name == name:
                break
        return self.printed[name]

    def _run(self, snippet: Snippet) -> str:
        code = snippet.code
        for there, here in self._places.items():
            code = code.replace(there, here)
        compiled = compile(code, snippet.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            made = eval(compiled, self._names)
            if inspect.isawaitable(made):
                self.loop.run_until_complete(made)
        text = out.getvalue()
        for there, here in self._places.items():
            text = text.replace(here, there)
        return text

    def close(self) -> None:
        """Ends what a block left open."""
        sollol = self._names.get("sollol")
        if isinstance(sollol, SOLLOL):
            sollol.stop()
        elif sollol is not None:
            self.loop.run_until_complete(sollol.close())
        self.loop.close()


@pytest.fixture(scope="module")
def engines() -> Iterator[list[EmulatedNode]]:
    thread = LoopThread("engines", "stopped")
    thread.start()
    models = (*MODELS, "nomic-embed-text=0.1")
    config = EmulatorConfig(model=models, preload=LOADED, decode_tps=5000.0, parallel=4, time_scale=100.0)
    started = [EmulatedNode(config) for _ in range(2)]
    for engine in started:
        thread.run(engine.__aenter__())
    yield started
    for engine in started:
        thread.run(engine.__aexit__(None, None, None))
    thread.stop()


@pytest.fixture(scope="module")
def fleet(engines: list[EmulatedNode]) -> Iterator[str]:
    """Address of a fleet that runs on this machine."""
    with SOLLOL(hosts=[engine.url for engine in engines], gateway_enabled=False) as running:
        own = running._house.fleet.own
        assert own is not None
        yield own.stack.nats_url


@pytest.fixture(scope="module")
def readers(engines: list[EmulatedNode], fleet: str) -> Iterator[dict[str, Reader]]:
    readers: dict[str, Reader] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLLOL_NATS", fleet)
        for project in NAMES:
            places = {
                "gpu-node-1:11434": engines[0].url.removeprefix("http://"),
                "gpu-node-2:11434": engines[1].url.removeprefix("http://"),
                "localhost:11434": f"localhost:{engines[0].url.rpartition(':')[2]}",
                "localhost:8000": f"127.0.0.1:{(port := free_port())}",
                "SOLLOLConfig(": f"SOLLOLConfig(gateway_port={port}, ",
            }
            readers[project] = Reader(project, places)
        yield readers
        for reader in readers.values():
            reader.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "sollol"] == ["sollol"]


CASES = [(project, snippet.name, snippet.words) for project in NAMES for snippet in snippets_of(project)]


@pytest.mark.parametrize(("project", "name", "words"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_a_snippet_of_a_guide_runs(readers: dict[str, Reader], project: str, name: str, words: list[str]) -> None:
    printed = readers[project].read(name)
    assert [word for word in words if word not in printed] == [], printed


@pytest.mark.parametrize("project", NAMES)
def test_every_block_of_a_guide_is_run_and_the_guide_is_linked(project: str) -> None:
    text = guide_of(project).read_text(encoding="utf-8")
    assert len(snippets_of(project)) == text.count("```python") >= 3
    assert guide_of(project).name in (GUIDES / "migrating.md").read_text(encoding="utf-8")
