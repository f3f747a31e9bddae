"""The same fleet, arrivals and strategy in virtual time, with the production core."""

from __future__ import annotations

from collections.abc import Sequence

from bench.live.machines import compressed
from bench.routing.fleets import FLEETS, MachineSpec
from bench.routing.policies.planned import PlannedPolicy
from bench.routing.scenarios import Scenario
from bench.routing.simulation import World, run
from bench.routing.workloads import Request, poisson
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore

STRATEGIES = ("plan", "seven_factor", "least_loaded", "round_robin", "random")


def fleet_in(fleet: str, factor: float) -> str:
    """The name of a fleet of the simulation on which everything goes `factor` times faster."""
    return register(f"{fleet}x{factor:g}", [compressed(spec, factor) for spec in FLEETS[fleet]])


def register(name: str, specs: Sequence[MachineSpec]) -> str:
    """Makes a fleet known to the simulation under a name, and returns the name."""
    FLEETS[name] = tuple(specs)
    return name


def simulate(requests: list[Request], fleet: str, strategy: str, seed: int) -> list[Request]:
    """The requests with the latencies that the simulation gives them."""

    def policy(world: World) -> PlannedPolicy:
        config = ScorerConfig(warm_up_s=0.0, strategy=strategy)
        return PlannedPolicy(world, SchedulerCore(config, world.rng, 0.0))

    run(Scenario("live", fleet, (), poisson), fleet, requests, seed, policy)
    return requests
