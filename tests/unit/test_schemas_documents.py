"""The generated documents: current, complete and consistent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sollol_schemas.errors import ErrorCode
from sollol_schemas.subjects import SUBJECTS, Subject

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "schemas" / "sollol_contract").is_dir(), reason="the generator is in the checkout only"
)


@pytest.fixture(scope="module")
def asyncapi() -> Any:
    return yaml.load(
        (ROOT / "schemas" / "asyncapi.yaml").read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_the_documents_are_what_the_structs_say() -> None:
    command = [sys.executable, "-m", "sollol_contract", "--check"]
    done = subprocess.run(command, cwd=ROOT / "schemas", capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", SUBJECTS, ids=lambda row: row.address)
def test_a_row_builds_the_subject_that_its_address_describes(row: Subject) -> None:
    parameters = [token for token in row.address.split(".") if token.startswith("{")]
    assert row.of(*parameters) == row.address
    assert row.of(*("*" for _ in parameters)) == row.all
    with pytest.raises(TypeError):
        row.of(*parameters, "one too many")


def test_every_subject_is_a_channel(asyncapi: Any) -> None:
    addresses = {channel["address"] for channel in asyncapi["channels"].values()}
    assert {channel.address for channel in SUBJECTS} <= addresses


def test_every_reference_leads_somewhere(asyncapi: Any) -> None:
    for reference in set(references(asyncapi)):
        assert resolve(asyncapi, reference) is not None


def test_every_error_code_is_listed_with_status_and_meaning(asyncapi: Any) -> None:
    listed = {row["code"]: row for row in asyncapi["info"]["x-error-codes"]}
    assert set(listed) == {code.value for code in ErrorCode}
    assert all(row["meaning"] and 400 <= row["status"] < 600 for row in listed.values())


@pytest.mark.parametrize("path", sorted((ROOT / "schemas" / "json").glob("*.json")), ids=lambda p: p.stem)
def test_each_json_schema_is_valid_and_accepts_the_golden_sample(path: Path) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    tag = schema["properties"].get("type", {}).get("enum", [path.stem])[0]
    golden = Path(__file__).parent / "golden"
    sample = golden / f"{tag}.json"
    if not sample.is_file():  # `type` is an ordinary field of some messages
        sample = golden / f"{path.stem}.json"
    jsonschema.Draft202012Validator(schema).validate(json.loads(sample.read_text()))
