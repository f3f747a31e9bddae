"""What happens to jobs, told to whoever listens."""

from __future__ import annotations

import logging

from sollol_bus.errors import NotConnected
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import owners
from sollol_schemas.jobs import JobEvent, JobNews, JobStatus

log = logging.getLogger(__name__)


class JobEvents:
    """Publishes the events of jobs; one that falls into an outage is lost, the state is not."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def tell(self, status: JobStatus, news: JobNews) -> None:
        """Publishes one."""
        event = JobEvent(
            job_id=owners.id_of(status.job_id),
            user=owners.owner_of(status.job_id),
            news=news,
            state=status.state,
            priority=status.priority,
            model=status.model,
            tries=status.tries,
            node_id=status.node_id,
            error=None if status.error is None else status.error.without_quotes(),
            at=self._bus.clock.instant(),
        )
        try:
            self._bus.publish(owners.event_subject(status.job_id, news.value), encode(event))
        except NotConnected:
            log.debug("job %s: nobody hears that it is %s", status.job_id, news)
