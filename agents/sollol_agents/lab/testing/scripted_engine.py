"""An engine that writes exactly the bytes that a test wants, and what an Ollama usually writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self

DONE: Final = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"eval_count":1}\n'
Script = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Writes the answer of a path by itself."""


def head(length: int | None, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    """The head of an answer; without a length its body comes in chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n".encode()


def whole(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    """A whole answer."""
    return head(len(body), content_type, status) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a body without a length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ScriptedEngine:
    """A server on a free port that writes, for each path, exactly the bytes that a test wants."""

    def __init__(self, answers: dict[str, bytes | Script]) -> None:
        self._answers = answers
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def refuse(self) -> None:
        """Closes the port, as a server does that ends; what is connected stays so."""
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                length = next((int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length")), 0)
                self.bodies.append(await reader.readexactly(length))
                path = lines[0].split()[1]
                self.requests.append(path)
                answer = self._answers.get(path, whole(b"404 page not found", "text/plain", "404 Not Found"))
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(path, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the other side, or the test, has had enough
        finally:
            self._tasks.discard(task)
            writer.close()


OLLAMA: Final[dict[str, bytes | Script]] = {
    "/api/version": whole(b'{"version":"0.33.0"}'),
    "/api/tags": whole(b'{"models":[{"name":"m:latest","size":1,"digest":"d"}]}'),
    "/api/ps": whole(b'{"models":[{"name":"m:latest","size":1,"size_vram":1}]}'),
}


def chat_answer(*pieces: bytes) -> bytes:
    """An answer of Ollama to a chat, in these chunks."""
    return head(None, "application/x-ndjson") + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
