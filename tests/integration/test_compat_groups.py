"""The task router over a group of models of a fleet: of a program's own, and of one that it is a client of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.compat import SOLLOL, SOLLOLIntegration, TaskRouter
from sollol_bus.errors import NoEligibleNode
from sollol_bus.loop_thread import LoopThread

MODELS = ("coder", "tester", "writer")
TASK = "Write unit tests for the parser"


@pytest.fixture(scope="module")
def sollol() -> Iterator[SOLLOL]:
    thread = LoopThread("engine", "stopped")
    thread.start()
    models = tuple(f"{model}=1" for model in MODELS)
    engine = EmulatedNode(EmulatorConfig(model=models, preload=MODELS, decode_tps=500.0, parallel=4))
    thread.run(engine.__aenter__())
    with SOLLOL(hosts=[engine.url], gateway_enabled=False) as running:
        yield running
    thread.run(engine.__aexit__(None, None, None))
    thread.stop()


def router_over(sollol: SOLLOL | SOLLOLIntegration, strategy: str, *models: str) -> TaskRouter:
    router = TaskRouter(strategy, sollol, group=f"of-{strategy}".replace("_", "-"))
    for model in models or MODELS:
        router.register_model(model)
    return router


@pytest.mark.parametrize(
    ("strategy", "picks"),
    [("round_robin", [3, 3, 3]), ("least_loaded", [3, 3, 3])],
)
def test_turns_and_loads_are_those_of_the_program(sollol: SOLLOL, strategy: str, picks: list[int]) -> None:
    router = router_over(sollol, strategy)
    assert sorted(Counter(router.route_task(TASK) for _ in range(9)).values()) == picks
    router.close()


def test_a_model_that_no_node_has_is_never_picked(sollol: SOLLOL) -> None:
    router = router_over(sollol, "round_robin", "coder", "nobody-has-it")
    assert {router.route_task(TASK) for _ in range(4)} == {"coder"}
    router.unregister_model("coder")
    with pytest.raises(NoEligibleNode, match="nobody-has-it"):
        router.route_task(TASK)
    router.close()


@pytest.mark.parametrize("strategy", ["performance", "affinity", "hybrid"])
async def test_results_are_feedback_from_which_the_fleet_learns(sollol: SOLLOL, strategy: str) -> None:
    router = router_over(sollol, strategy)
    for model in MODELS:
        for _ in range(4):
            router.record_task_result(model, model == "tester", 0.1, router.get_task_category(TASK))

    async def picks() -> bool:
        return [await router.route_task(TASK) for _ in range(3)] == ["tester"] * 3  # type: ignore[misc]  # on a loop

    await eventually(picks, complaint="the tester is picked")
    answer = await sollol.generate(router.group, f"{TASK}: count down from 3")
    assert answer["model"].removesuffix(":latest") == "tester"
    assert router.get_model_metrics("tester").total_requests == 4
    router.reset_metrics()
    await sollol.house.settled()
    view = await sollol.house.ask(lambda fleet: fleet.client.group(router.group))
    assert [member.quality.feedback for member in view.members] == [0.0] * 3
    router.close()


async def test_a_breaker_that_opens_takes_its_model_out_of_the_group(sollol: SOLLOL) -> None:
    router = router_over(sollol, "affinity")
    for _ in range(5):
        router.record_task_result("coder", False, 0.1)
    assert await router.route_task(TASK) != "coder"  # type: ignore[misc]  # on a loop
    view = await sollol.house.ask(lambda fleet: fleet.client.group(router.group))
    assert {member.model for member in view.group.members} == {"tester", "writer"}
    router.force_health_recovery("coder")
    router.set_routing_strategy("round_robin")
    assert {await router.route_task(TASK) for _ in range(3)} == set(MODELS)  # type: ignore[misc]  # on a loop
    router.close()


async def test_a_client_of_a_fleet_routes_too_and_leaves_no_group_behind(sollol: SOLLOL) -> None:
    own = sollol.house.fleet.own
    assert own is not None
    async with SOLLOLIntegration(nats=own.stack.nats_url) as client:
        router = router_over(client, "round_robin")
        assert {await router.route_task(TASK) for _ in range(3)} == set(MODELS)  # type: ignore[misc]  # on a loop
        router.close()
    left = await sollol.house.ask(lambda fleet: fleet.client.groups())
    assert "of-round-robin" not in [view.group.name for view in left.groups]
