"""What anybody may ask about the fleet, about one request, and tell of an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from sollol_bus.errors import BadRequest
from sollol_bus.sdk.questions import ask_actor
from sollol_bus.sdk.routing_fields import called_here
from sollol_bus.transport.connection import Bus
from sollol_schemas import subjects
from sollol_schemas.feedback import FeedbackReply, FeedbackRequest
from sollol_schemas.owners import is_reference
from sollol_schemas.queries import (
    ModelsReply,
    NodesReply,
    NodesRequest,
    NodeView,
    RecentReply,
    RecentRequest,
    ReliabilityReply,
    ReliabilityRequest,
    StatsReply,
    StatsRequest,
    UsageReply,
    UsageRequest,
    WhyReply,
)

T = TypeVar("T")


class Asking(ABC):
    """Questions, over the connection of whoever inherits this."""

    @property
    @abstractmethod
    def bus(self) -> Bus:
        """The connection."""

    async def _ask(self, subject: str, asked: object, kind: type[T], *, timeout_s: float = 5.0) -> T:
        return await ask_actor(self.bus, subject, asked, kind, timeout_s=timeout_s)

    async def nodes(self, *, is_queue_only: bool = False) -> NodesReply:
        """The fleet as the scorer in office sees it, or what waits for a slot there without the nodes."""
        return await self._ask(subjects.NODES, NodesRequest(is_queue_only=is_queue_only), NodesReply)

    async def node(self, name: str) -> NodeView:
        """One node, by its id, host, address, `host:port`, URL or `localhost`.

        Raises:
            BadRequest: None is called so, or several are; the error lists them.
        """
        return (await self._ask(subjects.NODES, NodesRequest(node=called_here(name)), NodesReply)).nodes[0]

    async def models(self) -> ModelsReply:
        """Every model that a node has."""
        return await self._ask(subjects.MODELS, None, ModelsReply)

    async def stats(self, window_s: float = 0.0, *, with_patterns: bool = False) -> StatsReply:
        """Statistics of the cluster; `window_s` 0 means everything that is kept.

        With patterns also the categories of work, where which goes, baselines of nodes, and each node's last day.
        """
        asked = StatsRequest(window_s=window_s, with_patterns=with_patterns)
        return await self._ask(subjects.STATS, asked, StatsReply)

    async def reliability(self, node_id: str = "", model: str = "") -> ReliabilityReply:
        """Reliability per node and per (node, model)."""
        asked = ReliabilityRequest(node_id=called_here(node_id), model=model)
        return await self._ask(subjects.RELIABILITY, asked, ReliabilityReply)

    async def recent(self, limit: int = 50) -> RecentReply:
        """The latest outcomes and node events."""
        return await self._ask(subjects.RECENT, RecentRequest(limit=limit), RecentReply)

    async def usage(self, asked: UsageRequest | None = None) -> UsageReply:
        """Requests, tokens and seconds of slots: by caller where nothing else is asked for."""
        return await self._ask(subjects.USAGE, asked, UsageReply)

    async def why(self, request_id: str) -> WhyReply:
        """Every decision about a request with all candidates, and what became of each attempt.

        Raises:
            BadRequest: The id is not one, or nothing is known under it.
        """
        if not is_reference(request_id):
            raise BadRequest(f"not a request id: {request_id[:80]!r}")
        return await self._ask(subjects.WHY.of(request_id), None, WhyReply)

    async def feedback(
        self,
        request_id: str = "",
        *,
        score: float | None = None,
        success: bool | None = None,
        model: str = "",
        category: str = "",
        latency_s: float | None = None,
        comment: str = "",
    ) -> FeedbackReply:
        """Tells how good an answer was, from which the choice among the models of a group learns.

        Args:
            request_id: Of the request, as `answer.decision.request_id` says, or of a job. A later word replaces it.
            score: 0 is useless, 1 is perfect.
            success: In place of a score: true is 1, false is 0.
            model: In place of a request: a model, where answers are judged outside; for operators.
            category: A coding category or a task type; empty: what is known of the request.
            latency_s: How long the answer took, as its reader saw it.
            comment: Shown where the request is explained.

        Returns:
            What it counted for; or that it waits, because nothing of the request is recorded yet.

        Raises:
            BadRequest: It says too little or too much.
            SollolError: The request is somebody else's, or the caller gave too much feedback within a minute.
        """
        asked = FeedbackRequest(
            request_id=request_id,
            model=model,
            category=category,
            score=score,
            success=success,
            latency_s=latency_s,
            comment=comment,
        )
        return await self._ask(subjects.FEEDBACK, asked, FeedbackReply)

    get_node_resources, get_cluster_stats = nodes, stats
