"""Where groups of models are asked for and set, and where every scorer learns of them.

As an operator's choice of a strategy, a change is written to the settings bucket before it takes effect, so that a
successor and every standby know the same groups. It is written by compare-and-set: of two changes at a time none is
lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.office import group_views, steering
from sollol_agents.scorer.office.takeover import forget_quality
from sollol_bus.errors import BusError, DecodeFailed
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.parts import Spawn
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.transport.subscription import Subscription
from sollol_schemas import stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.groups import (
    CloseModelBreaker,
    ForgetQuality,
    GroupChange,
    Groups,
    GroupsRequest,
    RemoveGroup,
    SetGroup,
)
from sollol_schemas.steering import BreakerRequest, ResetEvent, ResetKind

log = logging.getLogger(__name__)

_RACES_MAX = 8


class GroupOffice:
    """Answers `scorer.groups` and `scorer.groups.set`, and follows the groups that are kept.

    Args:
        bus: A connection on which the settings bucket exists.
        core: Whose groups, qualities and breakers they are.
        spawn: Runs a coroutine as a task of the actor.
        carry_out: Sends the effects of closing breakers.
        on_forgotten: Called when an operator had something forgotten.
    """

    def __init__(
        self,
        bus: Bus,
        core: SchedulerCore,
        *,
        spawn: Spawn,
        carry_out: Callable[[Iterable[Effect]], None],
        on_forgotten: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._core = core
        self._spawn = spawn
        self._carry_out = carry_out
        self._on_forgotten = on_forgotten
        self._bucket = Bucket(bus, stores.SETTINGS_BUCKET)

    async def follow(self) -> None:
        """Knows the groups from now on, and whenever they change."""
        try:
            self._know((await self._bucket.get(stores.GROUPS)).decode(Groups))
        except BusError as error:
            log.warning("the groups of models are not known yet: %s", error, extra={"action": "groups"})
        self._spawn(self._keep_up(), name="groups")

    def open(self) -> list[Subscription]:
        """Answers and takes changes; for the scorer in office."""
        return [
            *self._bus.serve(subjects.SCORER_GROUPS, self._on_question),
            *self._bus.serve(subjects.SCORER_GROUPS_SET, self._on_change),
        ]

    async def _keep_up(self) -> None:
        async for kept in self._bucket.follow(stores.GROUPS, Groups):
            self._know(kept)

    def _know(self, kept: Groups | None) -> None:
        groups = kept or Groups()
        self._core.binder.book.know(groups)
        self._core.binder.keep()
        self._core.trials.follow({g.name: canonical(g.candidate.model) for g in groups.groups if g.candidate})

    def _on_question(self, msg: Msg) -> None:
        try:
            asked = decode(msg.data or b"{}", GroupsRequest)
        except DecodeFailed as error:
            self._refuse(msg, _bad(str(error)))
            return
        self._answer(msg, asked.name)

    def _answer(self, msg: Msg, name: str = "") -> None:
        reply = group_views.groups_reply(self._core, time.monotonic(), name)
        if isinstance(reply, ErrorBody):
            self._refuse(msg, reply)
        else:
            self._bus.respond(msg, reply)

    def _on_change(self, msg: Msg) -> None:
        try:
            asked: GroupChange = decode(msg.data or b"{}", GroupChange)  # type: ignore[arg-type]  # a union decodes too
        except DecodeFailed as error:
            self._refuse(msg, _bad(str(error)))
            return
        match asked:
            case SetGroup() | RemoveGroup():
                self._spawn(self._change(asked, msg), name="set group")
            case ForgetQuality():
                self._forget(asked, msg)
            case CloseModelBreaker():
                self._close_breaker(asked.model, msg)

    async def _change(self, asked: SetGroup | RemoveGroup, msg: Msg) -> None:
        """Keeps the groups as they are from now on, and knows them."""
        name = asked.group.name if isinstance(asked, SetGroup) else asked.name
        try:
            for _ in range(_RACES_MAX):
                entry = await self._bucket.get(stores.GROUPS)
                changed = self._changed(asked, entry.decode(Groups) or Groups())
                if isinstance(changed, ErrorBody):
                    self._refuse(msg, changed)
                    return
                if await self._bucket.update(stores.GROUPS, encode(changed), entry.revision) is not None:
                    break
            else:
                message = "others change groups all the time; try again"
                self._refuse(msg, ErrorBody(code=ErrorCode.CONFLICT, message=message))
                return
        except BusError as error:
            log.warning("group %s not changed: %s", name, error, extra={"action": "groups"})
            if self._bus.is_connected:
                message = f"the groups could not be kept: {error}"
                self._refuse(msg, ErrorBody(code=ErrorCode.INTERNAL, message=message))
            return
        self._know(changed)
        if isinstance(asked, SetGroup):
            members = ", ".join(member.model for member in asked.group.members)
            tell_act(self._bus, "group.set", name, {"models": members[:500]}, asked=msg.headers or {})
            self._answer(msg, name)
        else:
            tell_act(self._bus, "group.remove", name, asked=msg.headers or {})
            self._answer(msg)

    def _changed(self, asked: SetGroup | RemoveGroup, kept: Groups) -> Groups | ErrorBody:
        if isinstance(asked, SetGroup):
            return group_views.with_group(kept, asked.group, self._core)
        left = group_views.without_group(kept, asked.name)
        if left is not None:
            return left
        group = self._core.binder.book.named(asked.name)
        if group is not None and self._core.binder.book.is_built_in(group):
            return _bad(f"group {group.name!r} was not set, and is always there")
        return group_views.unknown(self._core, asked.name)

    def _forget(self, asked: ForgetQuality, msg: Msg) -> None:
        models = [asked.model]
        if asked.name:
            group = self._core.binder.book.named(asked.name)
            if group is None:
                self._refuse(msg, group_views.unknown(self._core, asked.name))
                return
            views = group_views.groups_reply(self._core, time.monotonic(), asked.name)
            assert not isinstance(views, ErrorBody)
            names = [view.model for view in views.groups[0].members]
            wanted = canonical(asked.model) if asked.model else ""
            models = [name for name in names if not wanted or canonical(name) == wanted]
            if not models:
                self._refuse(msg, _bad(f"group {group.name!r} has no model {asked.model!r}; it has {', '.join(names)}"))
                return
        for model in models:
            forget_quality(self._core, canonical(model) if model else "")
            self._tell_reset(ResetKind.QUALITY, model)
        self._on_forgotten()
        tell_act(self._bus, "quality.forget", asked.name, {"model": asked.model}, asked=msg.headers or {})
        self._answer(msg, asked.name)

    def _close_breaker(self, model: str, msg: Msg) -> None:
        effects = steering.reset_breakers(BreakerRequest(reset=True, model=model), self._core, time.monotonic())
        assert not isinstance(effects, ErrorBody)  # no node is named
        self._carry_out(effects)
        self._tell_reset(ResetKind.BREAKERS, model)
        tell_act(self._bus, "breakers.reset", "", {"model": model}, asked=msg.headers or {})
        self._answer(msg)

    def _tell_reset(self, kind: ResetKind, model: str) -> None:
        event = ResetEvent(kind=kind, model=model, at=self._bus.clock.instant())
        self._bus.publish(subjects.RESET_EVENT, encode(event))

    def _refuse(self, msg: Msg, error: ErrorBody) -> None:
        self._bus.respond_error(msg.reply, error)


def _bad(message: str) -> ErrorBody:
    return ErrorBody(code=ErrorCode.BAD_REQUEST, message=message)
