"""Whether each model has too few slots or too many, and nodes that sleep while nobody needs them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from sollol_schemas.telemetry import Telemetry
from sollol_schemas.units import BusId, Count, Instant, Seconds


class ScaleVerdict(StrEnum):
    """Whether a model has as many slots as it is asked for."""

    TOO_FEW = "too_few"  # requests wait, and one more slot would spare them a good part of it
    ENOUGH = "enough"
    TOO_MANY = "too_many"  # so many slots idled all the time that a whole node could go


class ScaleView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Slots of one model, and the seconds behind what is said of them."""

    model: str
    verdict: ScaleVerdict = ScaleVerdict.ENOUGH
    slots: Count = 0
    """Of nodes that are awake and can serve it; other models may use them too."""
    asleep_slots: Count = 0
    """Of nodes that can serve it and sleep."""
    busy_slots: float = 0.0
    """Of `slots`, on average over a minute, by whatever model; and what waits for them."""
    waiting: Count = 0
    """Requests that wait now."""
    waiting_s: Seconds = 0.0
    """What waiting costs: seconds that all that wait now will still wait, together; a mean over half a minute."""
    saved_s: Seconds = 0.0
    """What one more slot would save of them."""
    spare_slots: Count = 0
    """Slots that idled all the time within the last quarter of an hour, the busiest minute included."""
    idle_s: Seconds = 0.0
    """For so long at least one node's slots have been spare."""
    for_s: Seconds = 0.0
    """For how long the verdict has stood."""
    reason: str = ""


class ScaleEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="scale.event.v1"):
    """A model has too few slots, too many, or enough again; told on each change, and again each quarter of an hour."""

    scale: ScaleView
    previous: ScaleVerdict = ScaleVerdict.ENOUGH
    at: Instant = ""


class ScaleReply(msgspec.Struct, frozen=True, kw_only=True, tag="scale.v1"):
    """Every model that was asked for lately, those first that have too few slots."""

    models: tuple[ScaleView, ...]


class SleepNews(StrEnum):
    """What happened to a node that sleeps while nobody needs it."""

    ASLEEP = "asleep"  # it left to sleep
    WAKING = "waking"  # it is being woken
    AWAKE = "awake"  # it is back
    FAILED = "failed"  # it did not come; the next try follows after a pause


class SleepEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="sleep.event.v1"):
    """A node went to sleep, is woken, is back, or did not come."""

    node_id: BusId
    news: SleepNews
    reason: str = ""
    wake_s: Seconds = 0.0
    """How long waking it is expected to take."""
    took_s: Seconds = 0.0
    """How long it took."""
    retry_in_s: Seconds = 0.0
    """After a failure: how long it is left alone."""
    at: Instant = ""


class SleepRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node with nothing to do asks whether it may go to sleep."""

    instance: BusId
    idle_s: Seconds = 0.0
    is_wanted: bool = False
    """An operator wants it: then only work keeps it awake."""


class SleepReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="sleep.reply.v1"):
    """Whether it may. From this moment on it gets no work, until its next heartbeat."""

    may_sleep: bool
    reason: str = ""
    """Why not."""


class SleepersRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask which nodes may sleep, wake one, or send one to sleep."""

    wake: str = ""
    sleep: str = ""


class SleeperView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node that may sleep."""

    node_id: BusId
    news: SleepNews
    """What happened to it last."""
    for_s: Seconds = 0.0
    """How long ago."""
    wake_s: Seconds = 0.0
    """How long waking it is expected to take."""
    failures: Count = 0
    """Tries to wake it that failed in a row."""
    retry_in_s: Seconds = 0.0
    """How long it is left alone after them."""
    reason: str = ""


class SleepersReply(msgspec.Struct, frozen=True, kw_only=True, tag="sleepers.v1"):
    """The nodes that may sleep."""

    sleepers: tuple[SleeperView, ...]


class KeptSleeper(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node that sleeps, for scorers that come to office while it does."""

    node_id: BusId
    telemetry: Telemetry
    """Its last heartbeat."""
    wake_s: Seconds
    slept_at: Instant
