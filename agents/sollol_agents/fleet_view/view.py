"""Everything the pages show, made from messages and from nothing else; memory is bounded.

Every change gets a version. A page remembers the version it has drawn and asks for what changed since; pages that
have drawn the same get the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from sollol_agents.fleet_view.decisions import Decisions
from sollol_agents.fleet_view.groups import GroupRow, group_rows
from sollol_agents.fleet_view.jobs import Jobs
from sollol_agents.fleet_view.node_rows import NodeDetail
from sollol_agents.fleet_view.nodes import Nodes
from sollol_agents.fleet_view.notices import Notices
from sollol_agents.fleet_view.rates import Rate
from sollol_agents.fleet_view.sparks import History
from sollol_agents.fleet_view.timeline import Timeline
from sollol_agents.fleet_view.troubles import Load, Trouble, troubles
from sollol_schemas.batch_progress import BatchView
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import BreakerEvent, NodeEvent, OfficeEvent, Outcome
from sollol_schemas.groups import GroupsReply
from sollol_schemas.jobs import JobEvent, JobListReply
from sollol_schemas.queries import NodesReply, RecentReply, ReliabilityReply, WaitingShare
from sollol_schemas.steering import BreakersReply, StrategyEvent, StrategyReply
from sollol_schemas.telemetry import LoadUpdate, Telemetry

TOPICS: Final = ("fleet", "decisions", "queue", "latency", "jobs", "settings", "playground")
"""The pages' views; a page gets the changes of the one that it shows."""


class Head(msgspec.Struct, frozen=True):
    """What stands above every view."""

    nodes: int
    nodes_up: int
    nodes_gpu: int
    slots: int
    busy: int
    queued: int
    tps: float
    decisions_per_s: float
    p95_s: float | None
    """Over the last minute."""
    requests: int
    """Attempts that ended within the last minute."""
    failures: int
    strategy: str
    scorer: str
    is_connected: bool
    troubles: tuple[Trouble, ...] = ()
    """The worst first."""


_LOST: Final = (
    "The connection to NATS is lost. What you see is what was known before; it is renewed when the server is back."
)
_SILENT: Final = "The NATS server does not answer. What you see is what was known before."


