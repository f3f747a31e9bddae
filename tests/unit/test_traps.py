"""Traps that routers of LLM requests are known to fall into, each as a test on the scorer's core.

The numbers are those of the list in `docs/scheduling.md`; the traps that need engines and a bus are in
`tests/integration/test_traps.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.knowledge.lengths import LengthTable
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import Decision, Forecast
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRequest
from sollol_schemas.ids import request_id_of
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadedModel,
    LoadUpdate,
    Telemetry,
)

MODEL = "llama3:8b"
BIG = "large:14b"
FAST = (Gpu(index=0, name="RTX 4090", memory_total_mib=24_576, memory_free_mib=18_000),)
USUAL = (Gpu(index=0, name="RTX 3090", memory_total_mib=24_576, memory_free_mib=18_000),)


def installed(name: str = MODEL, size_gb: float = 4.9, **more: Any) -> InstalledModel:
    return InstalledModel(name=name, size_bytes=int(size_gb * 1e9), **more)


def in_memory(name: str = MODEL, size_gb: float = 5.5) -> LoadedModel:
    return LoadedModel(name=name, size_bytes=int(size_gb * 1e9), vram_bytes=int(size_gb * 1e9))


class Stage:
    """A core, its clock, and nodes that say what the test wants."""

    def __init__(self, **settings: Any) -> None:
        self.now = 50.0
        config = ScorerConfig(**({"warm_up_s": 0.0, "seed": 3} | settings))
        self.core = SchedulerCore(config, random.Random(config.seed), self.now)
        self.core.term = 1
        self.granted: dict[str, Granted] = {}
        self.refused: dict[str, ErrorBody] = {}
        self.queued: set[str] = set()
        self._seq = 0
        self._told: dict[str, dict[str, Any]] = {}

    def node(self, node_id: str, **changes: Any) -> None:
        """A heartbeat; what it does not say is as the node said last."""
        self._seq += 1
        told = self._told.setdefault(
            node_id,
            {
                "node_id": node_id,
                "instance": f"{node_id}-a",
                "revision": 1,
                "engine": EngineInfo(kind=EngineKind.OLLAMA, url=f"http://{node_id}"),
                "slots": 2,
                "gpus": USUAL,
                "ram_total_mib": 64_000.0,
                "ram_available_mib": 60_000.0,
                "installed": (installed(),),
                "loaded": (in_memory(),),
                "uptime_s": 1000.0,
            },
        )
        told |= changes
        self.note(self.core.on_telemetry(Telemetry(**told, seq=self._seq), self.now))

    def load(self, node_id: str, *attempts: str, **changes: Any) -> None:
        """A load message that lists exactly these attempts."""
        self._seq += 1
        told = self._told[node_id]
        update = LoadUpdate(
            node_id=node_id,
            instance=told["instance"],
            seq=self._seq,
            slots=told["slots"],
            in_flight=tuple(InFlight(attempt_id=a, model=MODEL) for a in attempts),
        )
        self.note(
            self.core.on_load(
                LoadUpdate(**({f: getattr(update, f) for f in update.__struct_fields__} | changes)), self.now
            )
        )

    def ask(self, request_id: str, *, name: str = MODEL, prompt: int = 100, **more: Any) -> str:
        """The node that a request is granted on; empty when it waits or is refused."""
        context = more.pop("context", None) or TaskContext(kind=RequestKind.CHAT, model=name, prompt_tokens=prompt)
        fields: dict[str, Any] = {
            "request_id": request_id,
            "number": 1,
            "context": context,
            "routing": Routing(),
            "dispatcher": "d1",
        }
        self.granted.pop(request_id, None)
        self.note(self.core.enqueue(GrantRequest(**(fields | more)), self.now))
        return self.where(request_id)

    def where(self, request_id: str) -> str:
        granted = self.granted.get(request_id)
        return granted.decision.node_id if granted is not None else ""

    def end(
        self,
        attempt_id: str,
        node_id: str,
        code: ErrorCode | None = None,
        *,
        figures: Figures | None = None,
        task_type: str = "",
        predicted_s: float = 0.0,
    ) -> None:
        status = OutcomeStatus.SUCCESS
        if code is not None:
            status = OutcomeStatus.CANCELLED if code is ErrorCode.CANCELLED else OutcomeStatus.FAILED
        decision = Decision(
            attempt_id=attempt_id,
            request_id=request_id_of(attempt_id),
            node_id=node_id,
            model=MODEL,
            instance=f"{node_id}-a",
            task_type=task_type,
            forecast=Forecast(total_s=predicted_s),
        )
        outcome = Outcome(decision=decision, status=status, reported_by=ReportedBy.NODE, code=code, figures=figures)
        self.note(self.core.on_outcome(outcome, self.now))

    def pass_time(self, seconds: float) -> None:
        """Lets time pass in steps while every node goes on listing what it runs."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            for node_id in self._told:
                running = self.core.fleet.nodes[node_id].attempts.values()
                self.node(node_id, in_flight=tuple(InFlight(attempt_id=a.attempt_id, model=MODEL) for a in running))
            self.note(self.core.tick(self.now))

    def note(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Granted():
                    self.granted[effect.decision.request_id] = effect
                case GrantRefused():
                    self.refused[effect.request_id] = effect.error
                case GrantQueued():
                    self.queued.add(effect.request_id)
                case _:
                    pass

    def running(self, node_id: str) -> int:
        return len(self.core.fleet.nodes[node_id].attempts)


def test_trap_1_a_node_that_fails_fast_looks_least_loaded_and_still_becomes_no_black_hole() -> None:
    stage = Stage()
    stage.node("broken", gpus=FAST)
    stage.node("sound")
    served: list[str] = []
    for i in range(60):
        node_id = stage.ask(f"r{i}")
        served.append(node_id)
        stage.end(f"r{i}-1", node_id, ErrorCode.ENGINE_FAILED if node_id == "broken" else None)
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
        stage.ask(f"r{i}", prompt=3000)
    assert stage.running("cold") >= 1
    assert stage.granted[next(r for r in stage.granted if stage.where(r) == "cold")].decision.forecast.needs_load
    both = Stage()
    both.node("a", slots=4)
    both.node("b", slots=4)
    assert {both.ask(f"r{i}") for i in range(2)} == {"a", "b"}


def test_trap_3_arrivals_between_two_heartbeats_are_spread_by_our_own_count() -> None:
    stage = Stage()
    for i in range(4):
        stage.node(f"n{i}", slots=5)
    spread = Counter(stage.ask(f"r{i}") for i in range(20))
    assert spread == {f"n{i}": 5 for i in range(4)}
    assert stage.ask("one-too-many") == ""


def test_trap_4_a_nodes_counters_never_overwrite_what_was_granted_and_never_underflow() -> None:
    stage = Stage()
    stage.node("a", slots=2)
    stage.ask("r1")
    stage.ask("r2")
    stage.load("a")  # told before the node took either of them
    stage.node("a", in_flight=())
    assert stage.running("a") == 2
    for _ in range(3):
        stage.end("r1-1", "a")
    stage.end("never-granted-1", "a")
    assert (stage.running("a"), stage.core.fleet.in_flight) == (1, 1)
    stage.load("a", "r2-1")
    stage.load("a")
    assert (stage.running("a"), stage.core.fleet.in_flight) == (0, 0)


def test_trap_5_the_slot_is_charged_to_the_node_that_serves_not_to_the_one_that_was_planned() -> None:
    stage = Stage()
    stage.node("planned", gpus=FAST)
    stage.node("other")
    assert stage.ask("r1") == "planned"
    assert stage.ask("r1", busy=("planned",)) == "other"
    assert (stage.running("planned"), stage.running("other")) == (0, 1)
    stage.load("other", "r1-1")
    stage.end("r1-1", "planned")  # whatever node the report names
    assert (stage.running("planned"), stage.running("other")) == (0, 0)


@pytest.mark.parametrize("how", ["told by an outcome", "told by the next load message", "never taken"])
def test_trap_7_a_caller_that_disconnects_leaks_no_slot(how: str) -> None:
    stage = Stage()
    stage.node("a", slots=1)
    stage.ask("gone")
    if how == "never taken":
        stage.note(stage.core.release("gone", stage.now))
    else:
        stage.load("a", "gone-1")
        stage.ask("next")
        assert stage.where("next") == ""
        if how == "told by an outcome":
            stage.end("gone-1", "a", ErrorCode.CANCELLED)
        else:
            stage.load("a")
    if how == "never taken":
        stage.ask("next")
    assert stage.where("next") == "a"


def test_trap_8_a_disconnect_is_no_success_and_a_cut_stream_is_a_failure() -> None:
    stage = Stage()
    stage.node("a")
    for i in range(10):
        stage.ask(f"left{i}")
        stage.end(f"left{i}-1", "a", ErrorCode.CANCELLED, figures=Figures(actual_s=0.1, output_tokens=1))
    record = stage.core.fleet.nodes["a"].record
    assert (record.attempts, record.successes) == (0.0, 0.0)
    stage.ask("cut")
    stage.end("cut-1", "a", ErrorCode.ENGINE_PROTOCOL, figures=Figures(actual_s=0.1, output_tokens=7))
    assert (record.attempts, record.successes) == (1.0, 0.0)
    assert stage.core.lengths.median_tokens(MODEL, "generation", 100) == Stage().core.lengths.median_tokens(
        MODEL, "generation", 100
    ), "an answer that was cut or left teaches no length"


def test_trap_11_no_more_is_granted_than_the_engine_runs_side_by_side() -> None:
    stage = Stage()
    narrow = installed(slots=1)
    stage.node("a", slots=8, installed=(narrow, installed(BIG, 9.0, slots=2)), loaded=(in_memory(), in_memory(BIG, 10)))
    granted = [stage.ask(f"small{i}") for i in range(4)] + [stage.ask(f"large{i}", name=BIG) for i in range(4)]
    assert Counter(granted) == {"a": 3, "": 5}
    assert Counter(a.model for a in stage.core.fleet.nodes["a"].attempts.values()) == {MODEL: 1, BIG: 2}


def test_trap_12_a_model_fits_only_with_the_cache_of_every_slot() -> None:
    stage = Stage()
    wide = installed(kv_bytes_per_token=131_072, context_length=131_072)
    tight = (Gpu(index=0, name="RTX 3060", memory_total_mib=8_192, memory_free_mib=8_192),)
    machine: dict[str, Any] = {"gpus": tight, "ram_total_mib": 9_000.0, "ram_available_mib": 6_000.0, "loaded": ()}
    stage.node("one", slots=1, installed=(wide,), **machine)
    stage.node("many", slots=4, installed=(wide,), **machine)
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=100, num_ctx=32_768)
    assert stage.ask("r1", context=context) == "one"
    assert stage.ask("r2", context=context, routing=Routing(node_id="many", strict=True)) == ""
    assert stage.refused["r2"].details["nodes"]["many"].startswith("does_not_fit")


