"""A second scorer in office: who counts as one, and when it is said."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from sollol_agents.cli.commands.doctor import check_offices
from sollol_agents.cli.commands.findings import Level
from sollol_agents.scorer.office.rivals import Rivals, in_office
from sollol_bus.transport.discovery import OFFICE_TERM, Service

OTHERS = frozenset({"b"})
NOBODY: frozenset[str] = frozenset()


def service(instance: str, term: str = "", name: str = "sollol-scorer") -> Service:
    return Service(name=name, id=instance, metadata={OFFICE_TERM: term} if term else {})


def test_only_those_that_show_a_term_are_in_office() -> None:
    assert in_office([service("a", "3"), service("b"), service("c", "4")]) == {"a", "c"}


def test_a_rival_is_told_once_when_it_is_seen_twice_in_a_row_and_once_when_it_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus: Any = None
    rivals = Rivals(bus, "a", lambda: True)
    told = []
    with caplog.at_level(logging.WARNING):
        for others in (OTHERS, NOBODY, OTHERS, OTHERS, OTHERS, NOBODY, NOBODY):
            caplog.clear()
            rivals.look(others)
            told.append([getattr(record, "action", "") for record in caplog.records])
    assert told == [[], [], [], ["office_doubled"], [], ["office_single"], []]


def test_the_doctor_finds_an_office_that_two_hold_and_leaves_one_alone() -> None:
    recorder = service("r", "9", name="sollol-recorder")
    assert list(check_offices([service("a", "3"), service("b"), recorder])) == []
    (finding,) = check_offices([service("a", "3"), service("b", "2"), recorder])
    assert finding.level is Level.PROBLEM
    assert "a, b" in finding.found
