"""Jobs as tables and text."""

from __future__ import annotations

import msgspec

from sollol_agents.cli.output import note, say, seconds, show_table, tell
from sollol_bus.sdk.jobs import JobAnswer
from sollol_bus.transport.clock import wall_s
from sollol_schemas.instants import InvalidInstant, parse_instant
from sollol_schemas.jobs import JobListReply, JobState, JobStatus

_WORDS = {
    "losses": "interrupted",
    "doubts": "model missing",
    "takes": "taken over",
    "owner": "dispatcher",
}
"""Facts of a job whose fields are called otherwise than a person would."""


def show_jobs(reply: JobListReply) -> None:
    """A table of jobs, and one line about what waits."""
    rows = [
        (
            job.job_id,
            job.state.value,
            age(job.submitted_at),
            job.model or "-",
            job.node_id or "-",
            _error(job),
            str(job.priority),
            str(job.tries) if job.tries else "-",
            str(job.tokens) if job.tokens else "-",
        )
        for job in reply.jobs
    ]
    headings = ("JOB", "STATE", "AGE", "MODEL", "NODE", "ERROR", "PRIORITY", "TRIES", "TOKENS")
    first_to_go = ("TOKENS", "TRIES", "PRIORITY", "MODEL", "NODE", "ERROR")
    numbers, empty = ("PRIORITY", "TRIES", "TOKENS", "AGE"), "no jobs; `sollol jobs submit MODEL PROMPT` hands one over"
    show_table(headings, rows, numbers=numbers, first_to_go=first_to_go, empty=empty)
    waiting = ", ".join(f"{n} of priority {p}" for p, n in reply.waiting.items()) or "none"
    note(f"in the queue: {waiting}; delayed: {reply.delayed}; dead letters: {reply.dead}")


def show_status(job: JobStatus) -> None:
    """What is known about one job, a line for each fact that there is."""
    # a field at its default does not travel, and the priority is a fact all the same
    facts = {"job_id": job.job_id, "state": job.state.value, "priority": job.priority} | msgspec.to_builtins(job)
    for name in ("type", "body_hash", "stream_seq", "result_seq"):
        facts.pop(name, None)
    error = facts.pop("error", None)
    for name, value in facts.items():
        tell(f"{_WORDS.get(name, name.replace('_', ' ')):<14}{value}", indent=" " * 14)
    if error is not None:
        tell(f"{'error':<14}{error['code']}: {error['message']}", indent=" " * 14)


def show_answer(answer: JobAnswer) -> None:
    """The answer of a job: its text, or the engine's JSON where there is none."""
    if answer.result is None:
        note(f"sollol: job {answer.job_id} is done, but its result has expired")
        return
    text = answer.text
    say(text or bytes(answer.result.body).decode())
    decision = answer.result.decision
    if decision is not None and answer.result.figures is not None:
        note(
            f"— {decision.node_id} · {seconds(answer.result.figures.actual_s)} on the node, "
            f"{seconds(answer.result.total_s)} in all · tries {answer.result.tries}"
        )


def age(submitted_at: str) -> str:
    """Time since an instant."""
    try:
        return seconds(max(0.0, wall_s() - parse_instant(submitted_at)))
    except InvalidInstant:
        return "-"


def _error(job: JobStatus) -> str:
    if job.error is None or job.state in (JobState.DONE, JobState.CANCELLED):
        return "-"
    return f"{job.error.code}: {job.error.message}"
