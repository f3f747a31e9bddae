from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.dispatcher.jobs import life
from sollol_agents.dispatcher.jobs.life import Again, Drop, End, LookFor, RetryRules, TakeUp
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import TERMINAL, JobState, JobStatus

RULES = RetryRules(max_tries=3, first_s=2.0, max_s=20.0)
FRESH = JobStatus(job_id="j", state=JobState.QUEUED, priority=5, worker="me", body_hash="a", stream_seq=7)


def known(state: JobState, **fields: object) -> JobStatus:
    return msgspec.structs.replace(FRESH, state=state, worker="other", **fields)


def failure(code: ErrorCode, **details: object) -> ErrorBody:
    return ErrorBody(code=code, message="scripted", details=details)


def test_a_job_that_nobody_knows_is_taken() -> None:
    assert life.take_up(None, FRESH) == TakeUp(status=FRESH)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_message_of_a_job_that_has_ended_is_dropped(state: JobState) -> None:
    assert life.take_up(known(state), FRESH) == Drop()


def test_another_body_under_the_id_of_a_job_that_has_ended_is_a_conflict() -> None:
    other = msgspec.structs.replace(FRESH, body_hash="b")
    assert life.take_up(known(JobState.DONE), other) == Drop(is_conflict=True)


def test_a_later_run_takes_a_job_that_has_ended_and_keeps_the_number_of_its_result() -> None:
    again = msgspec.structs.replace(FRESH, run=2, stream_seq=9)
    verdict = life.take_up(known(JobState.DEAD, tries=3, losses=2, result_seq=4), again)
    assert isinstance(verdict, TakeUp)
    assert (verdict.status.run, verdict.status.tries, verdict.status.losses, verdict.status.result_seq) == (2, 0, 0, 4)


def test_a_job_whose_worker_died_is_taken_over_and_counts_a_loss() -> None:
    verdict = life.take_up(known(JobState.RUNNING, tries=1, node_id="attic"), FRESH)
    assert isinstance(verdict, TakeUp)
    assert verdict.was_taken
    status = verdict.status
    assert (status.state, status.worker, status.losses, status.tries) == (JobState.QUEUED, "me", 1, 1)


def test_a_job_that_only_waited_elsewhere_is_taken_over_without_a_loss() -> None:
    verdict = life.take_up(known(JobState.QUEUED), FRESH)
    assert isinstance(verdict, TakeUp)
    assert (verdict.was_taken, verdict.status.losses) == (True, 0), "it may have been too quick to be written down"


def test_a_second_message_is_judged_by_whether_the_first_is_still_stored() -> None:
    second = msgspec.structs.replace(FRESH, stream_seq=8)
    assert life.take_up(known(JobState.QUEUED), second) == LookFor(stream_seq=7)
    verdict = life.take_up(known(JobState.QUEUED), second, is_other_gone=True)
    assert isinstance(verdict, TakeUp)
    assert verdict.status.stream_seq == 8


@pytest.mark.parametrize("code", sorted(life.FINAL))
def test_a_fault_of_the_job_itself_ends_it_at_once(code: ErrorCode) -> None:
    step = life.after_failure(FRESH, failure(code), RULES, random.Random(1))
    assert isinstance(step, End)
    assert (step.status.state, step.status.error) == (JobState.FAILED, failure(code))


def test_a_model_that_no_known_node_has_ends_the_job_at_once_and_the_models_are_named() -> None:
    error = failure(ErrorCode.UNKNOWN_MODEL, is_settled=True, models=["a", "b"])
    step = life.after_failure(FRESH, error, RULES, random.Random(1))
    assert isinstance(step, End)
    assert step.status.state is JobState.FAILED
    assert step.status.error is not None
    assert step.status.error.message.endswith("; there are a, b")


