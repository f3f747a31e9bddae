"""What stands between an answer and the server that sends it: headers for a browser, and no chunks for HTTP/1.0."""

from __future__ import annotations

from sollol_agents.gateway.http.errors import Header
from sollol_agents.gateway.http.reply import Message, Send


def with_headers(send: Send, headers: list[Header]) -> Send:
    """Sends as `send` does, with these headers more."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return sending


def in_one_piece(send: Send) -> Send:
    """Sends an answer once it is whole, with its length: clients of HTTP/1.0 know no chunks."""
    parts: list[bytes] = []
    head: Message = {}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
            return
        parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        body = b"".join(parts)
        kept = [header for header in head["headers"] if header[0].lower() != b"content-length"]
        await send({**head, "headers": [*kept, (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return sending