def test_trap_15_stale_figures_widen_doubt_and_do_not_halt_a_healthy_pool_of_one() -> None:
    stage = Stage()
    stage.node("only", slots=2)
    stage.now += 4.5  # past suspicion, before death
    stage.note(stage.core.tick(stage.now))
    assert stage.ask("r1") == "only"
    stage.node("fresh", slots=2)
    assert stage.ask("r2") == "fresh", "a node that speaks goes before one that is silent"


def test_trap_16_however_many_dispatchers_ask_the_slots_are_counted_once() -> None:
    stage = Stage()
    for i in range(3):
        stage.node(f"n{i}", slots=2)
    granted = [stage.ask(f"r{i}", dispatcher=f"d{i % 5}") for i in range(30)]
    assert sum(1 for node_id in granted if node_id) == 6
    assert max(stage.running(f"n{i}") for i in range(3)) == 2
    stage.load("n0", "elsewhere-1", "elsewhere-2")
    assert stage.core.fleet.in_flight >= 6, "work of others on a node occupies its slots too"


def test_trap_17_a_prefix_cache_draws_its_conversation_but_not_into_a_crowd() -> None:
    stage = Stage()
    for name in ("hot", "b", "c"):
        stage.node(name, slots=4)
    context = TaskContext(
        kind=RequestKind.CHAT, model=MODEL, prompt_tokens=2100, prefix_hashes=("system",), prefix_tokens=(2000,)
    )
    first = stage.ask("first", context=context)
    stage.end("first-1", first, figures=Figures(actual_s=1.0, prompt_tokens=2100, output_tokens=100))
    assert stage.ask("second", context=context) == first
    stage.end("second-1", first, figures=Figures(actual_s=1.0, prompt_tokens=2100, output_tokens=100))
    spread = Counter(stage.ask(f"r{i}", context=context) for i in range(9))
    assert len(spread) == 3
    assert max(spread.values()) <= 4


