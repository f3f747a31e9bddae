"""What Ollama says of a request before it looks for the model, and of one that names none. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sollol_agents.requests.ollama.bodies import OF_PATH, Body, read_body
from sollol_agents.requests.ollama.fields import read_image_url
from sollol_agents.requests.ollama.gojson import BodyError

NAMELESS_IS_UNKNOWN: Final = ("/api/generate", "/api/embed", "/v1/completions", "/v1/embeddings")
"""Paths on which a request without a model is for one that is unknown; others say that it is required."""
NO_MODEL: Final = "model is required"
_ENCODINGS: Final = ("float", "base64")


def check_before_model(path: str, content: bytes) -> None:
    """Returns when nothing is wrong but, perhaps, the model.

    Args:
        path: one of Ollama's, of which the body's table is known.
        content: the body as it came.

    Raises:
        BodyError: with what Ollama says first.
    """
    body = read_body(content, OF_PATH[path], is_openai=path.startswith("/v1/"))
    match path:
        case "/api/embed":
            _check_texts(body.get("input"))
        case "/v1/chat/completions":
            if not body.get("messages"):
                raise BodyError("[] is too short - 'messages'")
            _check_images(body["messages"], "image_url")
        case "/v1/embeddings":
            _check_embedding(body)
        case "/v1/responses":
            if not body.get("model"):
                raise BodyError(NO_MODEL)
            _check_images(body.get("input"), "input_image")
        case "/v1/messages":
            _check_message(body)


def _check_texts(given: object) -> None:
    is_text = given is None or isinstance(given, str)
    if not is_text and not (isinstance(given, list) and all(isinstance(one, str) for one in given)):
        raise BodyError("invalid input type")


def _check_embedding(body: Body) -> None:
    encoding = body.get("encoding_format")
    if encoding and encoding not in _ENCODINGS:
        raise BodyError(f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].")
    if body.get("input") in (None, "", []):
        raise BodyError("invalid input")
    _check_texts(body.get("input"))


def _check_images(turns: object, kind: str) -> None:
    """Looks at the images of a conversation in OpenAI's words."""
    for part in _parts(turns, kind):
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if not isinstance(url, str):
            raise BodyError("invalid message format")
        read_image_url(url)


def _parts(turns: object, kind: str) -> Iterator[Body]:
    """The parts of a kind in a conversation."""
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content") if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == kind:
                yield part


def _check_message(body: Body) -> None:
    if not body.get("model"):
        raise BodyError(NO_MODEL)
    if body.get("max_tokens", 0) <= 0:
        raise BodyError("max_tokens is required and must be positive")
    if not body.get("messages"):
        raise BodyError("messages is required")
    for part in _parts(body["messages"], "image"):
        source = part.get("source")
        kind = source.get("type", "") if isinstance(source, dict) else ""
        if kind != "base64":
            raise BodyError(f"invalid image source type: {kind}. Only base64 images are supported.")
