"""Why a request is not served: the status and the words of each refusal, as Ollama has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sollol_agents.requests.ollama import gojson

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_EMBEDDINGS: Final = "This server does not support embeddings. Start it with `--embeddings`"
UNEXPECTED_EOF: Final = "an error was encountered while running the model: unexpected EOF"
NO_LONGER_RUNNING: Final = "llama-server process no longer running: unknown "
KILLED_WHILE_LOADING: Final = "llama-server process has terminated: signal: killed"
RESET_WHILE_TOKENIZING: Final = (
    'Post "http://127.0.0.1:<port>/tokenize": read tcp 127.0.0.1:<port>->127.0.0.1:<port>: '
    "read: connection reset by peer"
)
QUEUE_FULL: Final = "server busy, please try again.  maximum pending requests exceeded"
_ASSERTION: Final = "GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed"
BATCH_TOO_SMALL: Final = f"llama-server process has terminated: {_ASSERTION}: {_ASSERTION}"


class RefusalError(Exception):
    """A request is refused; the first argument is the text of the answer.

    Attributes:
        status: of the answer.
        is_late: found while the engine was asked to begin: a stream's headers were chosen already.
        is_at_door: found before the dialect of the path had its say: told by the middleware.
    """

    def __init__(self, text: str, status: int = 400, *, is_late: bool = False, is_at_door: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.is_late = is_late
        self.is_at_door = is_at_door


class CloudError(RefusalError):
    """A model of the vendor's cloud was asked for; told in the native form on every path."""

    def __init__(self, what: str = "remote model is") -> None:
        super().__init__(f"ollama cloud is disabled: {what} unavailable", 403)


class RedirectError(Exception):
    """The path is written another way; the first argument is the right one."""

    def __init__(self, location: str, status: int) -> None:
        super().__init__(location)
        self.location = location
        self.status = status


def not_found(name: str, *, is_pull_advised: bool = False) -> RefusalError:
    """Returns the refusal of a model that is not here."""
    text = f'model "{name}" not found, try pulling it first' if is_pull_advised else f"model '{name}' not found"
    return RefusalError(text, 404)


def engine_refusal(message: str, kind: str, status: int, **figures: int) -> RefusalError:
    """Returns an error of the engine behind Ollama, which passes its JSON on as a text."""
    error: Mapping[str, object] = {"code": status, "message": message, "type": kind, **figures}
    return RefusalError(gojson.write({"error": error}).decode(), status, is_late=True)


def too_long(tokens: int, room: int) -> RefusalError:
    """Returns the refusal of a prompt beyond the context of a slot."""
    message = f"request ({tokens} tokens) exceeds the available context size ({room} tokens), try increasing it"
    return engine_refusal(message, "exceed_context_size_error", 400, n_prompt_tokens=tokens, n_ctx=room)


def no_images(*, is_conversation: bool) -> RefusalError:
    """Returns the refusal of an image by a model that reads text alone."""
    if is_conversation:
        hint = "hint: if this is unexpected, you may need to provide the mmproj"
        return engine_refusal(f"image input is not supported - {hint}", "server_error", 500)
    message = "Multimodal data provided, but model does not support multimodal requests."
    return engine_refusal(message, "invalid_request_error", 400)


def no_logprobs_beside_tools() -> RefusalError:
    """Returns the refusal of probabilities in a stream that may call tools."""
    return engine_refusal("logprobs is not supported with tools + stream", "invalid_request_error", 400)


def bad_schema(reason: str) -> RefusalError:
    """Returns the refusal of a schema that no grammar can be made of."""
    trouble = "Automatic parser generation failed: JSON schema conversion failed:"
    message = f"Unable to generate parser for this template. {trouble}\n{reason}"
    return engine_refusal(message, "invalid_request_error", 400)
