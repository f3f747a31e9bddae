"""The policies that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable

from bench.routing.policies.classic import (
    LeastConnections,
    PeakEwma,
    PowerOfTwo,
    RandomChoice,
    RoundRobin,
    RoundRobinWithoutRetries,
    WeightedLeastConnections,
)
from bench.routing.policies.listed import ListScheduler
from bench.routing.policies.oracle import oracle
from bench.routing.policies.planned import least_loaded, plan
from bench.routing.policies.resuming import plan_resume
from bench.routing.policies.seven_factor import SevenFactor
from bench.routing.policies.undoing import plan_undo
from bench.routing.simulation import Policy, World

POLICIES: dict[str, Callable[[World], Policy]] = {
    "plan": plan,
    "plan+resume": plan_resume,
    "plan+undo": plan_undo,
    "oracle": oracle,
    "least_loaded": least_loaded,
    "list": ListScheduler,
    "round_robin": RoundRobin,
    "round_robin_no_retry": RoundRobinWithoutRetries,
    "random": RandomChoice,
    "least_connections": LeastConnections,
    "weighted_least_connections": WeightedLeastConnections,
    "p2c": PowerOfTwo,
    "peak_ewma": PeakEwma,
    "seven_factor_1s": lambda world: SevenFactor(world, 1.0),
    "seven_factor_response_1s": lambda world: SevenFactor(world, 1.0, is_response_time=True),
    "seven_factor_30s": lambda world: SevenFactor(world, 30.0),
}
"""Makers of every policy."""
BATCH_POLICIES = ("plan", "oracle", "list", "least_loaded")
"""Those that batches are played with: the others queue at machines, which is no way to work a batch off."""
