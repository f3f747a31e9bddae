"""Which pages and which hosts an Ollama answers, and the headers that tell a browser so."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.http import Request

_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")
_LOCAL_PAGE: Final = re.compile(r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0)(?::\d+)?")
_LOCAL_PROGRAMS: Final = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")
_KEPT_NAMES: Final = 1000
_STAINLESS: Final = "Arch Async Custom-Poll-Interval Helper-Method Lang Os Package-Version Poll-Helper Retry-Count"
_STAINLESS_RUNTIME: Final = ("Runtime", "Runtime-Version", "Timeout")
_PLAIN_HEADERS: Final = ("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "Openai-Beta")
_HEADERS: Final = ",".join(
    [*_PLAIN_HEADERS, *(f"X-Stainless-{one}" for one in (*_STAINLESS.split(), *_STAINLESS_RUNTIME))]
)
_PREFLIGHT: Final = (
    f"Access-Control-Allow-Headers: {_HEADERS}\r\n"
    "Access-Control-Allow-Methods: GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS\r\n"
    "Access-Control-Max-Age: 43200\r\n"
).encode()
_VARY_PREFLIGHT: Final = b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"


class Visitors:
    """Decides who is let in.

    Args:
        host: the address that is listened on; only on a loopback one are names of hosts looked at.
        allowed: origins allowed besides those of this machine; `*` for all.
    """

    def __init__(self, host: str, allowed: Sequence[str]) -> None:
        self._checks_hosts = host == "localhost" or _is_loopback(host)
        self._allowed = frozenset(allowed)
        self._known: set[str] = {"", "localhost", socket.gethostname().lower()}

    def knows_host(self, name: str) -> bool:
        """True for a host name that is answered."""
        return not self._checks_hosts or name in self._known or self._is_local(name)

    def headers(self, request: Request) -> bytes | None:
        """Returns the header lines that a page's request gets, None when its page is refused."""
        if not request.origin or request.is_same_host:
            return b""
        is_preflight = request.method == "OPTIONS"
        if "*" in self._allowed:
            return b"Access-Control-Allow-Origin: *\r\n" + (_PREFLIGHT if is_preflight else b"")
        if not self._allows(request.origin):
            return None
        lines = b"Access-Control-Allow-Origin: %b\r\n" % request.origin.encode("latin-1")
        return lines + (_PREFLIGHT + _VARY_PREFLIGHT if is_preflight else b"Vary: Origin\r\n")

    def _allows(self, origin: str) -> bool:
        is_local = origin.startswith(_LOCAL_PROGRAMS) or _LOCAL_PAGE.fullmatch(origin) is not None
        return is_local or origin in self._allowed

    def _is_local(self, host: str) -> bool:
        """True for the host names that mean this machine or this network."""
        name = host.lower()
        known = name in self._known or name.endswith(_LOCAL_SUFFIXES) or _is_address(name)
        if known and len(self._known) < _KEPT_NAMES:
            self._known.add(host)
        return known


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
