"""Loading a further copy before somebody has to wait for it: when, where, and when not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.office.preload import Preload, Preloader
from sollol_schemas.events import BreakerState
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadedModel,
    NodeState,
    Telemetry,
)

MODEL, OTHER = "llama3:8b", "qwen3:14b"
GB = 1_000_000_000
SIZES = {MODEL: 5 * GB, OTHER: 9 * GB}


class Fleet:
    """A core whose nodes say what the test wants."""

    def __init__(self, **config: Any) -> None:
        self.now = 1000.0
        self.core = SchedulerCore(ScorerConfig(warm_up_s=0.0, **config), random.Random(1), self.now)
        self.preloader = Preloader()
        self.seq = 0

    def node(
        self,
        node_id: str,
        *,
        loaded: tuple[str, ...] = (),
        running: tuple[str, ...] = (),
        slots: int = 1,
        vram_gb: float = 24.0,
        gpu: str = "RTX 3090",
        **more: Any,
    ) -> None:
        self.seq += 1
        used = sum(SIZES[m] for m in loaded) / 2**20
        total = vram_gb * 1000**3 / 2**20
        told: dict[str, Any] = {
            "node_id": node_id,
            "instance": f"{node_id}-a",
            "revision": 1,
            "seq": self.seq,
            "engine": EngineInfo(kind=EngineKind.OLLAMA, url="http://x"),
            "slots": slots,
            "gpus": (
                Gpu(index=0, name=gpu, memory_total_mib=total, memory_used_mib=used, memory_free_mib=total - used),
            ),
            "installed": tuple(InstalledModel(name=m, size_bytes=s) for m, s in SIZES.items()),
            "loaded": tuple(LoadedModel(name=m, size_bytes=SIZES[m], vram_bytes=SIZES[m]) for m in loaded),
            "in_flight": tuple(InFlight(attempt_id=f"{node_id}x{n}-1", model=m) for n, m in enumerate(running)),
        }
        self.core.on_telemetry(Telemetry(**(told | more)), self.now)

    def demand(self, rate: float, model: str = MODEL) -> None:
        """So many requests a second for two minutes."""
        self.core.demand.restore(model, rate, self.now)

    def decide(self) -> list[Preload]:
        return self.preloader.decide(self.core, self.now)


@pytest.fixture
def fleet() -> Fleet:
    """One busy copy, one idle node with room, and a request every second."""
    fleet = Fleet()
    fleet.node("busy", loaded=(MODEL,), running=(MODEL,))
    fleet.node("idle")
    fleet.demand(1.0)
    return fleet


def test_an_idle_node_loads_a_model_whose_copies_are_full(fleet: Fleet) -> None:
    (wanted,) = fleet.decide()
    assert (wanted.node_id, wanted.instance, wanted.model) == ("idle", "idle-a", MODEL)
    assert "no free slot" in wanted.reason
    assert wanted.keep_alive_s == fleet.core.config.resident_keep_alive_s


def test_the_copy_is_kept_as_long_as_requests_would_keep_it(fleet: Fleet) -> None:
    fleet.core.change_settings({"resident_keep_alive_s": 77.0})
    assert fleet.decide()[0].keep_alive_s == 77.0


def test_one_load_of_a_model_at_a_time_until_it_is_there_or_has_failed(fleet: Fleet) -> None:
    fleet.node("idle2")
    assert len(fleet.decide()) == 1
    assert fleet.decide() == []
    fleet.now += 29.0
    fleet.node("busy", loaded=(MODEL,), running=(MODEL,))
    for name in ("idle", "idle2"):
        fleet.node(name)
    fleet.demand(1.0)
    assert fleet.decide() == []
    fleet.now += 20.0
    for name in ("idle", "idle2"):
        fleet.node(name)
    fleet.node("busy", loaded=(MODEL,), running=(MODEL,))
    fleet.demand(1.0)
    assert len(fleet.decide()) == 1, "it was not loaded within its time"


def test_nothing_is_loaded_while_a_copy_has_a_free_slot(fleet: Fleet) -> None:
    fleet.node("busy", loaded=(MODEL,), running=(MODEL,), slots=2)
    assert fleet.decide() == []


def test_nothing_is_loaded_when_nobody_would_come_in_time(fleet: Fleet) -> None:
    quiet = Fleet()
    quiet.node("busy", loaded=(MODEL,), running=(MODEL,))
    quiet.node("idle")
    quiet.demand(0.02)
    assert quiet.decide() == []


def test_a_setting_switches_it_off() -> None:
    fleet = Fleet(preload=False)
    fleet.node("busy", loaded=(MODEL,), running=(MODEL,))
    fleet.node("idle")
    fleet.demand(1.0)
    assert fleet.decide() == []


@pytest.mark.parametrize(
    "state",
    [
        {"running": (OTHER,), "loaded": (OTHER,)},
        {"loaded": (OTHER,), "vram_gb": 12.0},  # it would have to push the other model out, idle as it is
        {"vram_gb": 4.0},
        {"is_draining": True},
        {"slots": 0},
        {"gpu": "GTX 1070", "gpus": (), "cpu_count": 4, "ram_total_mib": 64_000, "ram_available_mib": 60_000},
        {"engine": EngineInfo(kind=EngineKind.OLLAMA, url="http://x", is_reachable=False)},
        {"engine": EngineInfo(kind=EngineKind.OPENAI, url="http://x")},
        {"installed": (InstalledModel(name=OTHER, size_bytes=SIZES[OTHER]),)},
    ],
)
def test_a_node_that_cannot_help_is_left_alone(fleet: Fleet, state: dict[str, Any]) -> None:
    fleet.node("idle", **state)
    assert fleet.decide() == []


def test_an_open_breaker_is_not_given_loads(fleet: Fleet) -> None:
    breaker = fleet.core.fleet.nodes["idle"].breakers.of(MODEL)
    breaker.reopen(fleet.now)
    assert breaker.state is BreakerState.OPEN
    assert fleet.decide() == []


def test_a_model_in_steady_demand_that_no_node_holds_is_loaded() -> None:
    fleet = Fleet()
    fleet.node("idle")
    assert fleet.decide() == [], "nobody asks for anything"
    fleet.demand(0.05)
    assert [p.model for p in fleet.decide()] == [MODEL]


def test_the_faster_node_of_two_is_chosen(fleet: Fleet) -> None:
    fleet.node("faster", gpu="RTX 4090")
    assert fleet.decide()[0].node_id == "faster"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(), (MODEL,), (OTHER,), (MODEL, OTHER)]), st.booleans(), st.sampled_from([6.0, 12.0, 24.0])
        ),
        min_size=1,
        max_size=6,
    ),
    st.floats(0, 5),
    st.floats(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_never_a_busy_node_never_an_eviction_never_too_many(
    nodes: list[tuple[tuple[str, ...], bool, float]], rate: float, other_rate: float
) -> None:
    fleet = Fleet()
    told = {}
    for number, (loaded, is_busy, vram_gb) in enumerate(nodes):
        fits = tuple(m for m in loaded if sum(SIZES[x] for x in loaded) <= vram_gb * GB)
        told[f"n{number}"] = (fits, is_busy and bool(fits), vram_gb)
        fleet.node(f"n{number}", loaded=fits, running=fits[:1] if is_busy else (), vram_gb=vram_gb)
    fleet.demand(rate)
    fleet.demand(other_rate, OTHER)
    found = [p for _ in range(5) for p in fleet.decide()]
    assert len(found) <= 2
    assert len({p.node_id for p in found}) == len(found)
    assert len({p.model for p in found}) == len(found)
    for wanted in found:
        loaded, is_busy, vram_gb = told[wanted.node_id]
        assert not is_busy
        assert wanted.model not in loaded
        assert sum(SIZES[m] for m in (*loaded, wanted.model)) <= vram_gb * GB


def test_a_model_that_was_unloaded_is_not_loaded_again_until_somebody_asks_for_it() -> None:
    fleet = Fleet()
    fleet.demand(1.0)
    fleet.node("a", loaded=(MODEL,))
    assert fleet.decide() == []
    fleet.now += 1.0
    fleet.node("a")
    assert fleet.decide() == []
    fleet.now += 5.0
    assert fleet.decide() == []
    fleet.core.demand.count(MODEL, fleet.now)
    assert [one.model for one in fleet.decide()] == [MODEL]


def test_a_node_that_went_down_with_a_model_is_no_reason_to_do_without_it() -> None:
    fleet = Fleet()
    fleet.demand(1.0)
    fleet.node("a", loaded=(MODEL,))
    fleet.node("b")
    fleet.decide()
    fleet.core.fleet.nodes["a"].state = NodeState.DOWN
    assert [one.node_id for one in fleet.decide()] == ["b"]
