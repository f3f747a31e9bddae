"""The classic seven-factor score, fed from polled telemetry that is as old as its interval.

Its latency factor can be read in two ways: as the time to the machine and back, or as the machine's response time.
"""

from __future__ import annotations

from bench.routing.engine import Machine
from bench.routing.fleets import SLOTS
from bench.routing.policies.classic import Immediate
from bench.routing.simulation import World
from bench.routing.workloads import Request
from sollol_agents.scorer.strategies.seven_factor import Ask, Host, score

_MIB_PER_GB = 1000.0 / 1.048576
_RESPONSE_ALPHA = 0.2


class SevenFactor(Immediate):
    """Takes the machine with the highest score by what the last poll told.

    Args:
        world: Where it runs.
        interval_s: Seconds between two polls.
        is_response_time: Reads latency as the average time of the machine's answers, which weighs 0.2 each.
    """

    def __init__(self, world: World, interval_s: float, *, is_response_time: bool = False) -> None:
        super().__init__(world)
        self._interval_s = interval_s
        self._is_response_time = is_response_time
        self._response_s: dict[str, float] = {}
        self._hosts: dict[str, Host] = {}
        self._poll()

    def _poll(self) -> None:
        for rank, machine in enumerate(self.world.machines):
            used = sum(p.model.memory_gb for p in machine.memory.values())
            busy = len(machine.jobs())
            self._hosts[machine.name] = Host(
                free_vram_mib=(machine.spec.memory_gb - used) * _MIB_PER_GB if machine.spec.has_gpu else 0.0,
                has_gpu=machine.spec.has_gpu,
                load_ratio=min(1.0, busy / SLOTS),
                latency_ms=self._latency_s(machine) * 1000.0,
                success_ratio=1.0,
                host_priority=rank,
                prefers_task=False,
                is_available=machine.is_up,
            )
        self.world.time.after(self._interval_s, self._poll)

    def on_latency(self, machine: Machine, seconds: float) -> None:
        """Averages the machine's answers."""
        known = self._response_s.get(machine.name, seconds)
        self._response_s[machine.name] = known + _RESPONSE_ALPHA * (seconds - known)

    def _latency_s(self, machine: Machine) -> float:
        if self._is_response_time:
            return self._response_s.get(machine.name, machine.spec.rtt_s)
        return machine.spec.rtt_s

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """The highest score; ties go to the first in the list, as in the routers that use this score."""
        ask = Ask(
            needs_gpu=request.model.weights_gb > 1.5,
            is_complex=request.prompt_tokens >= 2000,
            priority=request.priority,
            expected_s=request.output_tokens / 60.0,
        )
        return max(machines, key=lambda m: score(self._hosts[m.name], ask))
