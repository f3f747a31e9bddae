"""The dialects in which requests come over HTTP: whose words a path speaks, and what it asks for. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sollol_schemas.context import RequestKind


class Dialect(StrEnum):
    """Whose words a client speaks."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


KIND_OF_PATH: Final[dict[str, RequestKind]] = {
    "/api/generate": RequestKind.GENERATE,
    "/api/chat": RequestKind.CHAT,
    "/api/embed": RequestKind.EMBED,
    "/api/embeddings": RequestKind.PASSTHROUGH,
    "/v1/chat/completions": RequestKind.PASSTHROUGH,
    "/v1/completions": RequestKind.PASSTHROUGH,
    "/v1/embeddings": RequestKind.PASSTHROUGH,
    "/v1/responses": RequestKind.PASSTHROUGH,
    "/v1/messages": RequestKind.PASSTHROUGH,
    "/v1/messages/count_tokens": RequestKind.PASSTHROUGH,
}
"""The paths of inference that are known, and what a request to each is on the bus."""
NATIVE_PATH: Final[dict[RequestKind, str]] = {
    kind: path for path, kind in KIND_OF_PATH.items() if kind is not RequestKind.PASSTHROUGH
}
"""The path of each kind of request of Ollama's own."""
OLD_EMBED_PATH: Final = "/api/embeddings"
EMBEDDING_PATHS: Final = ("/v1/embeddings", "/api/embed", OLD_EMBED_PATH)


def dialect_of(path: str) -> Dialect:
    """The dialect of a path; Ollama's for those that nobody knows."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI if path.startswith("/v1/") or path == "/v1" else Dialect.OLLAMA
