"""The pages as one ASGI application: every path that is not inference, and how errors are told there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.gateway.http.errors import NOT_FOUND, refusal
from sollol_agents.requests.dialects import KIND_OF_PATH, dialect_of
from sollol_bus.errors import SollolError

_NOT_ALLOWED: Final = b"405 method not allowed"


def pages(routes: Iterable[Route]) -> Starlette:
    """The application of these routes."""
    inference = [Route(path, _never, methods=["POST"]) for path in KIND_OF_PATH]
    return Starlette(
        routes=[*routes, *inference],
        exception_handlers={HTTPException: _plain, SollolError: _refuse, ClientDisconnect: _gone},
    )


def has_page(application: Starlette, path: str) -> bool:
    """Whether a path is one of the application's, whatever the method."""
    return any(isinstance(route, Route) and route.path_regex.match(path) for route in application.routes)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, SollolError)
    path = request.url.path
    refused = refusal(dialect_of(path), error.body, path)
    return Response(refused.body, refused.status, {k.decode(): v.decode() for k, v in refused.headers})


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {404: NOT_FOUND, 405: _NOT_ALLOWED}.get(error.status_code, str(error.detail).encode())
    headers = {**(error.headers or {}), "content-type": "text/plain"}
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_methods_at(request)))
    return Response(text, error.status_code, headers=headers)


def _methods_at(request: Request) -> set[str]:
    """What may be asked of a path: Starlette itself names the methods of one route alone."""
    matching = [r for r in request.app.routes if isinstance(r, Route) and r.path_regex.match(request.url.path)]
    return {method for route in matching if route.path == matching[0].path for method in route.methods or ()}


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


async def _never(_request: Request) -> Response:
    """POST to these paths is served elsewhere; they stand here so that other methods get 405."""
    raise HTTPException(404)
