"""What a working fleet says on the bus is what the contract says that it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tools.recorded_messages import record

BUNDLE = Path(__file__).parents[2] / "schemas" / "json" / "sollol.json"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FOREIGN = {"EngineChunk", "AnswerPart", "JobResult", "JobReply", "JobCallback", "PubAck"}
"""Messages with words of an engine or of the NATS server in them, which tell instants in their own form."""


def instants(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from instants(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from instants(inner)
    elif isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value):
        yield value


async def test_every_message_of_a_working_fleet_fits_its_schema_and_tells_instants_in_one_form(tmp_path: Path) -> None:
    bundle = json.loads(BUNDLE.read_text())
    registry = Registry().with_resource("sollol.json", DRAFT202012.create_resource(bundle))
    validators = {
        name: jsonschema.Draft202012Validator({"$ref": f"sollol.json#/$defs/{name}"}, registry=registry)
        for name in bundle["$defs"]
    }
    kinds, told = set(), 0
    for message in await record(tmp_path):
        payload = json.loads(bytes(message.payload))
        if message.message in validators and payload != "":
            validators[message.message].validate(payload)
            kinds.add(message.message)
        if message.message not in FOREIGN:
            for text in instants(payload):
                assert INSTANT.fullmatch(text), (message.message, text)
                told += 1
    assert len(kinds) > 55
    assert told > 20
