"""Durable jobs over the gateway's own connection."""

from __future__ import annotations

from sollol_bus.sdk.jobs import JobCalls
from sollol_bus.transport.connection import Bus


class GatewayJobs(JobCalls):
    """What the gateway asks about jobs."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self._bus = bus

    @property
    def bus(self) -> Bus:
        """The gateway's connection."""
        return self._bus