class FleetView:
    """What this process has heard of the fleet."""

    def __init__(self) -> None:
        self.version = 1
        self.is_connected = True
        self.is_bus_silent = False
        """Whether the server leaves a ping unanswered although the connection stands."""
        self.scorer = ""
        """Instance of the scorer in office, when it is known."""
        self.has_asked = False
        """Whether it was asked once who is in office, with or without an answer."""
        self.strategy: StrategyReply | None = None
        self.breakers: BreakersReply | None = None
        self.nodes = Nodes()
        self.decisions = Decisions()
        self.timeline = Timeline()
        self.jobs = Jobs()
        self.waiting: tuple[WaitingShare, ...] = ()
        """What waits for a slot, as last told."""
        self.notices = Notices()
        self.history = History()
        self.last_decision_s = 0.0
        """Monotonic seconds of the latest decision."""
        self.groups: tuple[GroupRow, ...] = ()
        self._groups_version = 1
        self._settings_version = 1
        self._models: tuple[str, ...] = ()
        self._models_version = 1
        self._decision_rate = Rate()

    # -- events -------------------------------------------------------------------------------------------

    def on_telemetry(self, told: Telemetry, now: float) -> None:
        """A node's heartbeat."""
        self.nodes.on_telemetry(told, now)

    def on_load(self, told: LoadUpdate, now: float) -> None:
        """A node's change of load."""
        self.nodes.on_load(told, now)

    def on_node(self, event: NodeEvent, now: float, at: float) -> None:
        """A node changed its state."""
        self.nodes.on_event(event, now)
        self.notices.on_node(event, at, self._next())

    def on_decision(self, event: DecisionEvent, now: float, at: float) -> None:
        """A request got its node."""
        if event.is_dry_run:
            return
        version = self._next()
        self.decisions.on_decision(event, at, version)
        self.timeline.on_decision(event, at, version)
        self._decision_rate.add(1, now)
        self.last_decision_s = now

    def on_outcome(self, outcome: Outcome, now: float, at: float) -> None:
        """An attempt ended."""
        version = self._next()
        if self.decisions.on_outcome(outcome, at, version):
            self.timeline.on_outcome(outcome, at, version)
            self.nodes.on_outcome(outcome, now)

    def on_breaker(self, event: BreakerEvent, at: float) -> None:
        """A breaker changed its state."""
        self.nodes.on_breaker(event)
        self.notices.on_breaker(event, at, self._next())

    def on_office(self, event: OfficeEvent, at: float) -> None:
        """A scorer took or left office."""
        if event.is_leader:
            self.scorer = event.instance
        elif self.scorer == event.instance:
            self.scorer = ""
        self.notices.on_office(event, at, self._next())

    def on_strategy_event(self, event: StrategyEvent, at: float) -> None:
        """The strategy or a setting changed."""
        version = self._next()
        known = self.strategy.settings if self.strategy is not None else {}
        self.notices.on_strategy(event, known, at, version)
        if self.strategy is not None:
            settings = {**self.strategy.settings, **event.settings}
            self.strategy = msgspec.structs.replace(self.strategy, strategy=event.strategy, settings=settings)
            self._settings_version = version

    def on_job(self, event: JobEvent) -> None:
        """Something happened to a job."""
        self.jobs.on_event(event, self._next())

    # -- answers to questions -----------------------------------------------------------------------------

    def on_nodes(self, reply: NodesReply, now: float, at: float) -> None:
        """The fleet as the scorer in office sees it."""
        self.scorer = reply.scorer
        self.nodes.on_listing(reply, now)
        self.on_queue(reply, at)

    def on_queue(self, reply: NodesReply, at: float) -> None:
        """What waits for a slot."""
        self.timeline.on_queue(reply.queued, at, self._next())
        self.waiting = reply.waiting

    def on_reliability(self, reply: ReliabilityReply) -> None:
        """What the recorder knows about the nodes."""
        self.nodes.on_reliability(reply)

    def on_recent(self, reply: RecentReply, at_of: Callable[[str], float]) -> None:
        """What happened before this dashboard began to listen; `at_of` reads an instant."""
        for outcome in reversed(reply.outcomes):
            at = at_of(outcome.finished_at)
            version = self._next()
            if self.decisions.on_outcome(outcome, at, version):
                self.timeline.on_outcome(outcome, at, version)
        for event in reversed(reply.node_events):
            self.notices.on_node(event, at_of(event.at), self._next())

    def on_strategy(self, reply: StrategyReply) -> None:
        """The strategy in use."""
        if reply != self.strategy:
            self.strategy = reply
            self._settings_version = self._next()

    def on_breakers(self, reply: BreakersReply) -> None:
        """The breakers that are not simply closed."""
        self.nodes.on_breakers(reply)
        self.breakers = reply
        self._settings_version = self._next()

    def on_groups(self, reply: GroupsReply) -> None:
        """The groups of models."""
        rows = group_rows(reply)
        if rows != self.groups:
            self.groups, self._groups_version = rows, self._next()

    def on_jobs(self, latest: JobListReply, dead: JobListReply, batches: tuple[BatchView, ...] = ()) -> None:
        """The jobs and batches as the dispatchers list them."""
        self.jobs.on_listing(latest, dead, self._next(), batches)

    # -- view ---------------------------------------------------------------------------------------------

    def tick(self, now: float, at: float) -> None:
        """Renews what depends on the time; call it before `changes`."""
        version = self._next()
        self.nodes.tick(now, version)
        self.timeline.tick(at, version)
        models = self.nodes.models(now)
        if models != self._models:
            self._models, self._models_version = models, version
        fleet = self.nodes.fleet(now)
        figures = {
            "tps": fleet.tps,
            "busy": fleet.busy,
            "queued": self.timeline.queued,
            "decisions": self._decision_rate.per_s(now),
        }
        self.history.add(at, figures, self.nodes.rows(), version)

    def head(self, now: float, at: float) -> Head:
        """What stands above every view."""
        fleet, summary = self.nodes.fleet(now), self.timeline.summary(at)
        return Head(
            nodes=fleet.total,
            nodes_up=fleet.up,
            nodes_gpu=fleet.gpu,
            slots=fleet.slots,
            busy=fleet.busy,
            queued=self.timeline.queued,
            tps=fleet.tps,
            decisions_per_s=round(self._decision_rate.per_s(now), 1),
            p95_s=summary.p95_s,
            requests=summary.requests,
            failures=summary.failures,
            strategy=self.strategy.strategy if self.strategy is not None else "",
            scorer=self.scorer,
            is_connected=self.is_connected and not self.is_bus_silent,
            troubles=troubles(
                self.nodes.rows(),
                Load(fleet.busy, fleet.slots, self.timeline.queued, summary.requests, summary.failures),
                bus=_LOST if not self.is_connected else _SILENT if self.is_bus_silent else "",
                has_scorer=bool(self.scorer) or not self.has_asked,
            ),
        )

    def changes(self, topic: str, since: int, at: float) -> dict[str, Any]:
        """What a page that shows `topic` and has drawn version `since` (0: nothing yet) must draw."""
        found: dict[str, Any] = {}
        if self.history.version > since:
            found["sparks"] = self.history.view(has_nodes=topic == "fleet")
        match topic:
            case "fleet":
                found["nodes"], found["gone"] = self.nodes.changes(since)
                found["notices"] = self.notices.changes(since)
            case "decisions":
                found["decisions"] = self.decisions.changes(since)
            case "queue":
                found["points"], found["waits"] = self.timeline.changes(since), self.timeline.summary(at).waits
                found["waiting"] = self.waiting
                found["holders"] = {share.model: self.nodes.holders(share.model) for share in self.waiting}
            case "latency":
                found["points"] = self.timeline.changes(since)
                found["summary"] = self.timeline.summary(at)
            case "jobs" if self.jobs.version > since or not since:
                found["jobs"] = self.jobs.view()
            case "settings":
                found["notices"] = self.notices.changes(since)
                if self._settings_version > since:
                    found["strategy"], found["breakers"] = self.strategy, self.breakers
            case "playground" if self._models_version > since:
                found["models"] = self._models
        if topic in ("settings", "playground") and self._groups_version > since:
            found["groups"] = self.groups
        return found

    def node_detail(self, node_id: str) -> NodeDetail | None:
        """What is known about one node beside its card."""
        return self.nodes.detail(node_id)

    def _next(self) -> int:
        self.version += 1
        return self.version
