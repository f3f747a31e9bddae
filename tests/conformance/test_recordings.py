"""Engines are held to what a real Ollama was recorded to answer.

The emulated node is always played against; `SOLLOL_TEST_ENGINE=http://host:port` adds an engine that has the recorded
models. `SOLLOL_TEST_RECORDINGS` names a folder with other recordings of the same form.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import msgspec
import pytest
import uvloop

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.emulator.config import ollama_settings
from sollol_agents.lab.testing.recordings.form import Case, Scenario, load_cases, load_scenarios
from sollol_agents.lab.testing.recordings.playing import Outcome, play_cases, table
from sollol_agents.lab.testing.recordings.scenarios import emulated_server, play_scenario

FOLDER: Final = Path(os.environ.get("SOLLOL_TEST_RECORDINGS") or Path(__file__).parent / "recordings")
CASES: Final = load_cases(FOLDER / "ollama-0.33.jsonl")
SCENARIOS: Final = load_scenarios(FOLDER / "ollama-0.33-sequences.jsonl")
SPEED: Final = 20.0  # loads and tokens, not keep-alives
BESIDE_EACH_OTHER: Final = 12  # scenarios spend their time waiting

CALL_TOKENS = "a call of a tool has 49 to 51 tokens by chance, with the blanks that a grammar lets in"
TAGS_ORDER = "models of one age are listed in any order; digests and sizes are those of files that do not exist here"
HISTORY = "follows from a request before it that is not among these recordings"
KNOWN_DIFFERENCES: Final = {
    "v1 msg tools stream": CALL_TOKENS,
    "usage with tools": CALL_TOKENS,
    'tool_choice "required"': CALL_TOKENS,
    "strict tool": CALL_TOKENS,
    "tool": CALL_TOKENS,
    "show S": "the tensors of the language model are not listed",
    "show capabilities against tags": TAGS_ORDER,
    "GET /%61pi/tags": TAGS_ORDER,
    "GET /api%2Ftags": TAGS_ORDER,
    "methods of /api/tags": TAGS_ORDER,
    "name 'countdown:LATEST'": HISTORY,
    "delete cloud copy": HISTORY,
}
"""Cases in which the emulated node differs, and why it may."""

WHOLE_MACHINE: Final = "OLLAMA_HOST"
"""Cases of a server on all addresses are not played, for a test listens on loopback only."""


def groups_of(recorded: tuple[Case, ...] | tuple[Scenario, ...]) -> list[str]:
    return sorted({one.group for one in recorded})


@asynccontextmanager
async def emulated(env: dict[str, str]) -> AsyncIterator[str]:
    settings = {"preset": "recorded", "time_scale": SPEED} | ollama_settings(env)
    async with EmulatedNode(msgspec.convert(settings, EmulatorConfig)) as node:
        yield node.url


async def play_emulated() -> list[Outcome]:
    """Plays the cases in order, those of one environment on one server."""
    by_env: dict[tuple[tuple[str, str], ...], list[Case]] = {}
    for case in CASES:
        env = case.server if isinstance(case.server, dict) else {}
        if WHOLE_MACHINE not in env:
            by_env.setdefault(tuple(env.items()), []).append(case)
    outcomes: list[Outcome] = []
    for env_items, cases in by_env.items():
        async with emulated(dict(env_items)) as url:
            outcomes += await play_cases(url, cases)
    return outcomes


async def play_scenarios() -> list[Outcome]:
    places = asyncio.Semaphore(BESIDE_EACH_OTHER)

    async def play(scenario: Scenario) -> Outcome:
        async with places:
            return await play_scenario(scenario, emulated_server)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(play(scenario)) for scenario in SCENARIOS]
    # on a busy machine requests of several clients arrive in another order: what differs is played by itself once more
    return [
        await play_scenario(scenario, emulated_server) if task.result().differences else task.result()
        for scenario, task in zip(SCENARIOS, tasks, strict=True)
    ]


def given_url() -> str:
    url = os.environ.get("SOLLOL_TEST_ENGINE", "").rstrip("/")
    if not url:
        pytest.skip("SOLLOL_TEST_ENGINE names no engine")
    names = {model["name"] for model in httpx.get(f"{url}/api/tags", timeout=10).json().get("models", [])}
    missing = {"countdown:latest", "smollm2:latest", "embed:latest", "gotools:latest"} - names
    if missing:
        pytest.skip(f"the engine lacks {', '.join(sorted(missing))}: see the README of the recordings")
    return url


@pytest.fixture(scope="module", params=["emulated", "given"])
def outcomes(request: pytest.FixtureRequest) -> tuple[bool, list[Outcome]]:
    """Whether the engine is emulated, and how each case went on it."""
    is_emulated = request.param == "emulated"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if is_emulated:
            found = runner.run(play_emulated())
        else:
            url = given_url()
            found = runner.run(play_cases(url, [case for case in CASES if case.server is None]))
    print(f"\n{request.param}\n{table(found)}")
    return is_emulated, found


@pytest.fixture(scope="module")
def scenario_outcomes() -> list[Outcome]:
    """How each scenario went on an emulated node of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(play_scenarios())
    print(f"\n{table(found)}")
    return found


def told(outcomes: list[Outcome]) -> str:
    return "\n".join(f"{one.group}: {one.name}: {difference}" for one in outcomes for difference in one.differences)


@pytest.mark.parametrize("group", groups_of(CASES))
def test_a_case_is_answered_as_recorded(group: str, outcomes: tuple[bool, list[Outcome]]) -> None:
    is_emulated, found = outcomes
    known = KNOWN_DIFFERENCES if is_emulated else {}
    wrong = [one for one in found if one.group == group and one.differences and one.name not in known]
    assert not wrong, told(wrong)


@pytest.mark.parametrize("group", groups_of(SCENARIOS))
def test_a_scenario_goes_as_recorded(group: str, scenario_outcomes: list[Outcome]) -> None:
    wrong = [one for one in scenario_outcomes if one.group == group and one.differences]
    assert not wrong, told(wrong)


def test_the_list_of_known_differences_is_true(outcomes: tuple[bool, list[Outcome]]) -> None:
    is_emulated, found = outcomes
    if not is_emulated or "SOLLOL_TEST_RECORDINGS" in os.environ:
        pytest.skip("the list is that of the emulated node and of these recordings")
    assert KNOWN_DIFFERENCES.keys() <= {one.name for one in found if one.differences}


def test_the_real_llama_cpp_answers_as_one_of_an_earlier_build(llama_url: str) -> None:
    """Which case differs depends on the build that is installed; most do not."""
    server = "countdown -np 4 -c 8192"
    cases = [case for case in load_cases(FOLDER / "llama-server-b10488.jsonl") if str(case.server).startswith(server)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes = runner.run(play_cases(llama_url, cases))
    print(f"\n{table(outcomes)}")
    assert sum(not one.differences for one in outcomes) >= 0.8 * len(cases), told(outcomes)
