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
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from sollol_schemas.errors import ErrorCode
from sollol_schemas.routing import ROUTING_FIELDS, routing_headers
from sollol_schemas.subjects import SUBJECTS, Role, Subject

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


def test_what_members_ask_stands_under_their_names_too(asyncapi: Any) -> None:
    addresses = {channel["address"]: channel for channel in asyncapi["channels"].values()}
    for row in SUBJECTS:
        if not {Role.CLIENT, Role.OBSERVER} & set(row.by):
            continue
        channel = addresses[row.address.replace("sollol.v1.", "sollol.v1.as.{user}.", 1)]
        assert "user" in channel["parameters"]
        assert channel["messages"] == addresses[row.address]["messages"]


def test_every_message_has_an_example_that_fits_its_payload_and_headers(asyncapi: Any) -> None:
    registry = Registry().with_resource("urn:asyncapi", DRAFT202012.create_resource(asyncapi))
    for name in asyncapi["components"]["messages"]:
        message = asyncapi["components"]["messages"][name]
        for example in message["examples"]:
            for part in example.keys() & {"payload", "headers"}:
                where = {"$ref": f"urn:asyncapi#/components/messages/{name}/{part}"}
                jsonschema.Draft202012Validator(where, registry=registry).validate(example[part])


def test_every_routing_field_has_its_header(asyncapi: Any) -> None:
    described = asyncapi["components"]["schemas"]["RequestHeaders"]["properties"]
    told = {name: "1" for name in described if name.startswith("X-Sollol-")}
    assert len(told) == len(ROUTING_FIELDS)
    assert len(routing_headers(told)) == len(ROUTING_FIELDS)


# -- JSON Schema ------------------------------------------------------------------------------------------------------

JSON = ROOT / "schemas" / "json"
BUNDLE = "sollol.json"
MESSAGES = sorted(path for path in JSON.glob("*.json") if path.name != BUNDLE)


@pytest.fixture(scope="module")
def registry() -> Any:
    bundle = json.loads((JSON / BUNDLE).read_text())
    jsonschema.Draft202012Validator.check_schema(bundle)
    return Registry().with_resource(BUNDLE, DRAFT202012.create_resource(bundle))


@pytest.mark.parametrize("path", MESSAGES, ids=lambda p: p.stem)
def test_each_json_schema_is_valid_and_accepts_the_golden_sample(path: Path, registry: Any) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    made = registry.contents(BUNDLE)["$defs"][path.stem]
    tag = made["properties"].get("type", {}).get("const", path.stem)
    sample = json.loads((Path(__file__).parent / "golden" / f"{tag}.json").read_text())
    jsonschema.Draft202012Validator(schema, registry=registry).validate(sample)


def test_a_tag_is_a_constant_with_a_title_of_its_own(registry: Any) -> None:
    titles = [
        schema["properties"]["type"]["title"]
        for schema in registry.contents(BUNDLE)["$defs"].values()
        if "const" in schema.get("properties", {}).get("type", {})
    ]
    assert len(titles) == len(set(titles)) > 40


def test_the_schemas_hold_nothing_that_generators_of_types_stumble_over(registry: Any) -> None:
    defs = registry.contents(BUNDLE)["$defs"]
    for schema in objects(defs):
        assert "(?!" not in str(schema.get("pattern", "")), "Go and Rust have no look-ahead"
        assert "prefixItems" not in schema
        if schema.get("format") == "date-time":
            assert schema.get("default") != "", "no instant"
        if "x-enum-descriptions" in schema:
            assert len(schema["x-enum-descriptions"]) == len(schema["enum"])


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


# -- what was recorded ------------------------------------------------------------------------------------------------

RECORDED = json.loads((Path(__file__).parent / "golden" / "recorded" / "messages.json").read_text())


@pytest.mark.parametrize("told", RECORDED, ids=lambda told: told["message"])
def test_a_recorded_message_fits_its_schema(told: Any, registry: Any) -> None:
    name = told["message"]
    if name not in registry.contents(BUNDLE)["$defs"]:
        return  # an engine's body, or none
    schema = {"$ref": f"{BUNDLE}#/$defs/{name}"}
    jsonschema.Draft202012Validator(schema, registry=registry).validate(told["payload"])
