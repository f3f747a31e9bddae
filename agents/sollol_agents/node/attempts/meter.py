"""What is measured of the node as a whole, and what of it falls to one attempt: company, energy, money."""

from __future__ import annotations

from typing import Any, NamedTuple

from sollol_agents.node.attempts.concurrency import Concurrency, mean_co_runners
from sollol_agents.node.attempts.shares import Mark, PowerMeter, Shares
from sollol_agents.node.config import NodeConfig, price_of
from sollol_schemas.prices import Power, significant


class Began(NamedTuple):
    """Where the meter stood when an attempt began."""

    at: float
    area: float
    mark: Mark


class Meter:
    """The meter of one node.

    Args:
        config: What its owner states of its power and its price.
        now: Monotonic seconds.
    """

    def __init__(self, config: NodeConfig, now: float) -> None:
        self._concurrency = Concurrency(now)
        self._shares = Shares(now)
        self._power = PowerMeter(config.power_idle_w, config.power_busy_w)
        self.price = price_of(config)
        """What the node costs now; operators may change it."""
        self._running = 0

    @property
    def power(self) -> Power:
        """What the node draws, idle and busy."""
        return self._power.told

    def set_running(self, running: int, now: float) -> None:
        """From now on so many attempts run."""
        self._running = running
        self._concurrency.set_running(running, now)
        self._shares.set_running(running, now)

    def draws(self, measured_w: float | None, now: float) -> None:
        """Takes note of what the GPUs draw; None where they do not tell."""
        self._shares.set_power(self._power.observe(measured_w, is_busy=self._running > 0), now)

    def begin(self, now: float) -> Began:
        """An attempt begins."""
        return Began(now, self._concurrency.area(now), self._shares.mark(now))

    def charges(self, began: Began, now: float) -> dict[str, Any]:
        """Fields of the figures of an attempt that has run since then: its company, and what it cost."""
        share, price = self._shares.since(began.mark, now), self.price
        expense = price.of(share.busy_s, share.energy_j)
        return {
            "co_runners": mean_co_runners(began.area, self._concurrency.area(now), now - began.at),
            "energy_j": share.energy_j,
            "expense": None if expense is None else significant(expense),
            "currency": price.currency if expense is not None else "",
        }
