"""A small window of jobs for each priority, taken from the queue ahead of their slots.

Everything else stays in the queue, so that memory does not grow with the backlog. What a node works on does not count:
a small window keeps a large fleet busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from sollol_agents.dispatcher.pace import Pace
from sollol_bus.jetstream.job_streams import MAX_DELIVERIES
from sollol_bus.jetstream.pull import ConsumerSpec, Delivery, PullConsumer
from sollol_bus.transport.connection import Bus
from sollol_schemas import stores, subjects

_MAX_ACK_PENDING = 20_000
"""Jobs that wait for another try count as delivered: they must not use up what may be delivered."""
_BEYOND = 3
"""Windows of jobs that others gave back, taken beside the own one."""
_WINDOW_BYTES = 16 << 20
"""Of all priorities together less than the server lets wait for one connection."""
_SHORTEST_ROTATION_S = 30.0
_LONGEST_ROTATION_S = 300.0


class Windows:
    """One consumer for each priority.

    Args:
        bus: The connection.
        pace: The windows' size.
        ack_wait_s: When a job that nobody works on goes to another dispatcher.
        on_job: Called with the priority of each job and its message.
    """

    def __init__(self, bus: Bus, pace: Pace, ack_wait_s: float, on_job: Callable[[int, Delivery], None]) -> None:
        self._bus = bus
        self._pace = pace
        self._ack_wait_s = ack_wait_s
        self.consumers = {priority: self._consumer(priority, on_job) for priority in subjects.JOB_PRIORITIES}
        """To be run by their owner, by priority."""

    async def drain(self) -> None:
        """Takes no more jobs, and gives back what was on its way here."""
        await asyncio.gather(*(consumer.drain() for consumer in self.consumers.values()))

    def expect(self, priority: int, jobs: int) -> None:
        """Makes room for jobs that were given back: they are older than what fills the window."""
        self.consumers[priority].expect(jobs)

    def lend(self, priority: int, places: int, size_bytes: int) -> None:
        """Widens a window, or takes that back."""
        self.consumers[priority].lend(places, size_bytes)

    def is_crowded(self, priority: int) -> bool:
        """Whether a window is full, so that others may be waiting behind what is in it."""
        return self.consumers[priority].is_full

    def rotation_s(self, delivery: Delivery) -> float:
        """How long a job that no node may take stays away: long enough for all behind it to have had their turn."""
        rounds = 1.0 + delivery.pending / self._pace.job_window
        return min(_LONGEST_ROTATION_S, max(_SHORTEST_ROTATION_S, self._pace.job_hold_s * rounds))

    def _consumer(self, priority: int, on_job: Callable[[int, Delivery], None]) -> PullConsumer:
        spec = ConsumerSpec(
            stream=stores.JOBS_STREAM,
            durable=f"p{priority}",
            about=f"Dispatchers take the jobs of priority {priority}.",
            filter_subjects=(subjects.JOB_SUBMIT.of(priority, "*"),),
            ack_wait_s=self._ack_wait_s,
            max_ack_pending=_MAX_ACK_PENDING,
            max_deliver=MAX_DELIVERIES,
        )
        window = self._pace.job_window
        handler = partial(on_job, priority)
        beyond = _BEYOND * window
        return PullConsumer(self._bus, spec, handler, window=window, beyond=beyond, window_bytes=_WINDOW_BYTES)
