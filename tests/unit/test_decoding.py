"""What is said of bytes that are no message: where they are wrong, never what stands there."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.messages import decode
from sollol_schemas.control import ControlDrain, ControlPing
from sollol_schemas.jobs import JobStatus
from sollol_schemas.stores import KEPT, NodeClaim

SECRET = "crown-jewels"


@given(st.text(max_size=300), st.sampled_from(["type", "state", "kind"]))
def test_a_refused_text_is_not_quoted(text: str, field: str) -> None:
    fields = {"type": "job.status.v1", "job_id": "j", "state": "queued", field: text + SECRET}
    with pytest.raises(DecodeFailed) as failed:
        decode(msgspec.json.encode(fields), JobStatus)
    assert SECRET not in failed.value.message
    assert failed.value.message.endswith(f": {field} cannot be used")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_a_short_text(data: bytes) -> None:
    with pytest.raises(DecodeFailed) as failed:
        decode(data, JobStatus)
    assert len(failed.value.message) < 300
    assert failed.value.message.isprintable()


@pytest.mark.parametrize("number", [2**53 + 1, 2**64, 10**40])
def test_a_whole_number_that_nothing_reaches_is_refused(number: int) -> None:
    fields = {"type": "job.status.v1", "job_id": "j", "state": "queued", "tries": number}
    with pytest.raises(DecodeFailed):
        decode(msgspec.json.encode(fields), JobStatus)


def test_a_refusal_names_each_message_that_it_might_have_been_as_the_contract_does() -> None:
    with pytest.raises(DecodeFailed, match=r"^not a ControlPing or ControlDrain: "):
        decode(b"{}", ControlPing | ControlDrain)  # type: ignore[arg-type]  # a union is no class


def test_a_value_under_the_key_of_another_is_not_about_it() -> None:
    row = next(row for row in KEPT if row.value == "NodeClaim")
    claim = NodeClaim(node_id="n1", instance="i")
    assert row.is_about("node.n1", claim)
    assert not row.is_about("node.n2", claim)
    assert row.is_about("node.n1", object()), "what names nothing is about anything"
