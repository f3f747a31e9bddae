"""Who may come in by which page and path, before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.gateway.http.origins import Origins
from sollol_agents.gateway.http.sending import in_one_piece, with_headers
from sollol_agents.gateway.http.spelling import redirect, respelled

PAGE = b"http://localhost:3000"


@pytest.mark.parametrize(
    "origin",
    [PAGE, b"https://127.0.0.1", b"http://0.0.0.0:1", b"app://x", b"file://", b"tauri://localhost", b"vscode-file://x"],
)
def test_pages_of_this_machine_and_of_programs_may_call(origin: bytes) -> None:
    told = dict(Origins(()).headers(origin, b"127.0.0.1:8000", is_preflight=False) or [])
    assert told[b"access-control-allow-origin"] == origin
    assert told[b"vary"] == b"Origin"


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"null",
        b"*",
        b"http://[::1]:3000",
        b"http://evil.localhost",
        b"http://localhost.evil.example",
        b"HTTP://LOCALHOST",
        b"chrome-extension://x",
    ],
)
@pytest.mark.parametrize("is_preflight", [True, False])
def test_any_other_page_may_not(origin: bytes, *, is_preflight: bool) -> None:
    assert Origins(()).headers(origin, b"127.0.0.1:8000", is_preflight=is_preflight) is None


def test_our_own_page_is_told_nothing() -> None:
    assert Origins(()).headers(b"http://box.local:8000", b"box.local:8000", is_preflight=False) == []


def test_an_operator_adds_origins_to_the_letter_or_all_of_them() -> None:
    added = Origins(("https://ai.example",))
    assert added.headers(b"https://ai.example", b"h", is_preflight=False)
    assert added.headers(b"http://ai.example", b"h", is_preflight=False) is None
    assert (b"access-control-allow-origin", b"*") in (Origins("*").headers(b"null", b"h", is_preflight=False) or [])


def test_a_browser_that_asks_first_is_told_what_it_may_send() -> None:
    told = dict(Origins(()).headers(PAGE, b"h", is_preflight=True) or [])
    assert b"X-Stainless-Poll-Helper" in told[b"access-control-allow-headers"]
    assert told[b"access-control-max-age"] == b"43200"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/chat", None),
        ("/api/chat/", ("/api/chat", True)),
        ("/nobody/", None),
        ("//api/chat", ("/api/chat", False)),
        ("/api/./x/../chat/", ("/api/chat/", False)),
        ("//", ("/", False)),
        ("/", None),
        ("*", None),
    ],
)
def test_a_path_that_is_spelled_otherwise_is_known_for_what_it_means(path: str, expected: object) -> None:
    assert respelled(path, lambda one: one == "/api/chat") == expected


def test_a_client_is_sent_to_the_right_path_and_nowhere_else() -> None:
    assert redirect("POST", "/api/chat", b"a=1", is_slash=True) == (307, [(b"location", b"/api/chat?a=1")], b"")
    status, _, page = redirect("GET", "/api/tags", b"", is_slash=True)
    assert (status, page) == (301, b'<a href="/api/tags">Moved Permanently</a>.\n\n')
    assert redirect("POST", "/\\evil.example\r\nx", b"", is_slash=False)[1] == [
        (b"location", b"/%5Cevil.example%0D%0Ax")
    ]


async def test_a_client_of_http_1_0_gets_an_answer_with_its_length() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    sending = in_one_piece(with_headers(send, [(b"vary", b"Origin")]))
    await sending({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await sending({"type": "http.response.body", "body": b"a", "more_body": True})
    await sending({"type": "http.response.body", "body": b"b", "more_body": False})
    assert sent[0]["headers"] == [(b"content-type", b"text/plain"), (b"content-length", b"2"), (b"vary", b"Origin")]
    assert sent[1]["body"] == b"ab"
