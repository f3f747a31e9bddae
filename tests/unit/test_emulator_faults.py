"""Which request a fault strikes: by path, model, time, count and chance."""

from __future__ import annotations

from random import Random

import pytest

from sollol_agents.lab.emulator.faults import Fault, FaultBox, FaultKind


def struck(box: FaultBox, count: int, *, path: str = "/api/chat", model: str = "m", now: float = 0.0) -> list[bool]:
    return [box.strike(path, model, now) is not None for _ in range(count)]


def box_with(*faults: Fault, seed: int = 1) -> FaultBox:
    box = FaultBox(Random(seed))
    for fault in faults:
        box.arm(fault, 0.0)
    return box


def test_a_fault_strikes_as_often_as_it_says() -> None:
    assert struck(box_with(Fault(kind=FaultKind.RESET, times=2)), 4) == [True, True, False, False]


def test_a_fault_without_end_strikes_always() -> None:
    assert all(struck(box_with(Fault(kind=FaultKind.RESET, times=0)), 50))


def test_requests_may_pass_before_the_first() -> None:
    assert struck(box_with(Fault(kind=FaultKind.RESET, skip=2)), 4) == [False, False, True, False]


@pytest.mark.parametrize(
    ("fault", "path", "model", "hits"),
    [
        (Fault(kind=FaultKind.RESET), "/api/generate", "m", True),
        (Fault(kind=FaultKind.RESET), "/api/ps", "m", False),
        (Fault(kind=FaultKind.HANG, path="/api/ps"), "/api/ps", "", True),
        (Fault(kind=FaultKind.HANG, path="/api/ps"), "/api/chat", "m", False),
        (Fault(kind=FaultKind.RESET, model="m"), "/api/chat", "m", True),
        (Fault(kind=FaultKind.RESET, model="m"), "/api/chat", "other", False),
        (Fault(kind=FaultKind.RESET, model="M"), "/api/chat", "m:latest", True),
    ],
)
def test_a_fault_strikes_its_path_and_model_only(fault: Fault, path: str, model: str, hits: bool) -> None:
    assert struck(box_with(fault), 1, path=path, model=model) == [hits]


@pytest.mark.parametrize(("now", "hits"), [(0.0, False), (5.0, True), (9.9, True), (10.0, False)])
def test_a_fault_strikes_within_its_window(now: float, hits: bool) -> None:
    assert struck(box_with(Fault(kind=FaultKind.RESET, at_s=5, until_s=10)), 1, now=now) == [hits]


def test_chance_is_drawn_from_the_seed() -> None:
    fault = Fault(kind=FaultKind.RESET, times=0, chance=0.3)
    first, second = struck(box_with(fault), 1000), struck(box_with(fault), 1000)
    assert first == second
    assert 200 < sum(first) < 400


def test_the_first_fault_set_wins() -> None:
    box = box_with(Fault(kind=FaultKind.RESET), Fault(kind=FaultKind.STALL))
    kinds = [fault.kind for fault in (box.strike("/api/chat", "m", 0.0), box.strike("/api/chat", "m", 0.0)) if fault]
    assert kinds == [FaultKind.RESET, FaultKind.STALL]


def test_clearing_removes_them_all() -> None:
    box = box_with(Fault(kind=FaultKind.RESET, times=0))
    box.clear()
    assert not box
    assert struck(box, 1) == [False]