def test_trap_18_ties_are_not_always_won_by_the_first_node() -> None:
    first = Counter[str]()
    for seed in range(60):
        stage = Stage(seed=seed)
        for i in range(3):
            stage.node(f"n{i}")
        first[stage.ask("r")] += 1
    assert set(first) == {"n0", "n1", "n2"}
    assert max(first.values()) < 40


def test_trap_19_the_turn_of_round_robin_survives_nodes_that_change_restart_and_leave() -> None:
    stage = Stage(strategy="round_robin")
    for name in ("a", "b", "c"):
        stage.node(name, slots=50)
    assert [stage.ask("r1"), stage.ask("r2")] == ["a", "b"]
    stage.node("a", slots=49, weight=2.0)
    stage.node("b", instance="b-b", revision=2)
    assert [stage.ask("r3"), stage.ask("r4")] == ["c", "a"]
    stage.node("c", is_draining=True)
    assert [stage.ask("r5"), stage.ask("r6")] == ["b", "a"]
    stage.node("c", is_draining=False)
    assert [stage.ask("r7"), stage.ask("r8"), stage.ask("r9")] == ["b", "c", "a"]


def test_trap_21_a_fallback_never_changes_the_model_or_what_it_can_do() -> None:
    stage = Stage()
    stage.node("a", installed=(installed(), installed("embedder", 0.3, capabilities=("embedding",))))
    stage.node("b", installed=(installed("llama3:70b", 4.0),), loaded=())
    assert stage.ask("r1") == "a"
    stage.end("r1-1", "a", ErrorCode.ENGINE_FAILED)
    stage.node("a")
    assert stage.ask("r1", number=2, excluded=("a",)) == ""
    assert stage.refused["r1"].code is ErrorCode.NO_ELIGIBLE_NODE
    assert stage.refused["r1"].details["nodes"]["b"].startswith("model_missing")
    assert stage.ask("r2", name="embedder") == ""
    assert stage.refused["r2"].details["nodes"]["a"].startswith("wrong_capability")


