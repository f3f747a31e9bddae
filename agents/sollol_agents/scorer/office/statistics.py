"""What a scorer can say about itself."""

from __future__ import annotations

import msgspec

from sollol_bus.actor import ActorState


class ScorerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the scorer can say about itself."""

    instance: str
    state: ActorState
    is_leader: bool
    term: int
    nodes: int
    queued: int
    in_flight: int
    granted: int
    refused: int
    mean_decision_s: float
    open_breakers: int
    sleeping_nodes: float
    short_models: float
    saved_s: float
    spare_slots: float
    priority_cuts: float
    rebalance_cuts: float
    refused_cuts: float
