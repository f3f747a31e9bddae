"""What the gateway asks the fleet: who is there, and what each engine says of its models. Nothing is kept for long."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, closing, suppress
from typing import Any, Final, TypeVar

import msgspec

from sollol_agents.gateway.http.names import unknown_name
from sollol_agents.gateway.management import model_lists
from sollol_agents.gateway.management.group_rows import MARK, show_of, with_groups
from sollol_agents.gateway.management.model_lists import Row
from sollol_agents.requests.names import canonical, tagged
from sollol_bus.errors import BadRequest, NoResponders, SollolError, error_from
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.routing_fields import called_here
from sollol_bus.transport.leave import LeaveOnSilence
from sollol_bus.transport.messages import encode
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import subjects
from sollol_schemas.control import STILL_AT_IT, ControlBlob, ControlEngine, EngineOperation
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.groups import GroupView
from sollol_schemas.node_names import ambiguous, bearers
from sollol_schemas.queries import NodesReply, NodeView
from sollol_schemas.telemetry import EngineKind

log = logging.getLogger(__name__)

T = TypeVar("T")

_FRESH_S: Final = 0.5
_QUICK_S: Final = 2.0
_LONG_S: Final = 86_400.0
_GAP_S: Final = 15.0
"""Several times as long as a node at work is silent."""
_SETTLED_WITHIN_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.02
_MODELS_LISTED: Final = 50
_NODES_LISTED: Final = 50


class Fleet:
    """Answers about the fleet, each at most half a second old."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._nodes: NodesReply | None = None
        self._nodes_at = -1e9
        self._asking = asyncio.Lock()
        self._groups: tuple[GroupView, ...] = ()
        self._groups_at = -1e9

    async def nodes(self) -> NodesReply:
        """The fleet as the scorer in office sees it.

        Raises:
            SollolError: No scorer answers.
        """
        async with self._asking:
            if self._nodes is None or time.monotonic() - self._nodes_at > _FRESH_S:
                self._nodes = await self._client.nodes()
                self._nodes_at = time.monotonic()
            return self._nodes

    async def groups(self) -> tuple[GroupView, ...]:
        """The groups of models; none where no scorer tells of them."""
        if time.monotonic() - self._groups_at > _FRESH_S:
            try:
                self._groups = (await self._client.groups()).groups
            except SollolError as error:
                log.info("groups are not told: %s", error, extra={"action": "list_failed"})
                self._groups = ()
            self._groups_at = time.monotonic()
        return self._groups

    def forget_groups(self) -> None:
        """They have changed."""
        self._groups_at = -1e9

    async def _views(self, only: str) -> Sequence[NodeView]:
        """The nodes, or the one that somebody insists on.

        Raises:
            SollolError: Nobody knows that one, or it is away.
        """
        nodes = (await self.nodes()).nodes
        if not only:
            return nodes
        node_id = await self.id_of(only)
        found = [view for view in model_lists.present(nodes) if view.node_id == node_id]
        if not found:
            raise _no_node(node_id, nodes)
        return found

    async def id_of(self, name: str) -> str:
        """The id of the node that is called so: by id, host, address, URL or `localhost`.

        Raises:
            SollolError: No node is, or several are.
        """
        nodes = (await self.nodes()).nodes
        here, there = called_here(name), [view.telemetry for view in model_lists.present(nodes)]
        found = bearers(here, there) or bearers(here, [view.telemetry for view in nodes])
        if len(found) > 1:
            raise BadRequest(ambiguous(name, found, there))
        if not found:
            raise _no_node(name, nodes)
        return found[0]

    async def tags(self, only: str = "") -> list[Row]:
        """The models on all disks, or on that of one node, and the groups of which one is there."""
        return with_groups(await self._models(only), await self.groups())

    async def _models(self, only: str = "") -> list[Row]:
        nodes = await self._views(only)
        return model_lists.tags(nodes, await self._said(nodes, EngineOperation.TAGS))

    async def tag(self, model: str, only: str = "") -> Row:
        """One model of those on all disks, with the nodes that have it by their engines' own word.

        Raises:
            SollolError: No node has it; the error lists what exists.
        """
        rows = {canonical(str(row["name"])): row for row in await self.tags(only)}
        row = rows.get(canonical(model))
        if row is None:
            raise _unknown(model, sorted(str(row["name"]) for row in rows.values()))
        return row

    async def is_spelled(self, model: str) -> bool:
        """Whether an engine gives one of its models just this name, but for case and tag."""
        spelled = {str(row["name"]).lower() for row in await self.tags()}
        return not spelled.isdisjoint((model.lower(), tagged(model.lower())))

    async def holders(self, model: str) -> list[str]:
        """The nodes that have a model on disk by their engines' own word; empty: none has."""
        wanted = canonical(model)
        rows = (row for row in await self._models() if canonical(str(row["name"])) == wanted)
        return [node_id for row in rows for node_id in row["nodes"]] if model else []

    async def settled(self, node_ids: Iterable[str], model: str, *, is_there: bool) -> None:
        """Returns when the scorer knows that these nodes have a model, or have it no more; within two seconds."""
        wanted, deadline = frozenset(node_ids), time.monotonic() + _SETTLED_WITHIN_S
        while time.monotonic() < deadline:
            self._nodes_at = -1e9
            views = [view for view in model_lists.present((await self.nodes()).nodes) if view.node_id in wanted]
            if all(bool(model_lists.having([view], model)) is is_there for view in views):
                return
            await asyncio.sleep(_LOOK_AGAIN_S)
        log.info("%s: the scorer has not seen what changed", model, extra={"action": "change_unseen"})

    async def running(self, only: str = "") -> list[Row]:
        """The models in all memories, or in that of one node."""
        nodes = await self._views(only)
        said = await self._said(nodes, EngineOperation.PS)
        now = dt.datetime.fromtimestamp(self._client.bus.clock.now_unix(), dt.UTC)
        return model_lists.running(nodes, said, now)

    async def show(self, model: str, body: dict[str, Any], only: str = "") -> bytes:
        """One model's details, from a node that has it; of a group, which models it stands for.

        Raises:
            SollolError: No node has it, or none answers.
        """
        group = await self._group_row(model, only)
        if group is not None:
            return encode(show_of(group))
        nodes = model_lists.present(await self._views(only))
        found = model_lists.having(nodes, model)
        if not found:  # perhaps it is new, and telemetry a moment behind
            holders = await self.holders(model)
            found = [view for view in nodes if view.node_id in holders]
        if found and not any(map(_is_ollama, found)):
            return encode(model_lists.show_of(found[0], model))
        if not found and model:
            raise _unknown(model, model_lists.known_names(nodes))
        failure = error_from(unknown_name("/api/show", model))
        asked = [view for view in found or nodes if _is_ollama(view)]
        for view in asked if found else asked[:1]:  # a body without a name is refused by any Ollama in its own words
            try:
                return await self.whole(view.node_id, ControlEngine(operation=EngineOperation.SHOW, body=body))
            except SollolError as error:
                failure = error
        raise failure

    async def _group_row(self, name: str, only: str) -> Row | None:
        """The row of a group, or None when there is none of this name."""
        wanted = canonical(name)
        if all(canonical(view.group.name) != wanted for view in await self.groups()):
            return None
        rows = (row for row in await self.tags(only) if canonical(str(row["name"])) == wanted and MARK in row)
        return next(rows, None)

    async def recommendations(self) -> bytes:
        """The models that an Ollama recommends; none where no Ollama is."""
        asked = ControlEngine(operation=EngineOperation.RECOMMENDATIONS)
        for view in filter(_is_ollama, model_lists.present((await self.nodes()).nodes)):
            with suppress(SollolError):
                return await self.whole(view.node_id, asked)
        return b'{"recommendations":[]}'

    async def operate(self, node_id: str, request: ControlEngine | ControlBlob) -> AsyncGenerator[bytes, None]:
        """The objects with which a node answers an operation that may take long.

        Raises:
            SollolError: The node or its engine refused.
        """
        subject = subjects.NODE_CONTROL.of(node_id)
        try:
            async with ReplyStream(self._client.bus, first_s=_GAP_S, gap_s=_GAP_S, total_s=_LONG_S) as answers:
                answers.send(subject, encode(request))
                leave = LeaveOnSilence(self._client.bus, node_id, answers.inbox)
                with closing(leave):
                    async for msg in answers:
                        leave.heard()
                        if msg.data != STILL_AT_IT:
                            yield msg.data
        except NoResponders as error:
            raise _no_node(node_id, (await self.nodes()).nodes) from error

    async def whole(self, node_id: str, request: ControlEngine) -> bytes:
        """The one object with which a node answers at once.

        Raises:
            SollolError: The node or its engine refused, or did not answer.
        """
        async with aclosing(self.operate(node_id, request)) as objects:
            return b"".join([one async for one in objects])

    async def _said(self, nodes: Iterable[NodeView], operation: EngineOperation) -> dict[str, list[Row]]:
        """What every Ollama says of its models; those that do not answer soon are left out."""
        asked = [v.node_id for v in model_lists.present(nodes) if v.telemetry.engine.kind is EngineKind.OLLAMA]
        answers = await asyncio.gather(*(self._rows(node_id, operation) for node_id in asked))
        return {node_id: rows for node_id, rows in zip(asked, answers, strict=True) if rows is not None}

    async def _rows(self, node_id: str, operation: EngineOperation) -> list[Row] | None:
        try:
            async with asyncio.timeout(_QUICK_S):
                text = await self.whole(node_id, ControlEngine(operation=operation))
                rows = msgspec.json.decode(text, type=_Listed).models or []
        except (SollolError, TimeoutError, msgspec.DecodeError) as error:
            log.info("%s of %s: %s", operation.value, node_id, error, extra={"action": "list_failed"})
            return None
        return rows


def _is_ollama(view: NodeView) -> bool:
    return view.telemetry.engine.kind is EngineKind.OLLAMA


class _Listed(msgspec.Struct):
    models: list[Row] | None = None


def _unknown(model: str, known: list[str]) -> SollolError:
    details: dict[str, Any] = {"model": model, "models": known[:_MODELS_LISTED]}
    return error_from(ErrorBody(code=ErrorCode.UNKNOWN_MODEL, message=f"model '{model}' not found", details=details))


def _no_node(node_id: str, nodes: Iterable[NodeView]) -> SollolError:
    """Why a node does not answer: it left, nothing is heard of it, or nobody ever heard of it."""
    views = {view.node_id: view for view in nodes}
    view = views.get(node_id)
    if view is None:
        why = f"no node is known as {node_id!r}; known are {', '.join(sorted(views)[:_NODES_LISTED]) or 'none'}"
    else:
        ago = f"{view.heartbeat_age_s:.0f} s ago"
        why = (
            f"node {node_id} is asleep"
            if view.is_asleep
            else f"node {node_id} left {ago}, in order"
            if view.has_left
            else f"node {node_id} was last heard of {ago}"
        )
    return error_from(ErrorBody(code=ErrorCode.UNKNOWN_NODE, message=why))
