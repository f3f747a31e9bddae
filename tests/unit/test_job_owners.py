"""Whose a job is, and what is stored of a job that a member publishes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.dispatcher.jobs.reception import Unfit, to_store
from sollol_bus.trust.callers import Roster
from sollol_schemas import headers as h
from sollol_schemas import owners, subjects
from sollol_schemas.callers import Standing, Standings
from sollol_schemas.ids import is_bus_id, is_request_id

_ALPHABET = "abcXYZ019_-"
USERS = st.text(_ALPHABET, min_size=1, max_size=64)
NOBODY_OR_USERS = st.one_of(st.just(""), USERS)
JOB_IDS = st.text(_ALPHABET, min_size=1, max_size=56)


@given(NOBODY_OR_USERS, JOB_IDS)
def test_a_reference_tells_the_owner_and_the_id(owner: str, job_id: str) -> None:
    ref = owners.reference(owner, job_id)
    assert (owners.owner_of(ref), owners.id_of(ref)) == (owner, job_id)
    assert owners.is_reference(ref)
    assert is_bus_id(ref) == (not owner), "no id is taken for another's reference"


@given(NOBODY_OR_USERS, JOB_IDS, NOBODY_OR_USERS, JOB_IDS)
def test_two_owners_jobs_never_meet(one: str, first: str, other: str, second: str) -> None:
    is_same = (one, first) == (other, second)
    assert (owners.reference(one, first) == owners.reference(other, second)) == is_same


@given(USERS, NOBODY_OR_USERS, JOB_IDS)
def test_a_caller_means_its_own_jobs_alone(caller: str, owner: str, job_id: str) -> None:
    ref = owners.reference(owner, job_id)
    meant = owners.meant(caller, ref)
    assert meant is None or owners.owner_of(meant) == caller
    if owner == caller:
        assert meant == ref == owners.meant(caller, job_id)
        assert owners.told(caller, ref) == job_id
    else:
        assert owners.told(caller, ref) == ref
        assert not owners.is_mine(caller, ref)


@given(NOBODY_OR_USERS, JOB_IDS)
def test_the_control_role_and_an_open_bus_mean_every_job_by_its_reference(owner: str, job_id: str) -> None:
    ref = owners.reference(owner, job_id)
    assert owners.meant("", ref) == ref == owners.told("", ref)
    assert owners.is_mine("", ref)


@given(NOBODY_OR_USERS, JOB_IDS, st.sampled_from(["queued", "done"]))
def test_the_subject_of_an_event_tells_its_job(owner: str, job_id: str, news: str) -> None:
    ref = owners.reference(owner, job_id)
    subject = owners.event_subject(ref, news)
    assert owners.job_of_event(subject) == ref
    assert subjects.last_token(subject) == news
    assert (f".{owner}." in subject) == bool(owner) or f".{owner}." == f".{job_id}."
    assert len(owners.result_subject(ref).split(".")) == (6 if owner else 5)


@pytest.mark.parametrize("text", ["", "=", "a=", "=a", "a=b=c", "a b", "a.b", "a=" + "b" * 57, "a" * 65 + "=b", "a\n"])
def test_what_is_no_reference(text: str) -> None:
    assert not owners.is_reference(text)


@pytest.mark.parametrize(
    ("owner", "subject", "is_permitted"),
    [
        ("", "callbacks.x", True),
        ("", "_INBOX.x", True),
        ("", "sollol.v1.chat", False),
        ("alice", "callbacks.alice", True),
        ("alice", "callbacks.alice.x", True),
        ("alice", "_INBOX_cli.alice.x", True),
        ("alice", "callbacks.alice2", False),
        ("alice", "callbacks.bob.alice", False),
        ("alice", "_INBOX_cli.alice2.x", False),
        ("alice", "_INBOX.x", False),
        ("alice", "callbacks.alice.>", False),
        ("alice", "_INBOX_cli.alice.*", False),
        ("alice", "callbacks.alice.", False),
    ],
)
def test_where_a_result_may_be_delivered(owner: str, subject: str, is_permitted: bool) -> None:
    assert owners.may_be_called_back(owner, subject) == is_permitted


@given(
    USERS,
    JOB_IDS,
    st.integers(0, 10),
    st.dictionaries(
        st.sampled_from([h.MSG_ID, h.EXPECTED_STREAM, h.TRACEPARENT, h.JOB_RUN, h.JOB, "X-Sollol-Node-Id", "x"]),
        st.text(_ALPHABET, min_size=1, max_size=20),
    ),
)
def test_a_published_job_is_stored_under_its_publishers_name(
    owner: str, job_id: str, priority: int, given_headers: dict[str, str]
) -> None:
    stored = to_store(f"sollol.v1.jobs.submit.{priority}.{job_id}", given_headers | {h.CALLER: owner})
    assert stored.subject == f"sollol.v1.jobs.submit.{priority}.{owner}={job_id}"
    assert stored.headers.keys() <= {h.MSG_ID, h.EXPECTED_STREAM, h.TRACEPARENT, "X-Sollol-Node-Id"}
    assert (h.MSG_ID in stored.headers) == (h.MSG_ID in given_headers)
    assert stored.headers.get(h.MSG_ID, f"{owner}=").startswith(f"{owner}=")


def test_a_job_passes_no_ceiling_of_its_owners_priority() -> None:
    roster = Roster(Standings(callers={"alice": Standing(max_priority=2)}))
    for owner, stored in (("alice", "2"), ("bob", "9")):
        job = to_store("sollol.v1.jobs.submit.9.j", {h.CALLER: owner}, roster)
        assert job.subject == f"sollol.v1.jobs.submit.{stored}.{owner}=j"


@pytest.mark.parametrize("priority", ["11", "-1", "05", "x", "*"])
def test_a_priority_that_is_none_is_refused(priority: str) -> None:
    with pytest.raises(Unfit, match="0 to 10"):
        to_store(f"sollol.v1.jobs.submit.{priority}.j", {h.CALLER: "alice"})


@pytest.mark.parametrize("job_id", ["bob=j", "a b", "x" * 57, ""])
def test_an_id_that_is_none_is_refused(job_id: str) -> None:
    assert not is_request_id(job_id)
    with pytest.raises(Unfit, match="cannot be a job's id"):
        to_store(f"sollol.v1.jobs.submit.5.{job_id}", {h.CALLER: "alice"})


@pytest.mark.parametrize(
    "name", ["Nats-TTL", "Nats-Rollup", "nats-rollup", "Nats-Expected-Last-Msg-Id", "Nats-Schedule"]
)
def test_an_order_to_jetstream_that_is_not_for_jobs_is_refused(name: str) -> None:
    with pytest.raises(Unfit, match="not for jobs"):
        to_store("sollol.v1.jobs.submit.5.j", {h.CALLER: "alice", name: "1"})
