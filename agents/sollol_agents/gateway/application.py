"""The ASGI application: inference by a table, everything else by Starlette.

Starlette's routing and its request and response objects cost about as much as everything else that the gateway does
for a request; the paths that carry the load are therefore looked up here.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import socket
from collections.abc import Iterable, MutableMapping
from typing import Any, Final

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import Access, Guest
from sollol_agents.gateway.http.errors import TEXT, Header, refusal
from sollol_agents.gateway.http.metrics import Metrics
from sollol_agents.gateway.http.reply import Receive, Reply, Send, read_body
from sollol_agents.gateway.inference.request import HttpRequest, names_a_model, read_request
from sollol_agents.gateway.inference.serving import Inference
from sollol_agents.requests.dialects import KIND_OF_PATH, dialect_of
from sollol_agents.requests.paths import is_closed
from sollol_bus.errors import SollolError, error_from
from sollol_bus.transport.connection import Bus
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]

OTHER: Final = "other"
"""What metrics call paths that only an engine knows."""
NOT_FOUND: Final = b"404 page not found"
NOT_ALLOWED: Final = b"405 method not allowed"


class Gate:
    """The application.

    Args:
        config: Settings.
        bus: The gateway's connection.
        access: Knows the keys.
        inference: Serves inference.
        metrics: Counts what is refused here.
        others: Serves every other path; an ASGI application.
    """

    def __init__(
        self,
        config: GatewayConfig,
        bus: Bus,
        access: Access,
        inference: Inference,
        metrics: Metrics,
        others: Any,  # noqa: ANN401
    ) -> None:
        self._access = access
        self._config = config
        self._bus = bus
        self._inference = inference
        self._metrics = metrics
        self._others = others
        self._hosts = allowed_hosts(config)
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        reply = Reply(send, scope["state"]["connection"], self._config.reader_timeout_s)
        path = scope["path"]
        try:
            guest = self._admit(scope)
            guest.enter()
        except SollolError as error:
            await self._refuse(reply, path, error)
            return
        try:
            await self._serve(scope, receive, send, reply, guest)
        except SollolError as error:
            await self._refuse(reply, path, error)
        finally:
            guest.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, reply: Reply, guest: Guest) -> None:
        path = scope["path"]
        kind = KIND_OF_PATH.get(path)
        if kind is None and scope["method"] == "POST" and is_unknown(path, self._config.open_paths):
            kind = RequestKind.PASSTHROUGH
        if kind is None or scope["method"] != "POST":
            scope["state"]["guest"] = guest
            await self._others(scope, receive, send)
            return
        request = await self._read(scope, receive, kind, guest)
        if request is None:
            await reply.whole(404, [(b"content-type", TEXT)], NOT_FOUND)
            return
        await self._inference.serve(request, reply, scope["state"]["connection"])

    def _admit(self, scope: Scope) -> Guest:
        """Who makes the request, when it may come in at all.

        Raises:
            SollolError: It may not.
        """
        if self._hosts is not None and not is_allowed_host(_header(scope["headers"], b"host"), self._hosts):
            raise error_from(
                ErrorBody(
                    code=ErrorCode.FORBIDDEN,
                    message="this Host is not served here; name it with --hosts or SOLLOL_GATEWAY_HOSTS",
                )
            )
        return self._access.guest(scope["headers"], scope["path"])

    async def _read(self, scope: Scope, receive: Receive, kind: RequestKind, guest: Guest) -> HttpRequest | None:
        """The request with its body; None for a path that nobody knows without a model to send it to.

        Raises:
            SollolError: It cannot be used.
        """
        headers, path = scope["headers"], scope["path"]
        if self.is_draining:
            raise error_from(ErrorBody(code=ErrorCode.DRAINING, message="this gateway is shutting down"))
        if _header(headers, b"content-encoding") not in (b"", b"identity"):
            raise error_from(
                ErrorBody(code=ErrorCode.BAD_REQUEST, status=415, message="compressed bodies are not taken")
            )
        limit = min(self._config.max_body_bytes, self._bus.max_payload)
        body = await read_body(receive, _length(headers), limit, self._config.body_timeout_s)
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
            max_priority=guest.max_priority,
            default_deadline_s=self._config.deadline_s,
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


def is_unknown(path: str, opened: Iterable[str] = ()) -> bool:
    """Whether a path is none of ours and not closed, so that an engine may serve it."""
    return not path.startswith(_OUR_ROOTS) and path not in _OURS and not is_closed(path, opened)


_OUR_ROOTS: Final = ("/api/jobs", "/v1/models/", "/v1/files", "/v1/batches")
_OURS: Final = frozenset(
    {
        "/",
        "/api/version",
        "/api/status",
        "/api/tags",
        "/api/ps",
        "/api/show",
        "/api/stats",
        "/api/dashboard",
        "/api/route",
        "/api/why",
        "/v1/models",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }
)


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


def is_local(config: GatewayConfig) -> bool:
    """Whether only this machine can reach the gateway."""
    try:
        return config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        return False


def allowed_hosts(config: GatewayConfig) -> frozenset[str] | None:
    """The names by which requests may call us, or None for all.

    On a loopback address only names of this machine are served: a web page could otherwise give its own name our
    address and read every answer.
    """
    if "*" in config.hosts or not is_local(config):
        return None
    return frozenset({"", "localhost", socket.gethostname().lower(), *(host.lower() for host in config.hosts)})


def is_allowed_host(header: bytes, allowed: frozenset[str]) -> bool:
    """Whether a Host header names this machine."""
    return _is_allowed(header, allowed)


@functools.lru_cache(maxsize=256)
def _is_allowed(header: bytes, allowed: frozenset[str]) -> bool:
    name = header.decode("latin-1").lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in allowed or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private
