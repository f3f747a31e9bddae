"""The AsyncAPI document is complete: what code knows of subjects, headers and messages stands there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("tools.recorded_messages", reason="the contract and what makes it are in the checkout only")

from sollol_bus.transport.connection import BusConfig
from sollol_contract import wire
from sollol_schemas import headers
from sollol_schemas.routing import ROUTING_FIELDS, routing_header
from sollol_schemas.stores import KEPT
from tools.recorded_messages import FILE, UNRECORDED

ROOT = Path(__file__).parents[2]
RECORDED = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def asyncapi() -> Any:
    return yaml.load(
        (ROOT / "schemas" / "asyncapi.yaml").read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )


def references(value: Any) -> Iterator[str]:
    """What a part of the document refers to, by the last part of each reference."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_message_stands_in_a_channel_or_is_kept(asyncapi: Any) -> None:
    told = {*references(asyncapi["channels"]), *references(asyncapi["info"]["x-kept"])}
    assert set(asyncapi["components"]["messages"]) <= told
    assert {row.value for row in KEPT} - {""} <= told
    for union in wire.unions():
        assert set(wire.members(union)) <= told, union


BARE_HEADERS = {
    "ROUTING_PREFIX": "what the routing headers begin with",
    "STATUS": "the server's own status line, on a message of its own",
    "NO_RESPONDERS": "a value of it",
    "JOINED": "a value of Sollol-Stream",
    "TRACE_DEST": "on an empty message that the server delivers to nobody",
    "TRACE_ONLY": "on the same",
}
"""Constants of `headers` that stand on no message of the contract, and why."""


def test_every_header_is_described(asyncapi: Any) -> None:
    schemas = {name: one for name, one in asyncapi["components"]["schemas"].items() if name.endswith("Headers")}
    described = {header: text for one in schemas.values() for header, text in one["properties"].items()}
    assert all(len(one["description"]) > 10 for one in described.values())
    constants = {name: value for name, value in vars(headers).items() if name.isupper()}
    assert {value for name, value in constants.items() if name not in BARE_HEADERS} <= set(described)
    assert set(described) - set(constants.values()) == {routing_header(field) for field in ROUTING_FIELDS}
    messages = asyncapi["components"]["messages"].values()
    used = {reference for message in messages for reference in references(message.get("headers"))}
    assert used == set(schemas)


def test_a_recorded_message_has_no_header_that_is_not_described(asyncapi: Any) -> None:
    messages = asyncapi["components"]["messages"]
    for told in (one for one in RECORDED if one["message"] in messages):
        names = references(messages[told["message"]].get("headers"))
        described = {header for name in names for header in asyncapi["components"]["schemas"][name]["properties"]}
        assert set(told.get("headers", {})) <= described, told["message"]


def test_every_message_was_recorded_or_it_is_said_why_not(asyncapi: Any) -> None:
    recorded = {told["message"] for told in RECORDED}
    assert set(wire.messages()) | set(asyncapi["components"]["messages"]) == recorded | set(UNRECORDED)
    assert not recorded & set(UNRECORDED)


def test_who_asks_is_known_by_what_a_connection_may_show(asyncapi: Any) -> None:
    schemes = asyncapi["components"]["securitySchemes"]
    fields = set(BusConfig.__struct_fields__) & {"user", "password", "creds_file", "nkey_file", "tls_cert_file"}
    assert fields == {"user", "password", "creds_file"}, "a new way to show who one is needs a scheme"
    assert set(schemes) == {"userPassword", "token", "credentialsFile"}
    assert {*references(asyncapi["servers"]["nats"]["security"])} == set(schemes)
