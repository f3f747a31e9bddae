"""The pages as one ASGI application: every path that is not inference, and how errors are told there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
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
_ORDER: Final = ("HEAD", "GET", "POST", "PUT", "DELETE")


def pages(routes: Iterable[Route]) -> Starlette:
    """The application of these routes."""
    inference = [Route(path, _never, methods=["POST"]) for path in KIND_OF_PATH]
    application = Starlette(
        routes=[*routes, *inference],
        exception_handlers={HTTPException: _plain, SollolError: _refuse, ClientDisconnect: _gone},
    )
    application.router.redirect_slashes = False  # `spelling` knows which path is meant
    return application


def has_page(application: Starlette, path: str) -> bool:
    """Whether a path is one of the application's, whatever the method."""
    return any(isinstance(route, Route) and route.path_regex.match(path) for route in application.routes)


def methods_at(application: Starlette, path: str) -> list[str]:
    """What may be asked of a path, in the order in which it is told; Starlette itself names those of one route."""
    matching = [r for r in application.routes if isinstance(r, Route) and r.path_regex.match(path)]
    found = {method for route in matching if route.path == matching[0].path for method in route.methods or ()}
    return sorted(found, key=_ORDER.index)


def only_get(path: str, page: Callable[[Request], Awaitable[Response]]) -> Route:
    """A page for GET alone: Starlette adds HEAD, which Ollama has on few paths."""
    route = Route(path, page, methods=["GET"])
    route.methods = {"GET"}
    return route


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
        headers["Allow"] = ", ".join(methods_at(request.app, request.url.path))
    return Response(text, error.status_code, headers=headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


async def _never(_request: Request) -> Response:
    """POST to these paths is served elsewhere; they stand here so that other methods get 405."""
    raise HTTPException(404)
