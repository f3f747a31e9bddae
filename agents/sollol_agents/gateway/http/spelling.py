"""Paths that are spelled otherwise: a client is sent to the right one, as Ollama does. Pure.

Serving them at once would spare a client the way back, but it would be another answer than Ollama's; clients of both
dialects follow.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from sollol_agents.gateway.http.errors import Header

_SAFE: Final = "/:@!$&'()*+,;=~"
_NAMES: Final = {301: b"Moved Permanently", 307: b"Temporary Redirect"}


def respelled(path: str, is_known: Callable[[str], bool]) -> tuple[str, bool] | None:
    """The right spelling of a path, and whether it differs by a slash at the end alone; None: it is right."""
    if not path.startswith("/"):
        return None
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if path.endswith("/") and clean != "/":
        clean += "/"
    if clean != path:
        return clean, False
    shorter = path.rstrip("/")
    return (shorter, True) if shorter != path and shorter and is_known(shorter) else None


def redirect(method: str, path: str, query: bytes, *, is_slash: bool) -> tuple[int, list[Header], bytes]:
    """Status, headers and body of the answer that sends a client to a path."""
    status = 301 if is_slash and method == "GET" else 307
    location = quote(path, safe=_SAFE).encode()
    target = location + b"?" + query if query else location
    if method not in ("GET", "HEAD"):
        return status, [(b"location", target)], b""
    page = b'<a href="%b">%b</a>.\n\n' % (location, _NAMES[status])
    return status, [(b"location", target), (b"content-type", b"text/html; charset=utf-8")], page
