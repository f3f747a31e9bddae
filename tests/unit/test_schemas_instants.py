"""Instants: one form on the wire, whatever time zone they were made in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sollol_schemas.instants import InvalidInstant, instant, parse_instant, retold

AT = datetime(2026, 1, 31, 18, 0, 0, 125_999, tzinfo=UTC)


@pytest.mark.parametrize("at", [AT, AT.astimezone(timezone(timedelta(hours=5))), AT.timestamp()], ids=type)
def test_an_instant_has_one_form(at: datetime | float) -> None:
    assert instant(at) == "2026-01-31T18:00:00.125Z"


def test_what_is_too_late_for_a_calendar_is_the_year_9999() -> None:
    assert instant(1e15) == "9999-01-01T00:00:00.000Z"


def test_instants_survive_the_wire() -> None:
    assert parse_instant(instant(1_700_000_000.125)) == 1_700_000_000.125
    with pytest.raises(InvalidInstant):
        parse_instant("soon")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2026-11-29T20:53:38.843516452Z", "2026-11-29T20:53:38.843Z"),
        ("2026-01-31T18:00:00+05:00", "2026-01-31T13:00:00.000Z"),
        ("2026-01-31T18:00:00Z", "2026-01-31T18:00:00.000Z"),
        ("2026-01-31T18:00:00", ""),
        ("0001-01-01T00:00:00+23:00", ""),
        ("soon", ""),
        ("", ""),
    ],
    ids=["nanoseconds", "another zone", "no fraction", "no zone", "too early", "words", "nothing"],
)
def test_an_instant_of_others_is_told_in_the_form_of_messages(text: str, told: str) -> None:
    assert retold(text) == told
