"""Operators steer a running system from the command line, as a person and as a script would."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from sollol_agents.lab.testing import processes
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually

MODEL = "llama3.2:3b"

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessFleet]:
    async with ProcessFleet(tmp_path_factory.mktemp("fleet")) as fleet:
        await fleet.up()
        for name, preset in (("attic", "rtx4090-24"), ("cellar", "laptop-cpu")):
            flags = ("--preset", preset, "--model", f"{MODEL}=3.2", "--preload", MODEL, "--time-scale", "0.05")
            engine = await fleet.emulator(name, *flags)
            await fleet.node(name, engine.url, "--slots", "2")
        yield fleet


async def sollol(system: ProcessFleet, *argv: str) -> str:
    """What a command prints, which must succeed."""
    done = await processes.sollol(system.nats_url, *argv)
    assert done.code == 0, done.err
    return done.out


async def test_a_dry_run_compares_the_nodes_and_says_which_it_would_take(system: ProcessFleet) -> None:
    shown = await sollol(system, "route", MODEL, "how do rainbows form?")
    assert "would run on attic" in shown
    assert "attic (chosen)" in shown
    rows = [line.split() for line in shown.splitlines()]
    alternative = next(row for row in rows if row and row[0] == "cellar")
    assert alternative[2].startswith("+")
    decision = msgspec.json.decode(await sollol(system, "route", MODEL, "--node", "cellar", "--strict", "--json"))
    assert decision["decision"]["node_id"] == "cellar"
    assert decision["rejections"][0]["reason"] == "not_chosen_node"


async def test_why_shows_the_alternatives_the_refused_and_the_outcome(system: ProcessFleet) -> None:
    argv = ("generate", MODEL, "count down from 3", "--node", "attic", "--strict", "--json")
    request_id = msgspec.json.decode(await sollol(system, *argv))["request_id"]

    async def is_recorded() -> bool:
        return "success" in await sollol(system, "why", request_id)

    await eventually(is_recorded)
    shown = await sollol(system, "why", request_id)
    assert "attic (chosen)" in shown
    assert ["cellar", "not", "chosen", "node", "attic", "was", "asked", "for"] in [
        line.split() for line in shown.splitlines()
    ]


async def test_a_strategy_is_listed_chosen_and_used_for_the_next_request(system: ProcessFleet) -> None:
    assert "in use" in next(x for x in (await sollol(system, "strategy", "list")).splitlines() if x.startswith("plan"))
    shown = await sollol(system, "strategy", "set", "round_robin", "--setting", "hold=0.4")
    assert "strategy round_robin" in shown
    assert ["hold", "0.4"] in [line.split() for line in shown.splitlines()]
    decision = msgspec.json.decode(await sollol(system, "route", MODEL, "--json"))
    assert decision["decision"]["strategy"] == "round_robin"
    assert "strategy plan" in await sollol(system, "strategy", "set", "plan", "--setting", "hold=0.3")


async def test_circuit_breakers_are_listed_and_closed(system: ProcessFleet) -> None:
    assert "every circuit breaker is closed" in await sollol(system, "breaker", "list")
    assert "every circuit breaker is closed" in await sollol(system, "breaker", "reset", "attic")
    assert msgspec.json.decode(await sollol(system, "breaker", "list", "--json"))["breakers"] == []


async def test_reliability_is_shown_with_uptime_and_forgotten_on_demand(system: ProcessFleet) -> None:
    for _ in range(2):
        await sollol(system, "generate", MODEL, "count down from 3", "--node", "cellar", "--strict")

    async def entries() -> list[dict[str, object]]:
        shown = await sollol(system, "reliability", "cellar", "--json")
        return list(msgspec.json.decode(shown)["entries"])

    async def are_counted() -> bool:
        found = await entries()
        return len(found) == 2 and found[0]["attempts"] == 2

    await eventually(are_counted)
    node, model = await entries()
    assert node["uptime_ratio"] == 1.0
    assert isinstance(node["up_for_s"], float)
    assert "uptime_ratio" not in model
    assert len(model["recent_s"]) == 2  # type: ignore[arg-type]
    assert model["success_lower_bound"] < 1.0  # type: ignore[operator]
    headings = (await sollol(system, "reliability", "cellar")).splitlines()[0].split()
    assert {"ATTEMPTS", "SUCCESS", "PROVEN", "FAILED", "TIMEOUTS", "DISPERSION", "UPTIME"} <= set(headings)
    left = msgspec.json.decode(await sollol(system, "reliability", "cellar", "--forget", "--json"))["entries"]
    assert [(e["node_id"], e.get("attempts", 0)) for e in left] == [("cellar", 0)], "its presence is no outcome"
    assert (await entries())[0].get("attempts", 0) == 0
