"""The OpenAPI document of a gateway."""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from sollol_agents.gateway.pages import openapi_groups, openapi_jobs
from sollol_agents.gateway.pages.feedback import PATH as FEEDBACK
from sollol_agents.gateway.pages.overview import Overview
from sollol_bus.version import VERSION
from sollol_schemas.feedback import FeedbackReply, FeedbackRequest
from sollol_schemas.queries import StatsReply
from sollol_schemas.routing import Routing

_REF: Final = "#/components/schemas/{name}"

_INFERENCE: Final = {
    "/api/generate": ("Ollama: generate from a prompt.", ("model",)),
    "/api/chat": ("Ollama: answer a conversation.", ("model",)),
    "/api/embed": ("Ollama: embed texts.", ("model", "input")),
    "/api/embeddings": ("Ollama: embed one text, in the older way.", ("model",)),
    "/v1/chat/completions": ("OpenAI: chat completion.", ("model", "messages")),
    "/v1/completions": ("OpenAI: completion.", ("model",)),
    "/v1/embeddings": ("OpenAI: embeddings.", ("model", "input")),
    "/v1/responses": ("OpenAI: responses, on engines that have them.", ("model",)),
    "/v1/messages": ("Anthropic: messages.", ("model", "messages", "max_tokens")),
    "/v1/messages/count_tokens": ("Anthropic: count the tokens of a message.", ("model", "messages")),
}
_READS: Final = {
    "/": "That an Ollama-compatible server is here.",
    "/api/version": "Version of the oldest Ollama of the fleet.",
    "/api/status": "Whether the vendor's cloud is used: never.",
    "/api/tags": "The models on all disks and the groups of them, with the nodes that have them.",
    "/api/ps": "The models in all memories, a row for each node.",
    "/v1/models": "The models of the fleet, as OpenAI lists them.",
    "/healthz": "That the gateway lives.",
    "/readyz": "Whether requests can be served.",
    "/metrics": "Counters for Prometheus.",
    "/openapi.json": "This document.",
}
_MANAGEMENT: Final = {
    "/api/pull": ("post", "Download a model to a node; administrators only.", ("model",)),
    "/api/push": ("post", "Upload a model to a registry; administrators only.", ("model",)),
    "/api/create": ("post", "Make a model; administrators only.", ("model",)),
    "/api/copy": ("post", "Give a model a second name; administrators only.", ("source", "destination")),
    "/api/delete": ("delete", "Delete a model; administrators only.", ("model",)),
}
_REFUSALS: Final = {
    "400": "The request cannot be used.",
    "401": "A key is needed.",
    "403": "The key may not do this.",
    "404": "The model is not known.",
    "413": "The body is too large.",
    "429": "A ceiling is reached; Retry-After says when to come back.",
    "499": "The request was cancelled.",
    "500": "The engine's own answer to a wrong request, or a bug of ours.",
    "501": "The engine cannot do this.",
    "502": "Every node that was tried failed.",
    "503": "No node can serve this now.",
    "504": "The deadline passed.",
}


@functools.cache
def document() -> dict[str, Any]:
    """The document."""
    (stats, overview, _, feedback, feedback_reply, *more), schemas = msgspec.json.schema_components(
        (StatsReply, Overview, Routing, FeedbackRequest, FeedbackReply, *openapi_groups.TYPES, *openapi_jobs.TYPES),
        ref_template=_REF,
    )
    about_groups, about_jobs = more[: len(openapi_groups.TYPES)], more[len(openapi_groups.TYPES) :]
    paths: dict[str, Any] = {path: {"get": _operation(text)} for path, text in _READS.items()}
    paths["/readyz"]["get"]["responses"]["503"] = {"description": "Not now; the body says why."}
    paths |= {path: {"post": _operation(text, needs)} for path, (text, needs) in _INFERENCE.items()}
    paths["/api/show"] = {"post": _operation("One model's details.", ("model",))}
    paths["/v1/models/{model}"] = {"get": _operation("One model.") | {"parameters": [_in_path("model")]}}
    paths["/api/stats"] = {"get": _window("Statistics of the cluster.", stats)}
    paths["/api/usage"] = {"get": _window("Who has used how much; for administrators.", {"type": "object"})}
    paths[FEEDBACK] = {"post": _feedback(feedback, feedback_reply)}
    paths["/api/dashboard"] = {"get": _window("Health, alerts, what was learnt, nodes and statistics.", overview)}
    paths |= {path: {method: _operation(text, needs)} for path, (method, text, needs) in _MANAGEMENT.items()}
    for path in _INFERENCE:
        paths[path]["post"]["parameters"] = _routing_headers(schemas["Routing"])
    digest = _in_path("digest") | {"schema": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}}
    paths["/api/blobs/{digest}"] = {
        "head": _operation("Whether a node has a file.") | {"parameters": [digest]},
        "post": _operation("Upload a file of a model; administrators only.") | {"parameters": [digest]},
    }
    paths["/api/blobs/{digest}"]["post"]["responses"]["201"] = {"description": "The engine has it now."}
    paths |= openapi_groups.paths(tuple(about_groups), _operation)
    paths |= openapi_jobs.paths(tuple(about_jobs), _operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SOLLOL Bus gateway",
            "version": VERSION,
            "description": "One address for a fleet of LLM machines. Bodies go to the engines as they are.",
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
        "paths": paths,
    }


def _operation(text: str, needs: tuple[str, ...] = (), schema: dict[str, Any] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "The answer."}
    if schema is not None:
        answer["content"] = {"application/json": {"schema": schema}}
    operation: dict[str, Any] = {
        "summary": text,
        "responses": {"200": answer} | {status: {"description": said} for status, said in _REFUSALS.items()},
    }
    if needs:
        properties: dict[str, Any] = {name: {} for name in needs} | {"model": {"type": "string", "minLength": 1}}
        body = {"type": "object", "required": list(needs), "properties": properties}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _feedback(asked: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    operation = _operation("Tell how good an answer was: score 0 to 1, or success.", schema=reply)
    operation["responses"]["202"] = {"description": "It counts as soon as the request is recorded."}
    return operation | {"requestBody": {"required": True, "content": {"application/json": {"schema": asked}}}}


def _window(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    number = {"type": "number", "minimum": 0, "exclusiveMaximum": 1e9}
    window = {"name": "window_s", "in": "query", "description": "Seconds to look back; 0: all.", "schema": number}
    return _operation(text, schema=schema) | {"parameters": [window]}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _routing_headers(routing: dict[str, Any]) -> list[dict[str, Any]]:
    """The routing fields as headers."""
    return [
        {
            "name": f"X-Sollol-{name.replace('_', '-').title()}",
            "in": "header",
            "required": False,
            "description": field.get("description", ""),
            "schema": {key: value for key, value in field.items() if key != "description"},
        }
        for name, field in routing["properties"].items()
    ]
