"""Groups of models over HTTP: anybody may read them, administrators set and remove them."""

from __future__ import annotations

from typing import Any, Final

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.gateway.http.access import guest_of
from sollol_agents.gateway.http.bodies import body_of, json_response
from sollol_agents.gateway.management.fleet import Fleet
from sollol_bus.errors import BadRequest, error_from
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.group_making import checked, group_of
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.groups import Group

PREFIX: Final = "/api/groups"
_MAX_BYTES: Final = 64 * 1024
_FIELDS: Final = ("name", "members", "models", "strategy", "patience_s", "candidate", "share")
_SHARE: Final = 0.1


class _GroupName(PathConvertor):
    """A name, which may have a slash as those of models; what resets a group is none."""

    regex = ".+(?<!/reset)"


register_url_convertor("group", _GroupName())


class GroupPages:
    """The handlers.

    Args:
        client: The gateway's client of the fleet.
        fleet: What is known of the fleet, which forgets its groups when they change.
    """

    def __init__(self, client: Client, fleet: Fleet) -> None:
        self._client = client
        self._fleet = fleet

    def routes(self) -> list[Route]:
        """The paths of groups."""
        one = PREFIX + "/{name:group}"
        return [
            Route(PREFIX, self.groups, methods=["GET", "HEAD"]),
            Route(PREFIX, self.set_named_inside, methods=["POST"]),
            Route(f"{one}/reset", self.reset, methods=["POST"]),
            Route(one, self.group, methods=["GET", "HEAD"]),
            Route(one, self.set, methods=["PUT"]),
            Route(one, self.remove, methods=["DELETE"]),
        ]

    async def groups(self, _request: Request) -> Response:
        """Every group, with what was learnt of its models."""
        return json_response(await self._client.groups())

    async def group(self, request: Request) -> Response:
        """One group."""
        return json_response(await self._client.group(request.path_params["name"]))

    async def set_named_inside(self, request: Request) -> Response:
        """Makes or replaces the group that the body names."""
        return await self._set(request, "")

    async def set(self, request: Request) -> Response:
        """Makes or replaces the group of this path."""
        return await self._set(request, request.path_params["name"])

    async def remove(self, request: Request) -> Response:
        """Removes a group; what was learnt of its models stays."""
        _require_admin(request)
        reply = await self._client.remove_group(request.path_params["name"])
        self._fleet.forget_groups()
        return json_response(reply)

    async def reset(self, request: Request) -> Response:
        """Forgets what feedback taught of a group's models."""
        _require_admin(request)
        name = request.path_params["name"]
        await self._client.reset_group(name)
        return json_response(await self._client.group(name))

    async def _set(self, request: Request, name: str) -> Response:
        _require_admin(request)
        group = group_in(await body_of(request, _MAX_BYTES), name)
        view = await self._client.set_group(
            group.name,
            {member.model: member.weight for member in group.members},
            strategy=group.strategy,
            patience_s=group.patience_s,
            candidate=group.candidate.model if group.candidate is not None else None,
            share=group.candidate.share if group.candidate is not None else _SHARE,
        )
        self._fleet.forget_groups()
        return json_response(view)


def group_in(body: dict[str, Any], name: str) -> Group:
    """The group in a body: its models as `members` with weights, or as `models`, names alone or weights by name.

    Args:
        body: The body.
        name: What the path calls the group; empty: the body names it.

    Raises:
        BadRequest: A field is unknown, missing or outside its range, or the body names another group than the path.
    """
    unknown = sorted(body.keys() - set(_FIELDS))
    if unknown:
        raise BadRequest(f"field {unknown[0][:40]!r} is unknown; a group has {', '.join(_FIELDS)}")
    named = body.get("name", name)
    if not isinstance(named, str) or not named or (name and named != name):
        raise BadRequest(f"name must be a text, and the one in the path if there is one, not {str(named)[:40]!r}")
    fields = body | {"name": named}
    models, share = fields.pop("models", None), fields.pop("share", _SHARE)
    if isinstance(fields.get("candidate"), str):
        fields["candidate"] = {"model": fields["candidate"], "share": share}
    if models is not None and "members" not in fields:
        fields["members"] = _members(models)
    group = checked(fields)
    if not group.members:
        raise BadRequest("a group needs models: members, or models")
    group_of(group.name, [member.model for member in group.members])  # none twice
    return group


def _members(models: object) -> list[dict[str, object]]:
    if isinstance(models, dict):
        return [{"model": model, "weight": weight} for model, weight in models.items()]
    if isinstance(models, list):
        return [{"model": model} for model in models]
    raise BadRequest("models must be a list of names, or an object of weights by name")


def _require_admin(request: Request) -> None:
    if not guest_of(request).is_admin:
        message = "groups are set by administrators: `sollol keys create NAME --admin`"
        raise error_from(ErrorBody(code=ErrorCode.FORBIDDEN, message=message))
