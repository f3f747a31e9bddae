"""Stands before the web application: refuses foreign hosts and origins, and sends people without a session to login."""

from __future__ import annotations

import html
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from sollol_agents.dashboard.access import COOKIE, Sessions, is_host_allowed, is_same_origin

_OPEN: Final = frozenset({"/login", "/healthz"})
_ASSETS: Final = "/assets/"
_FORM_MAX: Final = 4096
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'none'; object-src 'none'"
)
"""Nothing from another host. The page's templates are compiled in the browser, which counts as `eval`."""
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
}
_LOGIN: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · SOLLOL</title><link rel="icon" href="/assets/icon.svg"><link rel="stylesheet" href="/assets/style.css">
<script src="/assets/theme.js"></script></head>
<body><main class="login"><form method="post" action="/login" class="panel stack">
<h1 class="brand"><img src="/assets/icon.svg" alt="" width="28" height="28"> SOLLOL</h1>
<p class="muted">This dashboard asks for an API key. <code>sollol keys create NAME --admin</code> makes one.</p>
{problem}<label class="field"><span>API key</span>
<input name="key" type="password" autocomplete="current-password" required autofocus></label>
<button class="button primary">Log in</button></form></main></body></html>
"""


def session_id(cookies: str) -> str:
    """The session in a `Cookie` header; empty: none."""
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


class GuardedApp:
    """An ASGI application that lets others through to another one."""

    def __init__(self, app: ASGIApp, sessions: Sessions, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008)(scope, receive, send)
        else:
            await refusal(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        authority, path = headers.get(b"host", ""), str(scope["path"])
        if not is_host_allowed(authority, self._hosts):
            return PlainTextResponse("this host name is not allowed; see the setting dashboard.hosts", 421)
        if not is_same_origin(headers.get(b"origin", ""), authority):
            return PlainTextResponse("requests from other sites are not allowed", 403)
        is_open = path in _OPEN or path.startswith(_ASSETS)
        if is_open or self._sessions.person(session_id(headers.get(b"cookie", "")), time.monotonic()):
            return None
        if path == "/":
            return RedirectResponse("/login", 303)
        return PlainTextResponse("log in first", 401)


class Login:
    """The pages for logging in and out."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def show(self, _: Request) -> Response:
        """The form."""
        if not self._sessions.is_login_needed:
            return RedirectResponse("/", 303)
        return HTMLResponse(_LOGIN.format(problem=""))

    async def take(self, request: Request) -> Response:
        """Somebody sent the form."""
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _FORM_MAX:
                return PlainTextResponse("too much", 413)
        secret = parse_qs(body.decode("latin-1")).get("key", [""])[0]
        made = self._sessions.log_in(secret, time.monotonic())
        if not made:
            problem = f'<p class="problem" role="alert">{html.escape("This key is not known.")}</p>'
            return HTMLResponse(_LOGIN.format(problem=problem), 401)
        answer = RedirectResponse("/", 303)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, made, httponly=True, samesite="strict", secure=is_secure)
        return answer

    async def leave(self, request: Request) -> Response:
        """Somebody logs out."""
        self._sessions.log_out(session_id(request.headers.get("cookie", "")))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer


def _with_headers(send: Send) -> Send:
    async def sender(message: Any) -> None:  # noqa: ANN401 an ASGI message
        if message["type"] == "http.response.start":
            known = {name for name, _ in message["headers"]}
            more = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in known]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sender