def test_trap_23_nothing_is_evicted_that_generates_or_still_loads() -> None:
    stage = Stage(theta=0.0)
    both = (installed(), installed(BIG, 14.0))
    small = (Gpu(index=0, name="RTX A4000", memory_total_mib=16_384, memory_free_mib=16_000),)
    stage.node("a", slots=4, installed=both, loaded=(), gpus=small)
    assert stage.granted.get("loader") is None
    assert stage.ask("loader") == "a"
    assert stage.granted["loader"].decision.forecast.needs_load
    assert stage.ask("rival", name=BIG) == "", "the other model is still loading"
    stage.load("a", "loader-1", loaded=(in_memory(),))
    assert stage.where("rival") == "", "the other model generates"
    assert stage.ask("late") == "", "and gets no more work, or its eviction would never come"
    stage.end("loader-1", "a")
    assert stage.where("rival") == "a"
    assert stage.granted["rival"].decision.forecast.needs_load


def test_trap_24_nothing_that_callers_choose_makes_memory_grow_without_bound() -> None:
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
            node_id = stage.ask(f"r{i}", context=context, routing=Routing(session_id=f"s{i}", node_id=f"x{i}"))
            if node_id:
                figures = Figures(actual_s=0.5, prompt_tokens=20, output_tokens=9, prompt_s=0.1, decode_s=0.1)
                stage.end(f"r{i}-1", node_id, figures=figures, task_type=f"task-{i}", predicted_s=0.5)
            stage.now += 0.01
            if i % 50 == 0:
                stage.node("a")
                stage.node("b")
                stage.note(stage.core.tick(stage.now))
            if i % 900 == 899:
                most = max(most, weight_of(stage.core))
        return most

    settled = flood(range(4500))
    assert flood(range(4500, 9500)) <= 1.1 * settled


def test_trap_24_a_flood_of_made_up_task_types_does_not_stop_the_table_of_lengths_from_learning() -> None:
    lengths = LengthTable()
    for i in range(6000):
        lengths.learn(MODEL, f"made-up-{i}", 100, 20)
    for _ in range(30):
        lengths.learn(MODEL, "coding", 100, 900)
    assert lengths.median_tokens(MODEL, "coding", 100) > 800


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
