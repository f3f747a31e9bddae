"""Instants: one form on the wire, whatever time zone they were made in."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

import sollol_schemas
from sollol_bus.trust.authority import Authority, Invitation
from sollol_schemas import batches, learned, members, telemetry
from sollol_schemas.instants import InvalidInstant, instant, parse_instant, retold, seconds_of

AT = datetime(2026, 1, 31, 18, 0, 0, 125_999, tzinfo=UTC)


@pytest.mark.parametrize("at", [AT, AT.astimezone(timezone(timedelta(hours=5))), AT.timestamp()], ids=type)
def test_an_instant_has_one_form(at: datetime | float) -> None:
    assert instant(at) == "2026-01-31T18:00:00.125Z"


def test_what_is_too_late_for_a_calendar_is_the_year_9999() -> None:
    assert instant(1e15) == "9999-01-01T00:00:00.000Z"


def test_instants_survive_the_wire() -> None:
    assert parse_instant(instant(1_700_000_000.125)) == seconds_of("2023-11-14T22:13:20.125Z") == 1_700_000_000.125
    assert seconds_of("soon") == 0.0
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


# -- every field of every message, and of what is kept ----------------------------------------------------------------

MODULES = [importlib.import_module(m.name) for m in pkgutil.iter_modules(sollol_schemas.__path__, "sollol_schemas.")]
IS_AN_INSTANT = re.compile(r"(^|_)(at|before)$")
SAYS_WHEN = re.compile(r"(^|_)(until|since|when|time|date)$|(^|_)(at|time|date)_(s|ms|us|ns)$|unix|epoch")
NO_CALENDAR = {"Birth.at_s"}
"""Readings of clocks of which only order and distances count."""


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of the contract, and of the authority's file, by Struct and name, with its schema."""
    found = [v for m in MODULES for v in vars(m).values() if isinstance(v, type) and issubclass(v, msgspec.Struct)]
    _, schemas = msgspec.json.schema_components([*found, Authority], ref_template="{name}")
    for name, schema in sorted(schemas.items()):
        for field, described in schema.get("properties", {}).items():
            yield f"{name}.{field}", described


def test_every_field_that_says_when_is_an_instant_and_is_called_so() -> None:
    assert len(dict(fields())) > 400
    for name, schema in fields():
        field, inner = name.partition(".")[2], schema.get("additionalProperties")
        if schema.get("deprecated") or (isinstance(inner, dict) and inner.get("deprecated")):
            continue
        formats = {schema.get("format"), inner.get("format") if isinstance(inner, dict) else None}
        assert ("date-time" in formats) == bool(IS_AN_INSTANT.search(field)), name
        assert name in NO_CALENDAR or not SAYS_WHEN.search(field), f"{name}: is it an Instant?"
        assert not re.search("1970|[Uu]nix", str(schema.get("description"))), f"{name}: is it an Instant?"


def former(name: str) -> Any:
    return msgspec.json.decode((Path(__file__).parent / "golden" / "older" / f"{name}.json").read_bytes())


@pytest.mark.parametrize(
    ("kind", "value", "fields_of"),
    [
        (members.Member, {"name": "a", "role": "node", "key": "U", "since": 7}, {"since": "joined_at"}),
        (Invitation, {"name": "a", "role": "node", "ends_at": 7.5}, {"ends_at": "expires_at"}),
        (telemetry.Telemetry, former("node.telemetry.v1"), {"unix_s": "sent_at"}),
        (learned.Learned, former("scorer.learned.v1"), {"saved_at_unix_s": "saved_at"}),
        (batches.FileRecord, former("FileRecord"), {"created_at_s": "created_at", "expires_at_s": "expires_at"}),
        (batches.BatchRecord, former("BatchRecord"), {"created_at_s": "created_at", "expires_at_s": "expires_at"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_older_versions_wrote_is_read_as_instants_and_written_as_such(
    kind: type[msgspec.Struct], value: dict[str, Any], fields_of: dict[str, str]
) -> None:
    read = msgspec.convert(value, kind)
    told = msgspec.to_builtins(read)
    assert {told[field] for field in fields_of.values()} == {instant(value[field]) for field in fields_of}
    assert not set(told) & set(fields_of)
    assert set(told) - {"entered_at"} == {fields_of.get(name, name) for name in value} - {"at_s"}
    assert msgspec.convert(told, kind) == read


def test_the_states_of_a_batch_of_an_older_version_keep_their_instants() -> None:
    batch = msgspec.convert(former("BatchRecord") | {"at_s": {"in_progress": 7}}, batches.BatchRecord)
    assert batch.entered_at == {"in_progress": instant(7)}
    ended = batch.into(batches.BatchState.COMPLETED, 8)
    assert (ended.entered_at, ended.at_s) == ({"in_progress": instant(7), "completed": instant(8)}, {})
