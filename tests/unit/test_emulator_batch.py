"""Slots, the queue before them, the prefix cache, and what one step does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.emulator.batch import Batch, Job
from sollol_agents.lab.emulator.text import Piece


class Log:
    """Collects what jobs say and in which order they end."""

    def __init__(self) -> None:
        self.said: dict[str, list[str]] = {}
        self.ended: list[str] = []

    def job(self, name: str, *, prompt: int | list[str] = 1, output: int = 1) -> Job:
        self.said[name] = []
        return Job(
            prompt=[f"{name}{n}" for n in range(prompt)] if isinstance(prompt, int) else prompt,
            output=tuple(Piece(str(n)) for n in range(output)),
            output_tokens=output + 1,
            on_piece=lambda piece: self.said[name].append(piece.text),
            on_end=lambda: self.ended.append(name),
        )


def run(batch: Batch, *, steps: int = 10_000) -> int:
    """Performs steps until nothing is left; returns how many there were."""
    for count in range(steps):
        step = batch.plan()
        if step is None:
            return count
        batch.complete(step, 1.0, float(count))
    raise AssertionError("the batch never came to an end")


def run_steps(batch: Batch, steps: int) -> None:
    for count in range(steps):
        step = batch.plan()
        assert step is not None
        batch.complete(step, 1.0, float(count))


def test_a_job_says_all_its_pieces_in_order_and_ends_once() -> None:
    log, batch = Log(), Batch(slots=1)
    batch.submit(log.job("a", output=4), 0.0)
    run(batch)
    assert log.said["a"] == ["0", "1", "2", "3"]
    assert log.ended == ["a"]


def test_jobs_beyond_the_slots_wait_in_order() -> None:
    log, batch = Log(), Batch(slots=1)
    for name in "abc":
        batch.submit(log.job(name), 0.0)
    assert (batch.running, batch.waiting) == (1, 2)
    run(batch)
    assert log.ended == ["a", "b", "c"]


def test_jobs_in_slots_share_the_steps() -> None:
    log, batch = Log(), Batch(slots=2)
    batch.submit(log.job("a", output=9), 0.0)
    batch.submit(log.job("b", output=9), 0.0)
    assert run(batch) == 10


def test_a_long_prompt_is_evaluated_in_batches_beside_the_other_streams() -> None:
    log, batch = Log(), Batch(slots=2, batch_tokens=100)
    batch.submit(log.job("a", output=5), 0.0)
    batch.submit(log.job("b", prompt=250), 0.0)
    step = batch.plan()
    assert step is not None
    assert [tokens for _, tokens in step.prefill] == [1, 99]
    batch.complete(step, 1.0, 0.0)
    following = batch.plan()
    assert following is not None
    assert len(following.decode) == 1
    assert [tokens for _, tokens in following.prefill] == [100]


def test_a_shared_beginning_costs_nothing_the_second_time() -> None:
    log, batch = Log(), Batch(slots=2)
    first, again = log.job("a", prompt=50), log.job("b", prompt=[f"a{n}" for n in range(50)])
    other = log.job("c", prompt=50)
    for job in (first, other, again):
        batch.submit(job, 0.0)
        run(batch)
    assert (first.cached_tokens, other.cached_tokens, again.cached_tokens) == (0, 0, 49)


def test_a_new_prompt_takes_the_slot_unused_for_longest() -> None:
    log, batch = Log(), Batch(slots=2)
    for now, name in enumerate("abc"):
        batch.submit(log.job(name, prompt=50), float(now))
        run(batch)
    again = log.job("d", prompt=[f"b{n}" for n in range(50)])
    batch.submit(again, 3.0)
    assert again.cached_tokens == 49


def test_cancelling_frees_the_slot_at_once() -> None:
    log, batch = Log(), Batch(slots=1)
    first = log.job("a", output=500)
    batch.submit(first, 0.0)
    batch.submit(log.job("b"), 0.0)
    step = batch.plan()
    assert step is not None
    batch.cancel(first, 0.0)
    batch.complete(step, 1.0, 1.0)
    run(batch)
    assert log.said == {"a": [], "b": ["0"]}


def test_cancelling_a_waiting_job_takes_it_out_of_the_queue() -> None:
    log, batch = Log(), Batch(slots=1)
    waiting = log.job("b")
    batch.submit(log.job("a"), 0.0)
    batch.submit(waiting, 0.0)
    batch.cancel(waiting, 0.0)
    run(batch)
    assert log.ended == ["a"]


def test_a_paused_job_keeps_its_slot() -> None:
    log, batch = Log(), Batch(slots=1)
    stalled = log.job("a")
    batch.submit(stalled, 0.0)
    stalled.is_paused = True
    assert batch.plan() is None
    assert batch.running == 1


@given(
    slots=st.integers(1, 4),
    jobs=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12), st.booleans()), max_size=12),
)
def test_every_job_ends_and_no_more_run_than_there_are_slots(slots: int, jobs: list[tuple[int, int, bool]]) -> None:
    log, batch = Log(), Batch(slots=slots, batch_tokens=16)
    made = [log.job(str(n), prompt=prompt, output=output) for n, (prompt, output, _) in enumerate(jobs)]
    for job in made:
        batch.submit(job, 0.0)
        assert batch.running <= slots
    for job, (_, _, is_cancelled) in zip(made, jobs, strict=True):
        if is_cancelled:
            batch.cancel(job, 0.0)
    run(batch)
    assert (batch.running, batch.waiting) == (0, 0)
    kept = [str(n) for n, (_, _, is_cancelled) in enumerate(jobs) if not is_cancelled]
    assert sorted(log.ended) == sorted(kept)
    assert all(log.said[name] == [str(n) for n in range(jobs[int(name)][1])] for name in kept)


def test_a_shared_prompt_goes_on_in_every_step_beside_streams_and_in_even_parts_alone() -> None:
    log, batch = Log(), Batch(slots=3, batch_tokens=100, shared_tokens=7)
    batch.submit(log.job("a", prompt=80), 0.0)
    batch.submit(log.job("b", prompt=60), 0.0)
    alone = batch.plan()
    assert alone is not None
    assert [tokens for _, tokens in alone.prefill] == [50, 50]
    batch.submit(log.job("c", prompt=1, output=9), 0.0)
    batch.complete(alone, 1.0, 0.0)
    second = batch.plan()
    assert second is not None
    assert [tokens for _, tokens in second.prefill] == [30, 10, 1]
    batch.submit(log.job("d", prompt=40), 0.0)
    batch.complete(second, 1.0, 1.0)
    beside = batch.plan()
    assert beside is not None
    assert len(beside.decode) == 3
    run(batch)
    assert sorted(log.ended) == ["a", "b", "c", "d"]


def test_a_prompt_that_is_being_read_keeps_its_slot_to_its_end_when_its_client_leaves() -> None:
    log, batch = Log(), Batch(slots=1, batch_tokens=4)
    left, waiting = log.job("left", prompt=10), log.job("waiting")
    batch.submit(left, 0.0)
    batch.submit(waiting, 0.0)
    run_steps(batch, 1)
    batch.cancel(left, 1.0)
    assert (batch.running, batch.waiting) == (1, 1)
    run_steps(batch, 2)
    assert not waiting.is_waiting
    run(batch)
    assert (log.said["left"], log.ended) == ([], ["waiting"])


def test_an_embedding_takes_nothing_from_the_cache() -> None:
    log, batch = Log(), Batch(slots=1)
    for name in "ab":
        job = log.job(name, prompt=["x"] * 100, output=0)
        job.output_tokens = 0
        batch.submit(job, 0.0)
        run(batch)
        assert job.cached_tokens == 0
