"""Golden samples: every message ever released must decode for ever."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import msgspec
import pytest

import sollol_schemas
import sollol_schemas.subjects as subject_table
from sollol_schemas import stores, telemetry
from sollol_schemas.execution import CancelAttempt, RequestGranted
from sollol_schemas.jobs import JobGet, JobRef
from sollol_schemas.stores import BUCKETS, KEPT

GOLDEN = Path(__file__).parent / "golden"
MODULES = [importlib.import_module(m.name) for m in pkgutil.iter_modules(sollol_schemas.__path__, "sollol_schemas.")]
STRUCTS = {
    name: value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, msgspec.Struct)
}
BY_TAG = {kind.__struct_config__.tag or name: kind for name, kind in STRUCTS.items()}
SAMPLES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_a_released_message_still_decodes_and_keeps_every_field(path: Path) -> None:
    kind = BY_TAG[path.stem]
    value = msgspec.json.decode(path.read_bytes(), type=kind)
    assert msgspec.json.decode(msgspec.json.encode(value)) == msgspec.json.decode(path.read_bytes())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_a_reader_ignores_fields_it_does_not_know(path: Path) -> None:
    kind = BY_TAG[path.stem]
    data = msgspec.json.decode(path.read_bytes()) | {"a_field_of_the_future": [1]}
    assert msgspec.json.decode(msgspec.json.encode(data), type=kind) == msgspec.json.decode(
        path.read_bytes(), type=kind
    )


@pytest.mark.parametrize("tag", [t for t, k in BY_TAG.items() if k.__struct_config__.tag])
def test_every_tagged_message_has_a_golden_sample(tag: str) -> None:
    assert (GOLDEN / f"{tag}.json").is_file(), "run `make schemas`, check the new sample and commit it"


def test_a_sample_fills_every_field_of_its_message() -> None:
    sample = msgspec.json.decode((GOLDEN / "node.telemetry.v1.json").read_bytes())
    assert set(sample) - {"type"} == set(telemetry.Telemetry.__struct_fields__) - {"unix_s"}, "older versions' clock"


def test_every_payload_of_the_subject_table_is_a_message_of_the_contract() -> None:
    unions = {"ControlRequest", "FleetRequest", "GroupChange", "AttemptReport", "GrantReply"}
    named = {n for c in subject_table.SUBJECTS for n in (c.payload, c.reply)} - {"", "engine"} - unions
    assert named <= set(STRUCTS), named - set(STRUCTS)


def test_everything_kept_under_a_key_is_a_message_of_the_contract() -> None:
    assert {row.value for row in KEPT} - {""} <= set(STRUCTS)
    assert {row.bucket for row in KEPT} == set(BUCKETS)


def test_everything_that_jetstream_keeps_says_what_it_is_for() -> None:
    names = {text for name, text in vars(stores).items() if name.endswith(("_STREAM", "_BUCKET", "_STORE", "_BLOBS"))}
    assert set(stores.ABOUT) == names


@pytest.mark.parametrize(
    "bad", ["a\n", "a.b", "*", "a b", ""], ids=["line break", "two tokens", "wildcard", "space", "empty"]
)
@pytest.mark.parametrize("message", [JobRef, JobGet, CancelAttempt, RequestGranted], ids=lambda kind: kind.__name__)
def test_no_id_in_a_message_can_change_the_meaning_of_a_subject(message: type[msgspec.Struct], bad: str) -> None:
    ids = {name: "x" for name in message.__struct_fields__ if name.endswith("_id")}
    tag = {"type": message.__struct_config__.tag} if message.__struct_config__.tag else {}
    assert msgspec.convert({**tag, **ids}, message)
    for name in ids:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**tag, **ids, name: bad}, message)
