"""Requests to the scorer in office: its strategy and its circuit breakers."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from sollol_schemas.events import BreakerState
from sollol_schemas.prices import NodePrice
from sollol_schemas.units import BusId, Count, Instant, Seconds, Weight


class StrategyRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the strategy in use, or choose another one; what waits, waits on."""

    strategy: str | None = None
    """The strategy to use from now on; None only asks."""
    settings: dict[str, float] = {}
    """Weights and thresholds to change, by name of the scorer's setting."""


class SettingLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a setting means and which values it takes."""

    text: str
    lowest: float
    highest: float
    default: float
    excludes_lowest: bool = False
    """Whether it must be above `lowest`."""
    excludes_highest: bool = False
    """Whether it must be below `highest`."""


class StrategyReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="strategy.v1"):
    """The strategy in use and those that could be."""

    strategy: str
    available: tuple[str, ...]
    settings: dict[str, float] = {}
    """The settings that may change at run time, with their values."""
    limits: dict[str, SettingLimits] = {}
    """What each of them means and takes."""


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What operators want of one node, whichever process runs it; what they said nothing of is as configured there."""

    is_draining: bool = False
    lets_finish: bool = False
    """Whether answers that could go on elsewhere finish on the draining node."""
    weight: Weight | None = None
    labels: dict[str, str] = {}
    """A label set to the empty string is removed."""
    price: NodePrice | None = None
    """One without any figure takes the price away."""


class Intents(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What operators want of the nodes, also of those that are down."""

    nodes: dict[str, Intent]


class BreakerRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the breakers, or close some by force."""

    reset: bool = False
    node_id: str = ""
    """Empty: every node."""
    model: str = ""
    """Empty: every model of the node, and the node's own."""


class BreakerView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One circuit breaker."""

    node_id: BusId
    model: str = ""
    """Empty: the node's own."""
    state: BreakerState = BreakerState.CLOSED
    failures: Count = 0
    """Consecutive failures."""
    opens_for_s: Seconds = 0.0
    """Until trials begin, for an open one."""


class BreakersReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="breakers.v1"):
    """The breakers that are not simply closed and without failures."""

    breakers: tuple[BreakerView, ...]


class StrategyEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="strategy.event.v1"):
    """The strategy or one of its settings changed."""

    strategy: str
    previous: str
    settings: dict[str, float] = {}
    at: Instant = ""


class ResetKind(StrEnum):
    """What an operator may have forgotten."""

    BREAKERS = "breakers"  # circuit breakers are closed
    RELIABILITY = "reliability"  # recorded outcomes and counts of success are gone
    QUALITY = "quality"  # what feedback taught of models is gone


class ResetEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="reset.event.v1"):
    """An operator had something forgotten; every scorer, standbys too, forgets it."""

    kind: ResetKind
    node_id: str = ""
    """Empty: every node."""
    model: str = ""
    """Empty: every model."""
    at: Instant = ""
