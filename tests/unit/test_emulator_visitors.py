"""Which pages and hosts an emulated node lets in."""

from __future__ import annotations

import pytest

from sollol_agents.lab.emulator.http import Request
from sollol_agents.lab.emulator.names import full_name, is_of_cloud, is_valid
from sollol_agents.lab.emulator.origins import Visitors


def asked(origin: str, host: str = "127.0.0.1:11434") -> Request:
    return Request("GET", "/api/version", host.encode(), b"", is_persistent=True, origin=origin)


@pytest.mark.parametrize(
    ("origin", "allowed", "is_let_in"),
    [
        ("http://localhost:3000", (), True),
        ("https://0.0.0.0", (), True),
        ("vscode-webview://x", (), True),
        ("http://evil.example", (), False),
        ("http://localhost.evil.example", (), False),
        ("http://[::1]:3000", (), False),
        ("HTTP://LOCALHOST", (), False),
        ("null", (), False),
        ("null", ("*",), True),
        ("http://evil.example", ("http://evil.example",), True),
        ("http://evil.example:8080", ("http://evil.example",), False),
    ],
)
def test_pages_of_this_machine_and_named_ones_are_let_in(
    origin: str, allowed: tuple[str, ...], is_let_in: bool
) -> None:
    assert (Visitors("127.0.0.1", allowed).headers(asked(origin)) is not None) is is_let_in


def test_a_page_of_the_host_that_was_asked_needs_no_leave() -> None:
    assert Visitors("127.0.0.1", ()).headers(asked("http://evil.example", "evil.example")) == b""


@pytest.mark.parametrize(
    ("bound", "host", "is_known"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "foo.internal", True),
        ("127.0.0.1", "10.0.0.1", True),
        ("127.0.0.1", "ollama", False),
        ("127.0.0.1", "evil.example", False),
        ("0.0.0.0", "evil.example", True),
    ],
)
def test_only_on_a_loopback_address_are_names_of_hosts_looked_at(bound: str, host: str, is_known: bool) -> None:
    assert Visitors(bound, ()).knows_host(host) is is_known


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("a", True),
        ("library/a:b", True),
        ("local.test:5000/ns/m:t", True),
        ("", False),
        (":", False),
        ("a:", False),
        ("a b", False),
        (".a", False),
        ("../x", False),
        ("a//b", False),
        ("a/b/c/d", False),
        ("http://a/b", False),
        ("x" * 81, False),
        ("ü", False),
    ],
)
def test_names_are_checked_as_ollama_checks_them(name: str, is_right: bool) -> None:
    assert is_valid(name) is is_right


def test_a_name_has_a_registry_a_namespace_and_a_tag() -> None:
    assert full_name("a") == "registry.ollama.ai/library/a:latest"
    assert full_name("b/a:t") == "registry.ollama.ai/b/a:t"
    assert full_name("host:1/b/a") == "host:1/b/a:latest"


@pytest.mark.parametrize(
    ("name", "is_cloud"),
    [("foo:cloud", True), ("foo:7b-cloud", True), ("foo-cloud", False), ("foo:cloudy", False), ("cloud", False)],
)
def test_only_a_tag_means_the_cloud(name: str, is_cloud: bool) -> None:
    assert is_of_cloud(name) is is_cloud
