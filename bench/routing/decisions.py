"""How long one decision takes, on fleets of many nodes.

    python -m bench.routing.decisions [--json]

Three situations: a request that need not wait (slots are free), an outcome that frees a slot while requests wait, and
a request that comes while others wait. Figures are milliseconds of processor time. The same events are played three
times, and the least of each counts: what other processes do to a shared machine's caches is no part of a decision.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.command import in_json
from bench.machine import describe
from bench.routing.figures import quantile
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Granted, GrantRequest
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

_CARDS = (("RTX 3090", 24), ("RTX 4080", 16), ("RTX 3070", 8), ("RTX 3060", 12))
_GB = 10**9
_ROUNDS = 300
_REPEATS = 3


class Setting(NamedTuple):
    """One fleet: every node has every model on disk and one of them in memory."""

    nodes: int
    models: int
    waiting: int


SETTINGS = (
    *(Setting(6, 1, 20), Setting(24, 1, 20), Setting(24, 3, 20), Setting(100, 20, 20)),
    *(Setting(24, 1, 1000), Setting(24, 3, 1000), Setting(100, 20, 1000)),
)


class Bench:
    """A core with a fleet, and what runs on it."""

    def __init__(self, setting: Setting, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.core = SchedulerCore(ScorerConfig(warm_up_s=0.0), random.Random(seed), 0.0)
        self.now = 1.0
        self.running: list[Granted] = []
        self.setting = setting
        self._asked = 0
        self._seq = 0
        for i in range(setting.nodes):
            self.core.on_telemetry(self._telemetry(i), self.now)

    def _telemetry(self, i: int) -> Telemetry:
        card, gb = _CARDS[i % len(_CARDS)]
        return Telemetry(
            node_id=f"n{i}",
            instance=f"i{i}",
            revision=1,
            seq=0,
            engine=EngineInfo(kind=EngineKind.OLLAMA, url="http://node"),
            slots=4,
            gpus=(Gpu(index=0, name=card, memory_total_mib=gb * 1024, memory_free_mib=gb * 1024 - 6000),),
            installed=tuple(
                InstalledModel(name=f"m{k}", size_bytes=49 * _GB // 10) for k in range(self.setting.models)
            ),
            loaded=(self._loaded(i),),
            bus_rtt_s=0.001,
        )

    def _loaded(self, i: int) -> LoadedModel:
        return LoadedModel(name=f"m{i % self.setting.models}", size_bytes=6 * _GB, vram_bytes=6 * _GB)

    def request(self) -> GrantRequest:
        """A fresh request."""
        self._asked += 1
        context = TaskContext(
            kind=RequestKind.CHAT,
            model=f"m{self.rng.randrange(self.setting.models)}",
            prompt_tokens=self.rng.randrange(50, 2000),
        )
        return GrantRequest(
            request_id=f"r{self._asked}",
            number=1,
            context=context,
            routing=Routing(priority=self.rng.randrange(1, 10)),
        )

    def take(self, effects: Sequence[Effect]) -> None:
        """Nodes accept what was granted, and say so."""
        granted = [e for e in effects if isinstance(e, Granted)]
        self.running += granted
        for node_id in dict.fromkeys(g.decision.node_id for g in granted):
            self._seq += 1
            mine = [g for g in self.running if g.decision.node_id == node_id]
            update = LoadUpdate(
                node_id=node_id,
                instance=f"i{node_id[1:]}",
                seq=self._seq,
                slots=4,
                in_flight=tuple(InFlight(attempt_id=g.decision.attempt_id, model=g.decision.model) for g in mine),
            )
            self.take(self.core.on_load(update, self.now))

    def end_one(self) -> Outcome:
        """The outcome of some running attempt."""
        granted = self.running.pop(self.rng.randrange(len(self.running)))
        return Outcome(
            decision=granted.decision,
            status=OutcomeStatus.SUCCESS,
            reported_by=ReportedBy.NODE,
            figures=Figures(actual_s=3, prompt_tokens=400, output_tokens=150, prompt_s=0.2, decode_s=2.5, co_runners=2),
        )


class Times(NamedTuple):
    """Seconds that each decision took, by situation; equal events make equal decisions."""

    free: list[float]
    freed: list[float]
    arrived: list[float]


def measure(setting: Setting) -> dict[str, object]:
    """All situations on one fleet."""
    runs = [_play(setting) for _ in range(_REPEATS)]
    least = Times(*([min(same) for same in zip(*kinds, strict=True)] for kinds in zip(*runs, strict=True)))
    return {
        "nodes": setting.nodes,
        "models": setting.models,
        "waiting": setting.waiting,
        "need_not_wait_ms": _percentiles(least.free),
        "outcome_to_grants_ms": _percentiles(least.freed),
        "arrival_while_others_wait_ms": _percentiles(least.arrived),
    }


def _play(setting: Setting) -> Times:
    bench = Bench(setting)
    times = Times([], [], [])
    for _ in range(2 * setting.nodes):
        bench.now += 0.05
        times.free.append(_timed(bench, bench.request()))
    while len(bench.core.waiting) < setting.waiting:
        bench.take(bench.core.enqueue(bench.request(), bench.now))
    for _ in range(_ROUNDS):
        bench.now += 0.02
        outcome = bench.end_one()
        began = time.process_time()
        effects = bench.core.on_outcome(outcome, bench.now)
        times.freed.append(time.process_time() - began)
        bench.take(effects)
        while len(bench.core.waiting) < setting.waiting:
            times.arrived.append(_timed(bench, bench.request()))
    return times


def _timed(bench: Bench, request: GrantRequest) -> float:
    began = time.process_time()
    effects = bench.core.enqueue(request, bench.now)
    took_s = time.process_time() - began
    bench.take(effects)
    return took_s


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{round(100 * q)}": round(1000 * quantile(ordered, q), 3) for q in (0.5, 0.95, 0.99)}


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing.decisions", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    result = {"machine": describe(), "settings": [measure(s) for s in SETTINGS]}
    if arguments.json:
        print(in_json(result))
    else:
        for figures in result["settings"]:
            print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
