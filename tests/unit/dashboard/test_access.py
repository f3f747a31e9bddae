"""Who may look at the dashboard, and who may operate."""

from __future__ import annotations

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sollol_agents.dashboard.access import Person, Sessions, is_host_allowed, is_local, is_same_origin
from sollol_agents.dashboard.login import GuardedApp, session_id
from sollol_agents.dashboard.operations import OPERATIONS, Drain, operation
from sollol_bus.errors import BadRequest
from sollol_schemas.keys import ApiKey

DIGEST = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
KEY = ApiKey(
    key_id=DIGEST[:12], name="boss", created_at="2026-01-02T03:04:05.678Z", secret_sha256=DIGEST, is_admin=True
)


@pytest.mark.parametrize(
    ("authority", "allowed"),
    [
        ("localhost:8080", True),
        ("127.0.0.1", True),
        ("[::1]:8080", True),
        ("192.168.1.5:8080", True),
        ("fleet.example:8080", True),
        ("FLEET.example", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_only_hosts_of_ours_are_served(authority: str, allowed: bool) -> None:
    assert is_host_allowed(authority, ("fleet.example",)) is allowed


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        ("", True),
        ("http://127.0.0.1:8080", True),
        ("http://127.0.0.1:9", False),
        ("null", False),
        ("http://evil", False),
    ],
)
def test_a_page_of_another_site_is_another_origin(origin: str, same: bool) -> None:
    assert is_same_origin(origin, "127.0.0.1:8080") is same


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_loopback_is_this_machine_alone(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_without_keys_this_machine_operates_and_others_look() -> None:
    assert Sessions(require_key=False, is_local=True).person("", 0.0) == Person("", may_operate=True)
    assert Sessions(require_key=False, is_local=False).person("", 0.0) == Person("", may_operate=False)


def test_a_session_lasts_twelve_hours_and_no_longer_than_its_key() -> None:
    sessions = Sessions(require_key=True, is_local=True)
    assert sessions.person("", 0.0) is None
    sessions.know((KEY,))
    assert sessions.log_in("wrong", 0.0) == ""
    made = sessions.log_in(" secret ", 0.0)
    boss = sessions.person(made, 12 * 3600 - 1.0)
    assert boss is not None
    assert (boss.name, boss.may_operate) == ("boss", True)
    assert boss.owner, "her jobs are told from other people's"
    assert sessions.person(made, 12 * 3600.0) is None
    made = sessions.log_in("secret", 0.0)
    sessions.know(())
    assert sessions.person(made, 1.0) is None


def test_a_session_ends_when_somebody_logs_out() -> None:
    sessions = Sessions(require_key=True, is_local=True)
    sessions.know((KEY,))
    made = sessions.log_in("secret", 0.0)
    sessions.log_out(made)
    assert sessions.person(made, 0.0) is None


@pytest.mark.parametrize(
    ("cookies", "found"), [("a=b; sollol_session=xyz", "xyz"), ("a=b", ""), ("", ""), ("=;=\x01", "")]
)
def test_the_session_is_found_among_cookies(cookies: str, found: str) -> None:
    assert session_id(cookies) == found


def test_an_operation_is_checked_before_it_runs() -> None:
    assert operation("drain", {"node_id": "attic"}) == Drain(node_id="attic")
    with pytest.raises(BadRequest, match="no operation"):
        operation("format_disk", {})
    with pytest.raises(BadRequest, match="node_id"):
        operation("drain", {"node_id": "a.b"})
    with pytest.raises(BadRequest, match="extra"):
        operation("drain", {"node_id": "attic", "extra": 1})


def test_whoever_may_only_look_can_change_nothing_and_read_no_answers() -> None:
    assert {name for name, kind in OPERATIONS.items() if not kind.needs_admin} == {"connect", "node", "why"}


@pytest.mark.parametrize(
    ("path", "is_open"),
    [("/login", True), ("/healthz", True), ("/assets/page.js", True), ("/loginx", False), ("/healthz/../api", False)],
)
async def test_nothing_but_the_login_is_open_without_one(path: str, *, is_open: bool) -> None:
    served: list[str] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await Response()(scope, _receive, send)

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(_: Message) -> None:
        return

    guarded = GuardedApp(app, Sessions(require_key=True, is_local=True), ())
    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
    await guarded(scope, receive, send)
    assert bool(served) is is_open
