"""A fake fleet: messages of nodes, a scorer and a recorder that do not exist, at a given rate.

No request is served by anybody. It is there to load what listens to the bus, and nothing else.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sollol_bus.errors import NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import subjects
from sollol_schemas.batch_progress import BatchListReply
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Forecast, Rejection, RejectionReason
from sollol_schemas.events import NodeEvent, Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.instants import instant
from sollol_schemas.jobs import JobEvent, JobListReply, JobNews, JobState
from sollol_schemas.queries import NodesReply, RecentReply, ReliabilityReply
from sollol_schemas.routing import RoutingMode
from sollol_schemas.steering import BreakersReply, StrategyReply
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LearnedSpeed,
    LoadedModel,
    LoadUpdate,
    NodeState,
    Telemetry,
)

SLOTS: Final = 4
MODELS: Final = tuple(f"model-{n}:8b" for n in range(12))
_TICK_S: Final = 0.02
_CANDIDATES: Final = 8


class FakeFleet:
    """Publishes what `nodes` nodes and a scorer would.

    Args:
        bus: A connection of its own.
        nodes: How many nodes.
        decisions_per_s: How many decisions, and as many outcomes, a second.
        haste: How many seconds of such a fleet pass in a second.
    """

    def __init__(self, bus: Bus, *, nodes: int, decisions_per_s: float, haste: float = 1.0) -> None:
        self._bus = bus
        self._ids = [f"node-{n:03d}" for n in range(nodes)]
        self._rate = decisions_per_s
        self.haste = haste
        self._draw = random.Random(1)
        self._seq = 0
        self._busy: dict[str, list[InFlight]] = {node_id: [] for node_id in self._ids}
        self._number = 0
        self.sent = 0
        """Messages published."""
        self.replies: dict[str, object] = {}
        """What it answers, by the subject of the question."""
        self.queued: int | None = None
        """How many requests wait; None: a few, drawn anew for each decision."""
        self.failing_ratio = 0.02
        """Share of the attempts that fail."""

    def answer(self) -> None:
        """Answers the questions that a dashboard asks at its start, as scorer, recorder and dispatcher would."""
        strategy = StrategyReply(strategy="plan", available=("plan", "round_robin"), settings={"hold": 0.3})
        self.replies |= {
            subjects.NODES: NodesReply(nodes=(), scorer="fake", strategy="plan"),
            subjects.ADMIN_STRATEGY: strategy,
            subjects.ADMIN_BREAKER: BreakersReply(breakers=()),
            subjects.RECENT: RecentReply(),
            subjects.RELIABILITY: ReliabilityReply(entries=()),
            subjects.JOB_LIST: JobListReply(waiting={"5": 100}),
            subjects.JOB_DEAD: JobListReply(),
            subjects.BATCH_LIST: BatchListReply(),
        }
        for subject in self.replies:
            self._answer(subject)

    def _answer(self, subject: str) -> None:
        def on_question(msg: Msg) -> None:
            self._bus.publish(msg.reply, encode(self.replies[subject]))

        self._bus.subscribe(subject, on_question)

    def kill(self, node_id: str) -> None:
        """A node tells nothing any more, and the scorer says that it is down."""
        self._ids.remove(node_id)
        down = NodeEvent(node_id=node_id, state=NodeState.DOWN, previous=NodeState.UP, reason="no heartbeat for 5 s")
        self._send(subjects.NODE_EVENT.of(node_id, "down"), down)

    async def run(self) -> None:
        """Publishes until it is cancelled."""
        last = time.monotonic()
        passed = 0.0
        told = decided = 0
        for node_id in self._ids:
            self._send(subjects.NODE_EVENT.of(node_id, "up"), NodeEvent(node_id=node_id, state=NodeState.UP))
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            passed += (now - last) * self.haste
            last = now
            try:
                while told < passed * len(self._ids):
                    self._tell(self._ids[told % len(self._ids)])
                    told += 1
                while decided < passed * self._rate:
                    self._decide()
                    decided += 1
            except NotConnected:
                await asyncio.sleep(0.1)  # a moment's loss is made up for: the rates hold over the whole run

    def _tell(self, node_id: str) -> None:
        self._send(subjects.TELEMETRY.of(node_id), self._telemetry(node_id))

    def _decide(self) -> None:
        draw = self._draw
        self._number += 1
        attempt_id, node_id = f"r{self._number}-1", draw.choice(self._ids)
        decision = self._decision(attempt_id, node_id)
        self._send(subjects.ROUTING_EVENT.of(decision.mode.value), self._event(decision))
        busy = self._busy[node_id]
        if len(busy) == SLOTS:
            self._end(node_id, busy.pop(0))
        busy.append(InFlight(attempt_id=attempt_id, model=draw.choice(MODELS), has_first_token=True))
        self._seq += 1
        load = LoadUpdate(node_id=node_id, instance="fake", seq=self._seq, slots=SLOTS, in_flight=tuple(busy))
        self._send(subjects.LOAD.of(node_id), load)
        if self._number % 10 == 0:
            job = JobEvent(job_id=f"job-{self._number}", news=JobNews.DONE, state=JobState.DONE, model=MODELS[0])
            self._send(subjects.JOB_EVENT.of(job.job_id, job.news.value), job)

    def _end(self, node_id: str, attempt: InFlight) -> None:
        draw = self._draw
        tokens, seconds = draw.randint(20, 400), draw.lognormvariate(0.5, 0.8)
        figures = Figures(actual_s=seconds, ttft_s=seconds / 5, output_tokens=tokens, decode_s=seconds * 0.8)
        ended = Outcome(
            decision=Decision(
                attempt_id=attempt.attempt_id,
                request_id=attempt.attempt_id.partition("-")[0],
                node_id=node_id,
                mode=draw.choice((RoutingMode.FAST, RoutingMode.RELIABLE, RoutingMode.ASYNC)),
                model=attempt.model,
                forecast=Forecast(total_s=seconds * draw.uniform(0.7, 1.4)),
            ),
            status=OutcomeStatus.SUCCESS if draw.random() >= self.failing_ratio else OutcomeStatus.FAILED,
            reported_by=ReportedBy.NODE,
            figures=figures,
            finished_at=instant(datetime.now(UTC)),
        )
        self._send(subjects.OUTCOME_EVENT.of(node_id), ended)

    def _decision(self, attempt_id: str, node_id: str) -> Decision:
        draw = self._draw
        return Decision(
            request_id=attempt_id.partition("-")[0],
            attempt_id=attempt_id,
            node_id=node_id,
            model=draw.choice(MODELS),
            task_type="generation",
            mode=draw.choice((RoutingMode.FAST, RoutingMode.RELIABLE, RoutingMode.ASYNC)),
            priority=draw.choice((2, 5, 5, 8)),
            queue_s=draw.expovariate(2.0),
            reason="0.58 s before node-002, which would load 1.2 s",
            forecast=Forecast(total_s=draw.uniform(0.2, 6.0)),
        )

    def _event(self, decision: Decision) -> DecisionEvent:
        draw = self._draw
        others = [
            CandidateCost(node_id=n, total_s=draw.uniform(1, 9), wait_s=0.4, decode_s=draw.uniform(0.5, 4))
            for n in draw.sample(self._ids, min(_CANDIDATES, len(self._ids)))
        ]
        refused = [Rejection(node_id=n, reason=RejectionReason.MODEL_MISSING) for n in draw.sample(self._ids, 4)]
        return DecisionEvent(
            decision=decision,
            candidates=tuple(others),
            rejections=tuple(refused),
            queued=draw.randint(0, 12) if self.queued is None else self.queued,
            decided_at=instant(datetime.now(UTC)),
        )

    def _telemetry(self, node_id: str) -> Telemetry:
        draw = self._draw
        self._seq += 1
        number = int(node_id.rpartition("-")[2])
        running = tuple(
            msgspec.structs.replace(a, output_tokens=a.output_tokens + draw.randint(10, 60))
            for a in self._busy[node_id]
        )
        self._busy[node_id] = list(running)
        gpu = Gpu(
            index=0,
            name="NVIDIA GeForce RTX 4090",
            memory_total_mib=24_576.0,
            memory_used_mib=draw.uniform(4000, 24_000),
            utilisation_ratio=draw.random(),
            temperature_c=draw.uniform(40, 80),
            power_w=draw.uniform(60, 400),
        )
        return Telemetry(
            node_id=node_id,
            instance="fake",
            revision=1,
            seq=self._seq,
            engine=EngineInfo(kind=EngineKind.OLLAMA, url="http://127.0.0.1:11434", version="0.33.0"),
            slots=SLOTS,
            in_flight=running,
            gpus=(gpu,) if number % 4 else (),
            cpu_count=16,
            cpu_load_ratio=draw.random(),
            ram_total_mib=65_536.0,
            ram_available_mib=draw.uniform(8000, 60_000),
            installed=tuple(InstalledModel(name=m, size_bytes=5 << 30, quantization="Q4_K_M") for m in MODELS),
            loaded=tuple(LoadedModel(name=m, size_bytes=5 << 30, vram_bytes=5 << 30) for m in MODELS[:2]),
            speeds=tuple(LearnedSpeed(model=m, prompt_tps=2000.0, decode_tps=80.0, samples=9) for m in MODELS[:2]),
            bus_rtt_s=draw.uniform(0.0004, 0.002),
            host=f"host-{number}",
        )

    def _send(self, subject: str, message: Any) -> None:  # noqa: ANN401 any message of the contract
        self._bus.publish(subject, encode(message))
        self.sent += 1
