"""What the requests of one dispatcher share."""

from __future__ import annotations

from typing import NamedTuple

from sollol_agents.dispatcher.leaves import Leaves
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.dispatcher.requests.attempt import AbandonedAttempts
from sollol_agents.dispatcher.requests.node_probes import NodeProbes
from sollol_agents.dispatcher.requests.scorer_watch import ScorerWatch
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.transport.connection import Bus


class Tools(NamedTuple):
    """Everything that a request needs to get its slot and its answer."""

    bus: Bus
    instance: str
    """Who asks, as the scorer and the callers know it."""
    max_attempts: int
    """Attempts on distinct nodes that each request may make."""
    pace: Pace
    scorer: ScorerWatch
    nodes: NodeProbes
    abandoned: AbandonedAttempts
    leaves: Leaves
    outcomes: OutcomePublisher
    """Takes the outcomes that no node will publish."""
