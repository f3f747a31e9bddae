"""The durable jobs that the dashboard knows: a listing, kept current by events."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from sollol_schemas.batch_progress import BatchView
from sollol_schemas.jobs import JobEvent, JobListReply, JobState, JobStatus

LISTED: Final = 400
"""How many of the latest jobs are asked for."""
KEPT: Final = 500


class JobRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One job, as the list shows it."""

    id: str
    state: str
    priority: int = 5
    model: str = ""
    node_id: str = ""
    tries: int = 0
    tokens: int = 0
    submitted_at: str = ""
    started_at: str = ""
    finished_at: str = ""
    not_before: str = ""
    error: str = ""
    has_letter: bool = False


class JobsView(msgspec.Struct, frozen=True):
    """The jobs page."""

    jobs: tuple[JobRow, ...]
    """Latest first."""
    by_state: dict[str, int]
    """Of the jobs listed."""
    waiting: dict[str, int]
    """Stored jobs by priority, those that are being worked on included."""
    delayed: int
    dead: int
    batches: tuple[BatchView, ...] = ()
    """Latest first; of their jobs the latest stand in `jobs` too."""
    is_whole: bool = True
    """Whether the jobs listed are all that there are."""


class Jobs:
    """Up to `KEPT` jobs."""

    def __init__(self) -> None:
        self.version = 0
        """When it last changed."""
        self.is_stale = True
        """Whether the list should be asked for again: an event told that something happened."""
        self._rows: dict[str, JobRow] = {}
        self._waiting: dict[str, int] = {}
        self._delayed = 0
        self._dead = 0
        self._is_whole = True
        self._batches: tuple[BatchView, ...] = ()

    def on_listing(
        self, latest: JobListReply, dead: JobListReply, version: int, batches: tuple[BatchView, ...] = ()
    ) -> None:
        """What the dispatchers list."""
        self._batches = batches
        letters = {job.job_id for job in dead.jobs}
        listed = {job.job_id: _row(job, has_letter=job.job_id in letters) for job in (*dead.jobs, *latest.jobs)}
        order = [job.job_id for job in latest.jobs]
        order += [job.job_id for job in dead.jobs if job.job_id not in set(order)]
        self._rows = {job_id: listed[job_id] for job_id in order[:KEPT]}
        self._is_whole = len(latest.jobs) < LISTED
        self._waiting, self._delayed, self._dead = dict(latest.waiting), latest.delayed, max(latest.dead, len(letters))
        self.version = version

    def on_event(self, event: JobEvent, version: int) -> None:
        """Something happened to a job."""
        known = self._rows.pop(event.job_id, None) or JobRow(id=event.job_id, state=event.state.value)
        changed = msgspec.structs.replace(
            known,
            state=event.state.value,
            priority=event.priority,
            model=event.model or known.model,
            tries=event.tries,
            node_id=event.node_id or known.node_id,
            error=event.error.message if event.error is not None else "",
            submitted_at=known.submitted_at or event.at,
        )
        self._rows = {changed.id: changed, **self._rows}
        self._is_whole = self._is_whole and len(self._rows) <= KEPT
        while len(self._rows) > KEPT:
            del self._rows[next(reversed(self._rows))]
        self.version = version
        self.is_stale = True

    def view(self) -> JobsView:
        """Everything the page shows."""
        counts = Counter(row.state for row in self._rows.values())
        return JobsView(
            jobs=tuple(self._rows.values()),
            batches=self._batches,
            by_state={state.value: counts.get(state.value, 0) for state in JobState},
            is_whole=self._is_whole,
            waiting=self._waiting,
            delayed=self._delayed,
            dead=self._dead,
        )


def _row(job: JobStatus, *, has_letter: bool) -> JobRow:
    return JobRow(
        id=job.job_id,
        state=job.state.value,
        priority=job.priority,
        model=job.model,
        node_id=job.node_id,
        tries=job.tries,
        tokens=job.tokens,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        not_before=job.not_before,
        error=job.error.message if job.error is not None else "",
        has_letter=has_letter,
    )
