"""What everything that works on jobs shares."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.jobs.callbacks import Callbacks
from sollol_agents.dispatcher.jobs.delays import Delays
from sollol_agents.dispatcher.jobs.events import JobEvents
from sollol_agents.dispatcher.jobs.letters import Letters
from sollol_agents.dispatcher.jobs.life import RetryRules
from sollol_agents.dispatcher.jobs.results import Results
from sollol_agents.dispatcher.jobs.states import States
from sollol_agents.dispatcher.jobs.windows import Windows
from sollol_agents.dispatcher.pace import Pace
from sollol_bus.transport.connection import Bus
from sollol_bus.trust.callers import Roster
from sollol_bus.trust.job_room import JobRoom


class JobTools(NamedTuple):
    """The jobs' connections, stores and rules in one dispatcher."""

    bus: Bus
    """The dispatcher's connection: the control role's."""
    calls: Bus
    """The connection over which jobs are asked for, with a client's inboxes."""
    config: DispatcherConfig
    pace: Pace
    instance: str
    roster: Callable[[], Roster]
    """Tells the callers, as they are known now."""
    room: JobRoom
    """How many jobs each of them may have."""
    rules: RetryRules
    rng: random.Random
    states: States
    results: Results
    letters: Letters
    callbacks: Callbacks
    delays: Delays
    windows: Windows
    events: JobEvents
    is_provisioned: asyncio.Event
    """Set once the streams of jobs are there."""
