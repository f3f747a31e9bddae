"""Real processes for each test or, behind a gateway, for many; and the figures that the tests measured."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from sollol_agents.lab.testing import warm_start
from sollol_agents.lab.testing.gateway_fleet import GatewayFleet
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.warm_start import Program

_FIGURE = "figure"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    figures = [
        f"{r.nodeid.rpartition('::')[2]}: {text}"
        for r in reports
        for name, text in r.user_properties
        if name == _FIGURE
    ]
    if figures:
        terminalreporter.section("measured on this machine, in this run")
        for line in figures:
            terminalreporter.write_line(line)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Notes a measured figure for the summary at the end of the run; it travels with the test's report."""

    def note(text: str) -> None:
        request.node.user_properties.append((_FIGURE, text))

    return note


@pytest.fixture(scope="session", autouse=True)
def nursery() -> Iterator[None]:
    """Processes of this software start as forks, in a tenth of the time; guides and README start theirs anew."""
    with warm_start.nursery():
        yield


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[ProcessFleet]:
    """An empty fleet; whatever is started in it is gone afterwards."""
    async with ProcessFleet(tmp_path) as made:
        yield made
        started = [p for child in made.children if child.exit_code is None for p in family(child.pid)]
    assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


# -- one fleet behind a gateway, for the tests that change nothing in it -----------------------------------------


@pytest.fixture(scope="session", autouse=True)
def no_forgotten_loop() -> None:
    """Lets nobody make an event loop by asking for the present one; a plug-in does so in plain tests."""
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def start() -> Callable[..., dict[str, str]]:
    """Starts a module that ends with an `ExitStack`; returns what it said before `ready`, and its `pid`."""
    return start_module


MODELS = ("countdown+vision", "nomic-embed-text=0.137", "llama3.2:3b=3.2", "llama3.1:8b=8.03", "qwen2.5:14b=14.8")
"""Those of the emulated node before the gateway; the first takes images."""


@pytest.fixture(scope="session")
def fleet_behind_gateway(nursery: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayFleet]:
    """One for all tests of a worker: starting it takes seconds."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    with ExitStack() as stack:
        starting = Starting(
            stack,
            *("sollol_agents.cli", "up", "--nats-port", "0", "--http-port", "0", "--no-dashboard"),
            "--no-local-node",
            *("--store-dir", str(folder), "--log-level", "warning"),
        )
        flags = ["--preset", "rtx4090-24", "--time-scale", "20", "--parallel", "4", "--preload", "countdown"]
        flags += [word for model in MODELS for word in ("--model", model)]
        engines = {"emulated": (Starting(stack, "sollol_agents.lab.emulator", *flags), "ollama")}
        if importlib.util.find_spec("xllamacpp") is not None:
            real = Starting(stack, "sollol_agents.lab.engine", "--slots", "4", "--cache-dir", str(folder))
            engines["real"] = (real, "openai")
        up = starting.said_until_ready()
        urls = {name: engine.said_until_ready()["engine"] for name, (engine, _) in engines.items()}
        nodes = [
            Starting(
                stack,
                *("sollol_agents.cli", "node", "--nats", up["nats"], "--log-level", "warning"),
                *("--id", name, "--engine", kind, "--url", urls[name]),
            )
            for name, (_, kind) in engines.items()
        ]
        for node in nodes:
            node.said_until_ready()
        wait_for_nodes(up["http"], set(engines))
        yield GatewayFleet(up["http"], urls)


def start_module(stack: ExitStack, *argv: str) -> dict[str, str]:
    """Starts a module, which ends with the stack; what it said before `ready`, by the first word, and its `pid`."""
    return Starting(stack, *argv).said_until_ready()


class Starting:
    """A module that starts, beside others, and ends with the stack."""

    def __init__(self, stack: ExitStack, *argv: str) -> None:
        self._argv = argv
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed when the process has ended
        self._program = Program(*argv, errors=self._complaints)
        stack.callback(self._stop)

    def said_until_ready(self) -> dict[str, str]:
        """What it said before `ready`, by the first word, and its `pid`."""
        said: dict[str, str] = {"pid": str(self._program.pid)}
        for line in self._program.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "ready":
                return said
            said[word] = rest
        raise AssertionError(f"{self._argv} ended before it was ready: {said}")

    def _stop(self) -> None:
        code = self._program.end()
        self._complaints.seek(0)
        said_wrong = self._complaints.read()
        self._complaints.close()
        assert code == 0, f"{' '.join(self._argv)} ended with {code}: {said_wrong}"


def wait_for_nodes(url: str, wanted: set[str]) -> None:
    """Returns once the models of all these nodes are listed."""
    transport = httpx.HTTPTransport(retries=3)
    with httpx.Client(transport=transport, timeout=20) as http:
        until_mono_s = time.monotonic() + 60
        while time.monotonic() < until_mono_s:
            rows = http.get(f"{url}/api/tags").json().get("models", [])
            if wanted <= {node for row in rows for node in row["nodes"]}:
                return
            time.sleep(0.02)
        raise AssertionError(f"nodes {wanted} did not join: {rows}")
