"""The part of the OpenAPI document about jobs, files and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sollol_agents.gateway.batches.records import BatchRequest
from sollol_agents.gateway.pages.jobs import PREFIX, JobRequest
from sollol_schemas.jobs import JobListReply, JobStatus

TYPES: Final = (JobRequest, JobStatus, JobListReply, BatchRequest)
"""Types whose schemas it uses, in the order in which `paths` takes them."""

_WHOLE: Final = {"type": "integer", "minimum": 1}
_NOT_YET: Final = {"202": {"description": "It has not ended."}, "409": {"description": "Not in this state."}}

Schema = dict[str, Any]


def paths(schemas: tuple[Schema, ...], operation: Callable[..., Schema]) -> dict[str, Any]:
    """The paths.

    Args:
        schemas: Of `TYPES`.
        operation: Makes an operation from its text, and the schema of its answer.
    """
    request, status, listed, batch = schemas
    return _jobs(request, status, listed, operation) | _batches(batch, operation)


def _jobs(request: Schema, status: Schema, listed: Schema, operation: Callable[..., Schema]) -> dict[str, Any]:
    one = f"{PREFIX}/{{job_id}}"
    job_id = _parameter("job_id", "path", {"type": "string", "pattern": "^([A-Za-z0-9_-]{1,64}=)?[A-Za-z0-9_-]{1,56}$"})
    limit = _parameter("limit", "query", _WHOLE | {"maximum": 1000})
    states = _parameter("state", "query", {"type": "array", "items": {"type": "string"}})
    timeout = _parameter("timeout_s", "query", {"type": "integer", "minimum": 0, "maximum": 300})

    def about_one(text: str, *more: Schema, schema: Schema | None = status) -> Schema:
        made = operation(text, schema=schema)
        made["responses"] |= _NOT_YET
        return made | {"parameters": [job_id, *more]}

    submit = operation("Store a durable job.", schema=None) | _body("application/json", request)
    submit["responses"] |= {"202": {"description": "It is stored."}, "409": {"description": "The id is taken."}}
    return {
        PREFIX: {
            "post": submit,
            "get": operation("The caller's latest jobs.", schema=listed) | {"parameters": [states, limit]},
        },
        f"{PREFIX}/dead": {"get": operation("Jobs that can run again.", schema=listed) | {"parameters": [limit]}},
        one: {"get": about_one("What is known about a job."), "delete": about_one("Forget a job.", schema=None)},
        f"{one}/wait": {"get": about_one("The job, once it has ended.", timeout)},
        f"{one}/result": {"get": about_one("The engine's answer.", schema=None)},
        f"{one}/cancel": {"post": about_one("Cancel a job.")},
        f"{one}/retry": {"post": about_one("Run a dead or failed job again.", schema=None)},
    }


def _batches(batch: Schema, operation: Callable[..., Schema]) -> dict[str, Any]:
    paged = [
        _parameter("limit", "query", _WHOLE | {"maximum": 10_000}),
        _parameter("after", "query", {"type": "string"}),
    ]
    file_id = [_parameter("file_id", "path", {"type": "string", "minLength": 1})]
    batch_id = [_parameter("batch_id", "path", {"type": "string", "minLength": 1})]
    form = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"const": "batch"}},
    }
    cancel = operation("OpenAI: cancel a batch.") | {"parameters": batch_id}
    cancel["responses"] |= {"409": {"description": "It has ended."}}
    return {
        "/v1/files": {
            "post": operation("OpenAI: upload a file of requests.") | _body("multipart/form-data", form),
            "get": operation("OpenAI: list files.") | {"parameters": paged},
        },
        "/v1/files/{file_id}": {
            "get": operation("OpenAI: one file.") | {"parameters": file_id},
            "delete": operation("OpenAI: delete a file.") | {"parameters": file_id},
        },
        "/v1/files/{file_id}/content": {"get": operation("OpenAI: a file's content.") | {"parameters": file_id}},
        "/v1/batches": {
            "post": operation("OpenAI: begin a batch.") | _body("application/json", batch),
            "get": operation("OpenAI: list batches.") | {"parameters": paged},
        },
        "/v1/batches/{batch_id}": {"get": operation("OpenAI: one batch.") | {"parameters": batch_id}},
        "/v1/batches/{batch_id}/cancel": {"post": cancel},
    }


def _parameter(name: str, where: str, schema: Schema) -> Schema:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _body(media_type: str, schema: Schema) -> Schema:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
