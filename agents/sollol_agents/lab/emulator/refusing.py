"""How a refusal goes out: its form and its headers follow from the path, and from when it was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sollol_agents.lab.emulator import http, messages
from sollol_agents.lab.emulator.dialects import native_error
from sollol_agents.lab.emulator.openai_answers import openai_error
from sollol_agents.lab.emulator.refusals import CloudError, RedirectError, RefusalError

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.http import Request, Responder


def refuse(responder: Responder, path: str, error: RefusalError, *, is_stream: bool = False) -> None:
    """Sends a refusal.

    Args:
        responder: of the request.
        path: of the request.
        error: why, and when it was found.
        is_stream: the request asked for a stream, whose headers an engine's refusal meets already chosen.
    """
    text = str(error)
    if isinstance(error, CloudError) or not path.startswith("/v1/"):
        is_late = error.is_late and is_stream
        responder.send(error.status, native_error(text), http.PLAIN_JSON if is_late else http.JSON, is_chunked=is_late)
        return
    told = messages.messages_error if path.startswith(messages.PATH) else openai_error
    body = told(error.status, text)
    if error.is_at_door:
        responder.send(error.status, body, http.JSON)
    else:
        if path in {messages.PATH, "/v1/responses"} and is_stream:
            responder.extra += http.NO_CACHE
        responder.send(error.status, body + b"\n", http.PLAIN_JSON, is_chunked=error.is_late and is_stream)


def redirect(request: Request, responder: Responder, error: RedirectError) -> None:
    """Sends the right spelling of a path; only to a GET with a page around it."""
    location = error.location + request.query
    responder.extra += b"Location: %b\r\n" % location.encode("latin-1", "replace")
    if request.method not in {"GET", "HEAD"}:
        responder.send(error.status)
        return
    name = "Moved Permanently" if error.status == 301 else "Temporary Redirect"
    responder.send(error.status, f'<a href="{location}">{name}</a>.\n\n'.encode(), http.HTML)
