"""Durable jobs over the gateway's own connection."""

from __future__ import annotations

from sollol_bus.connection import Bus
from sollol_bus.jobs import JobCalls


class GatewayJobs(JobCalls):
    """What the gateway asks about jobs."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self._bus = bus

    @property
    def bus(self) -> Bus:
        """The gateway's connection."""
        return self._bus
