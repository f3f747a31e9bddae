"""The ASGI application: inference by a table, everything else by Starlette.

Starlette's routing and its request and response objects cost about as much as everything else that the gateway does
for a request; the paths that carry the load are therefore looked up here.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import MutableMapping
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import Access, Guest
from sollol_agents.gateway.http.bodies import read_body
from sollol_agents.gateway.http.errors import NOT_FOUND, TEXT, Header, refusal
from sollol_agents.gateway.http.hops import Hops
from sollol_agents.gateway.http.hosts import Hosts
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.http.origins import Origins
from sollol_agents.gateway.http.reply import Receive, Reply, Send
from sollol_agents.gateway.http.sending import in_one_piece, with_headers
from sollol_agents.gateway.http.spelling import redirect, respelled
from sollol_agents.gateway.inference.request import HttpRequest, names_a_model, read_request
from sollol_agents.gateway.inference.serving import Inference
from sollol_agents.gateway.pages.application import has_page, methods_at
from sollol_agents.http_server import ClientLimits
from sollol_agents.requests.dialects import KIND_OF_PATH, dialect_of
from sollol_agents.requests.paths import is_closed
from sollol_bus.errors import SollolError
from sollol_bus.transport.acting import ACTING
from sollol_bus.transport.connection import Bus
from sollol_schemas import headers as h
from sollol_schemas.acts import Operator
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]

_FORBIDDEN: Final = 403
_NOT_FROM_THERE: Final = (
    b"this Host or Origin is not served here; name it with --hosts or --cors-origins, or in SOLLOL_GATEWAY_HOSTS or "
    b"SOLLOL_GATEWAY_CORS_ORIGINS"
)
OTHER: Final = "other"
"""What metrics call paths that only an engine knows."""


class Application:
    """The application.

    Args:
        config: Settings.
        bus: The gateway's connection.
        limits: What clients may do.
        access: Knows the keys.
        inference: Serves inference.
        metrics: Counts what is refused here.
        hops: Knows what has been here before.
        pages: Serves every other path.
    """

    def __init__(
        self,
        config: GatewayConfig,
        bus: Bus,
        *,
        limits: ClientLimits,
        access: Access,
        inference: Inference,
        metrics: Metrics,
        hops: Hops,
        pages: Starlette,
    ) -> None:
        self._access = access
        self._limits = limits
        self._config = config
        self._bus = bus
        self._inference = inference
        self._metrics = metrics
        self._hops = hops
        self._pages = pages
        self._hosts = Hosts(config)
        self._origins = Origins(config.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["http_version"] == "1.0":
            send = in_one_piece(send)
        said = self._said_to_page(scope)
        reply = Reply(send, scope["state"]["connection"], self._limits.reader_timeout_s, said or ())
        if said:
            send = with_headers(send, said)
        path = scope["path"]
        if said is None:
            self._metrics.refused(OTHER, _FORBIDDEN)
            allow = [] if scope["method"] in methods_at(self._pages, path) else self._allow(path)
            await reply.whole(_FORBIDDEN, [(b"x-sollol-reason", _NOT_FROM_THERE), *allow], b"")
            return
        if scope["method"] == "OPTIONS" and (said or path == "*"):
            await self._tell_what_may_be_asked(reply, path)
            return
        try:
            guest = self._access.guest(scope["headers"], path)
            await self._serve(scope, receive, send, reply, guest)
        except SollolError as error:
            await self._refuse(reply, path, error)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, reply: Reply, guest: Guest) -> None:
        path, via = scope["path"], await self._hops.passed_on(scope["headers"])
        kind, method = KIND_OF_PATH.get(path), scope["method"]
        if kind is None:
            found = respelled(path, partial(has_page, self._pages))
            if found is not None:
                right, is_slash = found
                await reply.whole(*redirect(method, right, scope["query_string"], is_slash=is_slash))
                return
        if kind is None and method == "POST" and self._is_engines(path):
            kind = RequestKind.PASSTHROUGH
        if kind is None or method != "POST":
            scope["state"]["guest"] = guest
            ACTING.set(_operator(guest, scope))
            await self._pages(scope, receive, send)
            return
        request = await self._read(scope, receive, kind, guest)
        if request is None:
            await reply.whole(404, [(b"content-type", TEXT)], NOT_FOUND)
            return
        request.headers[h.VIA] = via
        await self._inference.serve(request, reply, scope["state"]["connection"])

    def _is_engines(self, path: str) -> bool:
        """Whether an engine may serve a path: it is none of ours, and not closed."""
        return not has_page(self._pages, path) and not is_closed(path, self._config.open_paths)

    def _said_to_page(self, scope: Scope) -> list[Header] | None:
        """What a web page's browser is told beside the answer; None: who calls by such a name may not come in."""
        headers = scope["headers"]
        host = _header(headers, b"host")
        if not self._hosts.allow(host):
            return None
        origin = _header(headers, b"origin")
        return self._origins.headers(origin, host, is_preflight=scope["method"] == "OPTIONS") if origin else []

    async def _tell_what_may_be_asked(self, reply: Reply, path: str) -> None:
        """Answers a browser that asks whether it may, and a question about the server itself."""
        if path == "*":
            await reply.whole(200, [], b"")
            return
        reply.start(204, self._allow(path))
        await reply.end()

    def _allow(self, path: str) -> list[Header]:
        methods = ", ".join(methods_at(self._pages, path)).encode()
        return [(b"allow", methods)] if methods else []

    async def _read(self, scope: Scope, receive: Receive, kind: RequestKind, guest: Guest) -> HttpRequest | None:
        """The request with its body; None for a path that nobody knows without a model to send it to.

        Raises:
            SollolError: It cannot be used.
        """
        headers, path = scope["headers"], scope["path"]
        limit = min(self._config.max_body_bytes, self._bus.max_payload)
        body = await read_body(receive, _length(headers), limit, self._limits.body_timeout_s)
        is_known = path in KIND_OF_PATH
        if not is_known and not names_a_model(body):
            return None
        raw_path, query = scope["raw_path"], scope["query_string"]
        return read_request(
            kind,
            _origin_form(raw_path, query) if kind is RequestKind.PASSTHROUGH else path,
            headers,
            body,
            label=path if is_known else OTHER,
            default_deadline_s=self._config.deadline_s,
            caller=guest.caller,
            sees_addresses=guest.is_admin,
        )

    async def _refuse(self, reply: Reply, path: str, error: SollolError) -> None:
        if error.body.code is ErrorCode.CANCELLED:
            return  # nobody is there to be told
        refused = refusal(dialect_of(path), error.body, path)
        self._metrics.refused(path if path in KIND_OF_PATH else OTHER, refused.status)
        headers = list(refused.headers)
        if refused.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        try:
            await reply.whole(refused.status, headers, refused.body)
        except SollolError as cut:
            log.info("the client was cut: %s", cut, extra={"action": "reader_cut"})


def _operator(guest: Guest, scope: Scope) -> Operator:
    client = scope.get("client")
    return Operator(who=guest.caller, host=socket.gethostname(), address=str(client[0]) if client else "")


def _origin_form(raw_path: bytes, query: bytes) -> str:
    path = raw_path.decode("latin-1")
    return f"{path}?{query.decode('latin-1')}" if query else path


def _header(headers: list[Header], wanted: bytes) -> bytes:
    for name, value in headers:
        if name == wanted:
            return value
    return b""


def _length(headers: list[Header]) -> int | None:
    text = _header(headers, b"content-length")
    return int(text) if text.isdigit() else None
