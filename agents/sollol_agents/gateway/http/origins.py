"""Which web pages may call, and the headers that tell a browser so: as Ollama has it, on every path. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sollol_agents.gateway.http.errors import Header

_LOCAL_PAGE: Final = re.compile(rb"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?")
_PROGRAMS: Final = (b"app://", b"file://", b"tauri://", b"vscode-webview://", b"vscode-file://")
_STAINLESS: Final = (
    b"Arch Async Custom-Poll-Interval Helper-Method Lang Os Package-Version "
    b"Poll-Helper Retry-Count Runtime Runtime-Version Timeout"
)
_SENT: Final = b",".join(
    (
        *(b"Authorization", b"Content-Type", b"User-Agent", b"Accept", b"X-Requested-With", b"Openai-Beta"),
        *(b"X-Stainless-" + name for name in _STAINLESS.split()),
    )
)
_PREFLIGHT: Final[tuple[Header, ...]] = (
    (b"access-control-allow-headers", _SENT),
    (b"access-control-allow-methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"access-control-max-age", b"43200"),
)
_VARY: Final = (b"vary", b"Origin")
_VARY_PREFLIGHT: Final = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
_READABLE: Final = (b"access-control-expose-headers", b"*")


class Origins:
    """Knows the pages that may call.

    Args:
        added: Origins that may call beside those of this machine and of programs; `*`: all.
    """

    def __init__(self, added: Iterable[str]) -> None:
        self._added = frozenset(origin.encode() for origin in added)

    def headers(self, origin: bytes, host: bytes, *, is_preflight: bool) -> list[Header] | None:
        """What a page is told beside its answer: nothing when it is ours; None: it may not call.

        Args:
            origin: The Origin header.
            host: The Host header.
            is_preflight: The browser only asks whether it may.
        """
        if origin.partition(b"://")[2] == host:
            return []
        preflight = _PREFLIGHT if is_preflight else ()
        if b"*" in self._added:
            return [(b"access-control-allow-origin", b"*"), _READABLE, *preflight]
        if not self._allows(origin):
            return None
        vary = _VARY_PREFLIGHT if is_preflight else _VARY
        return [(b"access-control-allow-origin", origin), _READABLE, *preflight, vary]

    def _allows(self, origin: bytes) -> bool:
        is_local = origin.startswith(_PROGRAMS) or _LOCAL_PAGE.fullmatch(origin) is not None
        return is_local or origin in self._added