def test_a_model_that_exists_nowhere_is_doubted_for_seconds_while_nodes_still_join() -> None:
    status, waited_s = FRESH, 0.0
    while isinstance(
        step := life.after_failure(status, failure(ErrorCode.UNKNOWN_MODEL), RULES, random.Random(1)), Again
    ):
        waited_s += step.delay_s
        status = step.status
    assert step.status.state is JobState.FAILED
    assert waited_s == 27.0


def test_a_model_that_no_node_can_use_so_is_as_good_as_missing() -> None:
    error = failure(ErrorCode.NO_ELIGIBLE_NODE, nodes={"attic": "wrong_capability: completion"})
    step = life.after_failure(FRESH, error, RULES, random.Random(1))
    assert step.status.doubts == 1
    waiting = failure(ErrorCode.NO_ELIGIBLE_NODE, nodes={"attic": "wrong_capability", "cellar": "draining"})
    assert life.after_failure(FRESH, waiting, RULES, random.Random(1)).status.doubts == 0


@pytest.mark.parametrize("code", sorted(life.PATIENT))
def test_what_is_nobodys_fault_is_waited_out_without_counting(code: ErrorCode) -> None:
    step = life.after_failure(FRESH, failure(code), RULES, random.Random(1))
    assert isinstance(step, Again)
    assert step.is_patient
    assert (step.status.tries, step.status.losses, step.status.doubts) == (0, 0, 0)


def test_faults_of_engines_back_off_and_end_in_a_dead_letter_after_the_last_try() -> None:
    status, delays = FRESH, []
    while isinstance(
        step := life.after_failure(status, failure(ErrorCode.ENGINE_FAILED), RULES, random.Random(1)), Again
    ):
        delays.append(step.delay_s)
        status = step.status
    assert (step.status.state, step.status.tries) == (JobState.DEAD, 3)
    assert len(delays) == 2
    assert delays[1] > delays[0] > 0


def test_lost_nodes_cost_no_try_but_end_a_job_that_kills_them_all() -> None:
    exhausted = failure(ErrorCode.ATTEMPTS_EXHAUSTED, last_code="node_lost")
    status, losses = FRESH, 0
    while isinstance(step := life.after_failure(status, exhausted, RULES, random.Random(1)), Again):
        losses += 1
        status = step.status
        assert status.tries == 0
    assert (step.status.state, losses) == (JobState.DEAD, life.MAX_LOSSES - 1)


@given(st.lists(st.sampled_from(sorted(ErrorCode)), max_size=60), st.integers(0, 2**32))
def test_whatever_fails_delays_are_bounded_and_an_end_is_terminal(codes: list[ErrorCode], seed: int) -> None:
    status, rng = FRESH, random.Random(seed)
    for code in codes:
        step = life.after_failure(status, failure(code), RULES, rng)
        if isinstance(step, End):
            assert step.status.state in (JobState.FAILED, JobState.DEAD)
            return
        assert 0 < step.delay_s <= RULES.max_s * 1.25
        assert step.status.state is JobState.QUEUED
        assert step.status.tries < RULES.max_tries
        assert not life.is_worn_out(step.status)
        status = step.status


@given(
    state=st.sampled_from(sorted(JobState)),
    runs=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    is_same_body=st.booleans(),
    is_same_message=st.booleans(),
    is_gone=st.booleans(),
)
def test_a_job_that_has_ended_is_run_again_only_by_a_message_of_a_later_run(
    state: JobState, runs: tuple[int, int], *, is_same_body: bool, is_same_message: bool, is_gone: bool
) -> None:
    known_run, run = runs
    message = msgspec.structs.replace(
        FRESH, run=run, body_hash="a" if is_same_body else "b", stream_seq=7 if is_same_message else 8
    )
    verdict = life.take_up(known(state, run=known_run), message, is_other_gone=is_gone)
    if isinstance(verdict, TakeUp):
        assert state not in TERMINAL or run > known_run
        assert verdict.status.state is JobState.QUEUED
        assert verdict.status.stream_seq == message.stream_seq
