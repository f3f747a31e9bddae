"""Which models there are: Ollama's and OpenAI's lists, over the whole fleet."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sollol_agents.gateway.http.bodies import body_of, json_response, text_in
from sollol_agents.gateway.http.errors import JSON, NOT_FOUND, PLAIN_JSON, TEXT
from sollol_agents.gateway.management import model_lists
from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.management.targets import insisted_on
from sollol_agents.gateway.pages.application import only_get
from sollol_bus.transport.messages import encode

_OLLAMA_VERSION: Final = "0.33.0"
"""Told when no Ollama is in the fleet: the API that is spoken here."""


class ModelPages:
    """The handlers.

    Args:
        fleet: What is known of the fleet.
        instance: The gateway, which the pages that probes ask for name in a header.
    """

    def __init__(self, fleet: Fleet, instance: str) -> None:
        self._fleet = fleet
        self._mark = {"Sollol-Gateway": instance}

    def routes(self) -> list[Route]:
        """The paths of lists of models."""
        reads = {
            "/": self.root,
            "/api/version": self.version,
            "/api/tags": self.tags,
        }
        gets = {
            "/api/status": self.status,
            "/api/ps": self.running,
            "/v1/models": self.openai_models,
            "/v1/models/{model:path}": self.openai_model,
        }
        routes = [Route(path, page, methods=["GET", "HEAD"]) for path, page in reads.items()]
        routes += [only_get(path, page) for path, page in gets.items()]
        return [*routes, Route("/api/show", self.show, methods=["POST"])]

    async def root(self, _request: Request) -> Response:
        """What Ollama's command line looks for."""
        return PlainTextResponse("Ollama is running", headers=self._mark)

    async def version(self, _request: Request) -> Response:
        """The version of the oldest Ollama in the fleet."""
        nodes = (await self._fleet.nodes()).nodes
        answer = json_response({"version": model_lists.lowest_version(nodes, _OLLAMA_VERSION)}, JSON)
        answer.headers.update(self._mark)
        return answer

    async def status(self, _request: Request) -> Response:
        """That nothing here goes to a vendor's cloud."""
        return json_response({"cloud": {"disabled": True, "source": "env"}}, JSON)

    async def tags(self, request: Request) -> Response:
        """The models on all disks."""
        return json_response({"models": await self._fleet.tags(insisted_on(request))}, JSON)

    async def running(self, request: Request) -> Response:
        """The models in all memories."""
        return json_response({"models": await self._fleet.running(insisted_on(request))}, JSON)

    async def show(self, request: Request) -> Response:
        """One model's details."""
        body = await body_of(request)
        shown = await self._fleet.show(text_in(body, "model", "name"), body, insisted_on(request))
        return Response(shown, media_type=JSON.decode())

    async def openai_models(self, request: Request) -> Response:
        """The models of the fleet."""
        rows = [model_lists.openai_model(row) for row in await self._fleet.tags(insisted_on(request))]
        return _openai_response({"object": "list", "data": rows})

    async def openai_model(self, request: Request) -> Response:
        """One model of the fleet; a name with a slash is a path that Ollama does not know, but other engines do."""
        model = request.path_params["model"]
        if "/" in model and not await self._fleet.is_spelled(model):
            return Response(NOT_FOUND, 404, {"content-type": TEXT.decode()})
        row = await self._fleet.tag(model, insisted_on(request))
        return _openai_response(model_lists.openai_model(row))


def _openai_response(value: object) -> Response:
    """An answer that ends with a line, as those of Ollama's other dialect do."""
    return Response(encode(value) + b"\n", media_type=PLAIN_JSON.decode())
