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

from sollol_bus.transport.clock import wall_s
from sollol_contract import wire
from tools.recorded_messages import UNRECORDED, record

BUNDLE = Path(__file__).parents[2] / "schemas" / "json" / "sollol.json"
DAY_S = 86_400.0
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NO_CALENDAR = {"at_s"}
"""Readings of clocks of which only order and distances count."""
FOREIGN = {"EngineChunk", "AnswerPart", "JobResult", "JobReply", "JobCallback", "PubAck", "PullProgress"}
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


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from () if name in NO_CALENDAR else numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def is_about(number: float, now: float) -> bool:
    """Whether a number is an instant of these days as Unix time, in whatever unit."""
    return any(abs(number / unit - now) < DAY_S for unit in (1, 1e3, 1e6, 1e9))


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
                assert not [one for one in numbers(payload) if is_about(one, wall_s())], message.message
    assert set(bundle["$defs"]) & set(wire.messages()) - set(UNRECORDED) == kinds & set(wire.messages())
    assert told > 20
