"""What Ollama's clients ask of its vendor: a fleet has no account and no cloud, and says so as Ollama does."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sollol_agents.gateway.http.bodies import json_response
from sollol_agents.gateway.http.errors import JSON
from sollol_agents.gateway.management.fleet import Fleet

_ANSWERS: Final = {
    "/api/me": (503, "account unavailable"),
    "/api/signout": (500, "there was an error signing out"),
    "/api/experimental/web_search": (403, "ollama cloud is disabled: web search is unavailable"),
    "/api/experimental/web_fetch": (403, "ollama cloud is disabled: web fetch is unavailable"),
}


class AccountPages:
    """The handlers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[Route]:
        """The paths of account and cloud."""
        posts = [Route(path, self.without_account, methods=["POST"]) for path in _ANSWERS]
        return [*posts, Route("/api/experimental/model-recommendations", self.recommendations, methods=["GET"])]

    async def without_account(self, request: Request) -> Response:
        """That there is no account, and no cloud."""
        status, text = _ANSWERS[request.url.path]
        return json_response({"error": text}, JSON, status)

    async def recommendations(self, _request: Request) -> Response:
        """The models that an Ollama of the fleet recommends."""
        return Response(await self._fleet.recommendations(), media_type=JSON.decode())
