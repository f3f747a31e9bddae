"""What engines really do: fewer at a time than their slots promise, and loads that one machine teaches the others."""

from __future__ import annotations

from sollol_agents.lab.testing.messages import MODEL, engine, gpu
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_agents.scorer.knowledge import priors
from sollol_agents.scorer.knowledge.concurrency import Concurrency
from sollol_agents.scorer.knowledge.speeds import LoadRatio, NodeSpeeds
from sollol_agents.scorer.office.views import nodes_reply
from sollol_schemas.execution import Figures
from sollol_schemas.telemetry import EngineKind, InFlight


def serve(fleet: Fleet, real_slots: int, rounds: int) -> None:
    """A node of four slots whose engine runs fewer: the others of its attempts make no token until one ends."""
    node = fleet.core.fleet.nodes["gpu1"]
    for number in range(8 * rounds):
        fleet.ask(f"r{number}", deadline_s=1e6)
    for _ in range(rounds):
        fleet.now += 4.0
        running = list(node.attempts)
        told = tuple(
            InFlight(attempt_id=a, model=MODEL, has_first_token=i < real_slots, output_tokens=20 * (i < real_slots))
            for i, a in enumerate(running)
        )
        fleet.load("gpu1", slots=4, in_flight=told)
        fleet.end(running[0], "gpu1")


def test_an_engine_that_runs_fewer_than_its_slots_is_granted_what_it_runs() -> None:
    fleet = Fleet()
    fleet.node(slots=4)
    serve(fleet, real_slots=2, rounds=12)
    node = fleet.core.fleet.nodes["gpu1"]
    assert node.serialised() == {MODEL: 2}
    assert len(node.attempts) <= 2
    view = nodes_reply(fleet.core, fleet.now, "s1").nodes[0]
    assert view.serialised == {MODEL: 2}


def test_an_engine_that_runs_all_its_slots_is_not_suspected() -> None:
    fleet = Fleet()
    fleet.node(slots=4)
    serve(fleet, real_slots=4, rounds=12)
    assert fleet.core.fleet.nodes["gpu1"].serialised() == {}


def test_one_more_that_streams_ends_the_suspicion_and_so_does_time() -> None:
    seen = Concurrency()
    for number in range(4):
        seen.observe(2, {f"r{number}": 60.0}, 1.0, 10.0)
    assert seen.limit == 2
    assert seen.observe(3, {}, 0.0, 20.0)
    assert seen.limit == 0
    for number in range(4):
        seen.observe(3, {f"s{number}": 60.0}, 1.0, 30.0)
    assert seen.limit == 3
    seen.observe(3, {}, 0.0, 700.0)
    assert seen.limit == 0


def test_long_prompts_are_given_their_time() -> None:
    seen = Concurrency()
    for number in range(20):
        seen.observe(1, {f"r{number}": 25.0}, 10.0, 10.0)
    assert seen.limit == 0


def test_a_load_teaches_the_other_machines_what_their_disks_may_do() -> None:
    loads = LoadRatio()
    one, other = (
        NodeSpeeds(machine=priors.gpu_machine((gpu(name),)), has_gpu=True, loads=loads) for name in ("RTX 4090", "M4")
    )
    expected = other.load_s("m", 5e9)
    for _ in range(4):
        one.learn("m", 5e9, Figures(actual_s=12, load_s=3.0 * one.load_s("never", 5e9)), 1.0)
    assert other.load_s("m", 5e9) > 1.8 * expected


def test_a_slow_machine_is_expected_to_load_longer() -> None:
    fast, slow = (priors.gpu_machine((gpu(name),)) for name in ("RTX 4090", "Apple M4"))
    assert priors.load_s(slow, 5e9) > 2.0 * priors.load_s(fast, 5e9)


def test_an_engine_of_another_kind_serves_all_its_models_without_loading_them() -> None:
    fleet = Fleet()
    fleet.node(engine=engine(EngineKind.OTHER), loaded=(), gpus=())
    fleet.ask("r1")
    (attempt,) = fleet.core.fleet.nodes["gpu1"].attempts.values()
    assert attempt.load_s == 0
