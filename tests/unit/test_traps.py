"""Traps that routers of LLM requests are known to fall into, each as a test on the scorer's core.

The numbers are those of the list in `docs/scheduling.md`; the traps that need engines and a bus are in
`tests/integration/test_traps.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sollol_agents.lab.testing.messages import MODEL, gpu, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, refused
from sollol_agents.scorer.core import Effect
from sollol_agents.scorer.knowledge import lengths
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    Gpu,
)

BIG = "large:14b"
FAST = (gpu("RTX 4090"),)


class Stage(Fleet):
    """A fleet of nodes with two slots."""

    def node(self, node_id: str = "a", **changes: Any) -> list[Effect]:
        usual = {} if node_id in self.told else {"slots": 2}
        return super().node(node_id, **(usual | changes))


def test_trap_1_a_node_that_fails_fast_looks_least_loaded_and_still_becomes_no_black_hole() -> None:
    stage = Stage()
    stage.node("broken", gpus=FAST)
    stage.node("sound")
    served: list[str] = []
    for i in range(60):
        node_id = stage.place(f"r{i}")
        served.append(node_id)
        stage.end(f"r{i}-1", node_id, code=ErrorCode.ENGINE_FAILED if node_id == "broken" else None)
        stage.now += 0.2
        stage.node("broken")
        stage.node("sound")
    assert served[0] == "broken", "the faster node is tried first, or the trap is not set"
    assert served.count("broken") <= 5


def test_trap_2_a_loaded_model_does_not_draw_everything_while_a_twin_idles() -> None:
    stage = Stage()
    stage.node("warm", slots=4)
    stage.node("cold", slots=4, loaded=())
    for i in range(12):
        stage.place(f"r{i}", prompt=3000)
    assert stage.running_on("cold") >= 1
    assert granted(stage.effects)[
        next(r for r in granted(stage.effects) if stage.where(r) == "cold")
    ].decision.forecast.needs_load
    both = Stage()
    both.node("a", slots=4)
    both.node("b", slots=4)
    assert {both.place(f"r{i}") for i in range(2)} == {"a", "b"}


def test_trap_3_arrivals_between_two_heartbeats_are_spread_by_our_own_count() -> None:
    stage = Stage()
    for i in range(4):
        stage.node(f"n{i}", slots=5)
    spread = Counter(stage.place(f"r{i}") for i in range(20))
    assert spread == {f"n{i}": 5 for i in range(4)}
    assert stage.place("one-too-many") == ""


def test_trap_4_a_nodes_counters_never_overwrite_what_was_granted_and_never_underflow() -> None:
    stage = Stage()
    stage.node("a", slots=2)
    stage.place("r1")
    stage.place("r2")
    stage.load("a")  # told before the node took either of them
    stage.node("a", in_flight=())
    assert stage.running_on("a") == 2
    for _ in range(3):
        stage.end("r1-1", "a")
    stage.end("never-granted-1", "a")
    assert (stage.running_on("a"), stage.core.fleet.in_flight) == (1, 1)
    stage.load("a", "r2-1")
    stage.load("a")
    assert (stage.running_on("a"), stage.core.fleet.in_flight) == (0, 0)


def test_trap_5_the_slot_is_charged_to_the_node_that_serves_not_to_the_one_that_was_planned() -> None:
    stage = Stage()
    stage.node("planned", gpus=FAST)
    stage.node("other")
    assert stage.place("r1") == "planned"
    assert stage.place("r1", busy=("planned",)) == "other"
    assert (stage.running_on("planned"), stage.running_on("other")) == (0, 1)
    stage.load("other", "r1-1")
    stage.end("r1-1", "planned")  # whatever node the report names
    assert (stage.running_on("planned"), stage.running_on("other")) == (0, 0)


@pytest.mark.parametrize("how", ["told by an outcome", "told by the next load message", "never taken"])
def test_trap_7_a_caller_that_disconnects_leaks_no_slot(how: str) -> None:
    stage = Stage()
    stage.node("a", slots=1)
    stage.place("gone")
    if how == "never taken":
        stage.note(stage.core.release("gone", stage.now))
    else:
        stage.load("a", "gone-1")
        stage.place("next")
        assert stage.where("next") == ""
        if how == "told by an outcome":
            stage.end("gone-1", "a", code=ErrorCode.CANCELLED)
        else:
            stage.load("a")
    if how == "never taken":
        stage.place("next")
    assert stage.where("next") == "a"


def test_trap_8_a_disconnect_is_no_success_and_a_cut_stream_is_a_failure() -> None:
    stage = Stage()
    stage.node("a")
    for i in range(10):
        stage.place(f"left{i}")
        stage.end(f"left{i}-1", "a", code=ErrorCode.CANCELLED, figures=Figures(actual_s=0.1, output_tokens=1))
    record = stage.core.fleet.nodes["a"].record
    assert (record.attempts, record.successes) == (0.0, 0.0)
    stage.place("cut")
    stage.end("cut-1", "a", code=ErrorCode.ENGINE_PROTOCOL, figures=Figures(actual_s=0.1, output_tokens=7))
    assert (record.attempts, record.successes) == (1.0, 0.0)
    assert stage.core.lengths.median_tokens(MODEL, "generation", 100) == Stage().core.lengths.median_tokens(
        MODEL, "generation", 100
    ), "an answer that was cut or left teaches no length"


def test_trap_11_no_more_is_granted_than_the_engine_runs_side_by_side() -> None:
    stage = Stage()
    narrow = model(slots=1)
    stage.node("a", slots=8, installed=(narrow, model(BIG, 9.0, slots=2)), loaded=(loaded(), loaded(BIG, 10)))
    placed = [stage.place(f"small{i}") for i in range(4)] + [stage.place(f"large{i}", name=BIG) for i in range(4)]
    assert Counter(placed) == {"a": 3, "": 5}
    assert Counter(a.model for a in stage.core.fleet.nodes["a"].attempts.values()) == {MODEL: 1, BIG: 2}


def test_trap_12_a_model_fits_only_with_the_cache_of_every_slot() -> None:
    stage = Stage()
    wide = model(kv_bytes_per_token=131_072, context_length=131_072)
    tight = (Gpu(index=0, name="RTX 3060", memory_total_mib=8_192, memory_free_mib=8_192),)
    machine: dict[str, Any] = {"gpus": tight, "ram_total_mib": 9_000.0, "ram_available_mib": 6_000.0, "loaded": ()}
    stage.node("one", slots=1, installed=(wide,), **machine)
    stage.node("many", slots=4, installed=(wide,), **machine)
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=100, num_ctx=32_768)
    assert stage.place("r1", context=context) == "one"
    assert stage.place("r2", context=context, routing=Routing(node_id="many", strict=True)) == ""
    assert refused(stage.effects)["r2"].details["nodes"]["many"].startswith("does_not_fit")


def test_trap_15_stale_figures_widen_doubt_and_do_not_halt_a_healthy_pool_of_one() -> None:
    stage = Stage()
    stage.node("only", slots=2)
    stage.now += 4.5  # past suspicion, before death
    stage.note(stage.core.tick(stage.now))
    assert stage.place("r1") == "only"
    stage.node("fresh", slots=2)
    assert stage.place("r2") == "fresh", "a node that speaks goes before one that is silent"


def test_trap_16_however_many_dispatchers_ask_the_slots_are_counted_once() -> None:
    stage = Stage()
    for i in range(3):
        stage.node(f"n{i}", slots=2)
    placed = [stage.place(f"r{i}", dispatcher=f"d{i % 5}") for i in range(30)]
    assert sum(1 for node_id in placed if node_id) == 6
    assert max(stage.running_on(f"n{i}") for i in range(3)) == 2
    stage.load("n0", "elsewhere-1", "elsewhere-2")
    assert stage.core.fleet.in_flight >= 6, "work of others on a node occupies its slots too"


def test_trap_17_a_prefix_cache_draws_its_conversation_but_not_into_a_crowd() -> None:
    stage = Stage()
    for name in ("hot", "b", "c"):
        stage.node(name, slots=4)
    context = TaskContext(
        kind=RequestKind.CHAT, model=MODEL, prompt_tokens=2100, prefix_hashes=("system",), prefix_tokens=(2000,)
    )
    first = stage.place("first", context=context)
    stage.end("first-1", first, figures=Figures(prompt_tokens=2100, output_tokens=100))
    assert stage.place("second", context=context) == first
    stage.end("second-1", first, figures=Figures(prompt_tokens=2100, output_tokens=100))
    spread = Counter(stage.place(f"r{i}", context=context) for i in range(9))
    assert len(spread) == 3
    assert max(spread.values()) <= 4


def test_trap_18_ties_are_not_always_won_by_the_first_node() -> None:
    first = Counter[str]()
    for seed in range(60):
        stage = Stage(seed=seed)
        for i in range(3):
            stage.node(f"n{i}")
        first[stage.place("r")] += 1
    assert set(first) == {"n0", "n1", "n2"}
    assert max(first.values()) < 40


def test_trap_19_the_turn_of_round_robin_survives_nodes_that_change_restart_and_leave() -> None:
    stage = Stage(strategy="round_robin")
    for name in ("a", "b", "c"):
        stage.node(name, slots=50)
    assert [stage.place("r1"), stage.place("r2")] == ["a", "b"]
    stage.node("a", slots=49, weight=2.0)
    stage.node("b", instance="b-b", revision=2)
    assert [stage.place("r3"), stage.place("r4")] == ["c", "a"]
    stage.node("c", is_draining=True)
    assert [stage.place("r5"), stage.place("r6")] == ["b", "a"]
    stage.node("c", is_draining=False)
    assert [stage.place("r7"), stage.place("r8"), stage.place("r9")] == ["b", "c", "a"]


def test_trap_21_a_fallback_never_changes_the_model_or_what_it_can_do() -> None:
    stage = Stage()
    stage.node("a", installed=(model(), model("embedder", 0.3, capabilities=("embedding",))))
    stage.node("b", installed=(model("llama3:70b", 4.0),), loaded=())
    assert stage.place("r1") == "a"
    stage.end("r1-1", "a", code=ErrorCode.ENGINE_FAILED)
    stage.node("a")
    assert stage.place("r1", number=2, excluded=("a",)) == ""
    assert refused(stage.effects)["r1"].code is ErrorCode.NO_ELIGIBLE_NODE
    assert refused(stage.effects)["r1"].details["nodes"]["b"].startswith("model_missing")
    assert stage.place("r2", name="embedder") == ""
    assert refused(stage.effects)["r2"].message == '"embedder" does not support chat'


def test_trap_23_nothing_is_evicted_that_generates_or_still_loads() -> None:
    stage = Stage(theta=0.0)
    both = (model(), model(BIG, 14.0))
    small = (Gpu(index=0, name="RTX A4000", memory_total_mib=16_384, memory_free_mib=16_000),)
    stage.node("a", slots=4, installed=both, loaded=(), gpus=small)
    assert granted(stage.effects).get("loader") is None
    assert stage.place("loader") == "a"
    assert granted(stage.effects)["loader"].decision.forecast.needs_load
    assert stage.place("rival", name=BIG) == "", "the other model is still loading"
    stage.load("a", "loader-1", loaded=(loaded(),))
    assert stage.where("rival") == "", "the other model generates"
    assert stage.place("late") == "", "and gets no more work, or its eviction would never come"
    stage.end("loader-1", "a")
    assert stage.where("rival") == "a"
    assert granted(stage.effects)["rival"].decision.forecast.needs_load


def test_trap_24_nothing_that_callers_choose_makes_memory_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "_LIMIT", 512)  # full as soon as the smaller tables
    stage = Stage(queue_limit=64)
    for name in ("a", "b"):
        stage.node(name, slots=2)

    def flood(requests: range) -> int:
        """The most that ever hung on the core while these requests came and went."""
        most = 0
        for i in requests:
            context = TaskContext(
                kind=RequestKind.CHAT,
                model=MODEL if i % 3 else f"made-up-{i}",
                prompt_tokens=10 + i % 5000,
                task_type=f"task-{i}",
                num_ctx=1024 + i,
                prefix_hashes=(f"h{i}",),
                prefix_tokens=(10,),
            )
            node_id = stage.place(f"r{i}", context=context, routing=Routing(session_id=f"s{i}", node_id=f"x{i}"))
            if node_id:
                figures = Figures(actual_s=0.5, prompt_tokens=20, output_tokens=9, prompt_s=0.1, decode_s=0.1)
                stage.end(f"r{i}-1", node_id, figures=figures, task_type=f"task-{i}", predicted_s=0.5)
            stage.now += 0.01
            if i % 50 == 0:
                stage.effects.clear()
                stage.node("a")
                stage.node("b")
                stage.note(stage.core.tick(stage.now))
            if i % 400 == 399:
                most = max(most, weight_of(stage.core))
        return most

    settled = flood(range(1600))
    assert flood(range(1600, 3600)) <= 1.1 * settled


def test_trap_24_a_flood_of_made_up_task_types_does_not_stop_the_table_of_lengths_from_learning() -> None:
    table = lengths.LengthTable()
    for i in range(6000):
        table.learn(MODEL, f"made-up-{i}", 100, 20)
    for _ in range(30):
        table.learn(MODEL, "coding", 100, 900)
    assert table.median_tokens(MODEL, "coding", 100) > 800


def weight_of(root: object) -> int:
    """How many objects hang on `root`, those shared with modules and classes left out."""
    seen: set[int] = set()
    todo: list[object] = [root]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, (type, str, bytes, int, float, bool, type(None))):
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            todo += list(value)
        elif hasattr(value, "maxlen"):
            todo += list(value)  # type: ignore[call-overload]
        else:
            names = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ())]
            todo += [getattr(value, n) for n in names if hasattr(value, n)]
            todo += list(getattr(value, "__dict__", {}).values())
    return len(seen)
