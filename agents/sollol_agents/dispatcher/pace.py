"""How long the dispatcher waits for what; no operator has a reason to change these, tests hurry."""

from __future__ import annotations

import msgspec


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one dispatcher, in seconds, and how many jobs it takes ahead."""

    grant_silence_s: float = 5.0
    """Without a word from the scorer for so long, a waiting request asks again; the scorer repeats itself every 2 s."""
    scorer_absence_s: float = 15.0
    """Without any scorer in office for so long, a waiting request is refused."""
    accept_s: float = 2.0
    """Within this time a node must accept an attempt."""
    attempt_check_s: float = 10.0
    """Between two questions to a node about an attempt that runs: a report of its end may have been lost."""
    last_words_s: float = 1.0
    """So long after a node said that an attempt has ended, its report and its last words to the caller may come."""
    probe_interval_s: float = 0.25
    """Between two probes of a node that has open attempts."""
    node_silence_s: float = 2.5
    """Without an answer to a probe, or any report, for so long a node hangs."""
    job_window: int = 64
    """Jobs of each priority taken from the queue ahead of their slots."""
    job_hold_s: float = 5.0
    """A job that no node may take keeps its place in a full window for so long."""
    job_retry_first_s: float = 2.0
    """Before a job's second try; doubles with each further one."""
    job_retry_max_s: float = 300.0
    """Between two tries of a job at most."""
    job_progress_s: float = 1.0
    """Between two reports of a running job's progress."""
