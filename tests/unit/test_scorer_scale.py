"""Too few slots, too many, enough: with the seconds behind it, and slowly."""

from __future__ import annotations

from sollol_agents.lab.testing.messages import MODEL
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.scaling import ScaleEvent, ScaleVerdict, ScaleView


def signals(fleet: Fleet, seconds: int) -> list[ScaleEvent]:
    """What is told while time passes, and every node goes on telling the same."""
    told: list[ScaleEvent] = []
    for _ in range(round(seconds / 2.5)):
        fleet.now += 1.5
        fleet.beat_all(1.0)
        told += [e for e in fleet.core.sleepers.look(fleet.now) if isinstance(e, ScaleEvent)]
    return told


def state(fleet: Fleet) -> ScaleView:
    return fleet.core.sleepers.scale.models[MODEL].view(fleet.now)


def busy_fleet() -> Fleet:
    fleet = Fleet()
    fleet.node("gpu1", slots=1)
    for number in range(6):
        fleet.ask(f"r{number}", deadline_s=3600.0)
    return fleet


def test_a_line_that_stays_is_a_signal_with_what_one_more_slot_would_save() -> None:
    fleet = busy_fleet()
    assert signals(fleet, 25) == [], "a line of a moment is none"
    (told,) = signals(fleet, 120)
    scale = told.scale
    assert (scale.verdict, told.previous) == (ScaleVerdict.TOO_FEW, ScaleVerdict.ENOUGH)
    assert (scale.slots, scale.waiting) == (1, 5)
    assert 0.0 < scale.saved_s < scale.waiting_s
    assert "one more slot would save" in scale.reason


def test_it_is_told_again_rarely_and_taken_back_when_the_line_is_gone() -> None:
    fleet = busy_fleet()
    signals(fleet, 145)
    repeated = signals(fleet, 905)
    assert [(e.scale.verdict, e.previous) for e in repeated] == [(ScaleVerdict.TOO_FEW, ScaleVerdict.TOO_FEW)]
    for number in range(6):
        fleet.core.release(f"r{number}", fleet.now)
    (over,) = signals(fleet, 400)
    assert (over.scale.verdict, over.previous) == (ScaleVerdict.ENOUGH, ScaleVerdict.TOO_FEW)


def test_slots_that_idle_for_a_quarter_of_an_hour_are_too_many_but_never_the_last_node() -> None:
    fleet = Fleet()
    fleet.node("gpu1", slots=2)
    fleet.place("r1")
    fleet.end("r1-1", "gpu1", OutcomeStatus.SUCCESS)
    assert signals(fleet, 1000) == []
    fleet.node("gpu2", slots=2)
    (told,) = signals(fleet, 1000)
    assert told.scale.verdict is ScaleVerdict.TOO_MANY
    assert told.scale.spare_slots >= 2
    assert told.scale.idle_s >= 900.0


def test_models_that_nobody_asks_for_are_not_watched_and_their_number_is_bounded() -> None:
    fleet = Fleet()
    fleet.node("gpu1")
    for number in range(100):
        fleet.core.demand.count(f"m{number}", fleet.now)
    signals(fleet, 3)
    assert len(fleet.core.sleepers.scale.models) == 64
    fleet.now += 100_000.0
    fleet.core.sleepers.look(fleet.now)
    assert not fleet.core.sleepers.scale.models
