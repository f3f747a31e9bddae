"""The protocol of nodes is told truly: its examples are messages, and it names every subject and kind of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from sollol_agents.lab.conformance.check import RULES
from sollol_schemas import continuation, control, errors, events, execution, scaling, telemetry
from sollol_schemas.subjects import SUBJECTS, Role

PAGE = Path(__file__).parents[2] / "docs" / "node-protocol.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
EXAMPLES = re.findall(r"^`(\w+)`:\n\n```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
MODULES = (continuation, control, errors, events, execution, scaling, telemetry)
KINDS = {name: kind for one in MODULES for name, kind in vars(one).items()}

pytestmark = pytest.mark.skipif(not TEXT, reason="the documents are in the checkout only")


@pytest.mark.parametrize(
    ("name", "example"), EXAMPLES, ids=[f"{number}-{name}" for number, (name, _) in enumerate(EXAMPLES)]
)
def test_an_example_is_such_a_message_and_has_no_other_fields(name: str, example: str) -> None:
    message = msgspec.json.decode(example, type=KINDS[name])
    assert msgspec.json.decode(msgspec.json.encode(message)) == msgspec.json.decode(example)


def test_every_message_between_nodes_and_others_has_an_example() -> None:
    rows = [row for row in SUBJECTS if Role.NODE in (*row.by, *row.to)]
    named = {kind for row in rows for kind in (row.payload, row.reply) if kind and kind != "engine"}
    unions = {"AttemptReport": execution.AttemptReport, "ControlRequest": control.ControlRequest}
    single = named - set(unions) | {kind.__name__ for kind in get_args(execution.AttemptReport)}
    assert single <= {name for name, _ in EXAMPLES}


def test_every_kind_of_report_and_control_request_is_named() -> None:
    tags = [kind.__struct_config__.tag for kind in get_args(control.ControlRequest | execution.AttemptReport)]
    assert [tag for tag in tags if tag not in TEXT] == []


def test_every_subject_of_a_node_is_named() -> None:
    own = [row for row in SUBJECTS if Role.NODE in (*row.by, *row.to)]
    told = [row.address.replace("{node_id}", "attic").replace("{attempt_id}", "<attempt>") for row in own]
    assert [subject for subject in told if f"`{subject}`" not in TEXT] == []


def test_every_rule_that_agents_are_held_to_is_in_the_document() -> None:
    told = re.findall(r"^\| `([a-z.]+)` \| (.*) \|$", TEXT.partition("| rule |")[2], re.MULTILINE)
    assert told == [(rule.name, rule.says) for rule in RULES]
