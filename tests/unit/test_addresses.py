"""Addresses of NATS servers and engines: what they may be, and where the user in one goes."""

from __future__ import annotations

import base64

import msgspec
import pytest

from sollol_agents.node.config import NodeConfig, engine_candidates, engine_url
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.http.origin import Origin, origin_of
from sollol_bus.errors import ConfigError
from sollol_bus.transport.connection import BusConfig


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:4222", "nats://localhost:4222"),
        ("nats://a:1, tls://b:2/", "nats://a:1,tls://b:2"),
        ("nats://[::1]:4222", "nats://[::1]:4222"),
        ("wss://hub.example/nats?x=1", "wss://hub.example/nats?x=1"),
    ],
)
def test_an_address_has_a_scheme_and_a_host(text: str, url: str) -> None:
    assert BusConfig(url=text).url == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" ", "missing"),
        ("nats://", "no host"),
        ("://", "begins with none of"),
        ("http://h:4222", "begins with none of"),
        ("nats://h:port", "cannot be read"),
        ("nats://h:99999", "cannot be read"),
        ("nats://h:0", "port is 0"),
        ("nats://[::1", "cannot be read"),
        ("nats://a,,nats://b", "missing"),
        ("nats://a b:4222", "spaces"),
        ("nats://h:4222/path", "follows"),
        ("nats://u:geheim@h:port", "cannot be read"),
        ("nats://u:geheim@a,nats://v:geheim@b", "several users"),
    ],
)
def test_what_cannot_be_an_address_is_refused_with_the_reason_and_without_its_password(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        BusConfig(url=text)
    assert "geheim" not in caught.value.message


def test_the_user_in_an_address_is_used_and_stands_there_no_longer() -> None:
    config = BusConfig(url="nats://me:gehe%40im@a:1,nats://b:2")
    assert (config.url, config.user, config.password) == ("nats://a:1,nats://b:2", "me", "gehe@im")
    assert "gehe" not in repr(config)
    again = msgspec.structs.replace(config, name="other")
    assert (again.url, again.user, again.password) == (config.url, "me", "gehe@im")


def test_a_token_in_an_address_is_a_password_without_a_user() -> None:
    config = BusConfig(url="nats://token@a:1")
    assert (config.url, config.user, config.password) == ("nats://a:1", None, "token")


def test_a_user_that_is_given_wins_over_the_one_in_the_address() -> None:
    config = BusConfig(url="nats://me:geheim@a:1", user="other", password="pw")
    assert (config.url, config.user, config.password) == ("nats://a:1", "other", "pw")
    config = BusConfig(url="nats://me:geheim@a:1", user="me")
    assert (config.user, config.password) == ("me", "geheim")


@pytest.mark.parametrize("text", ["http://me:ge%40heim@box:1/", "me:ge%40heim@box:1"])
def test_the_user_in_an_engines_address_goes_into_its_credentials(text: str) -> None:
    config = NodeConfig(url=text)
    assert {url for _, url in engine_candidates(config)} == {"http://box:1"}
    assert "heim" not in config.url + repr(config)
    assert base64.b64decode(config.engine_api_key.removeprefix("Basic ")) == b"me:ge@heim"


def test_an_engine_gets_a_key_or_a_user_but_not_both() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        NodeConfig(url="http://me:geheim@box:1", engine_api_key="key")
    assert NodeConfig(url="http://box:1/a@b", engine_api_key="key").url == "http://box:1/a@b"


@pytest.mark.parametrize(
    "text", ["http://box:99999", "http://box:0", "http://box:1?x=1", "http://box:1/a#b", "http://"]
)
def test_an_engines_address_that_leads_nowhere_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError, match="engine's URL"):
        EngineHttp(engine_url(text))


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://Box:11434/", Origin(False, "box", 11434, b"box:11434", b"")),
        ("http://box:80", Origin(False, "box", 80, b"box", b"")),
        ("https://box/v1/", Origin(True, "box", 443, b"box", b"/v1")),
        ("https://box:80", Origin(True, "box", 80, b"box:80", b"")),
        ("http://box:", Origin(False, "box", 80, b"box", b"")),
        ("http://[::1]:1", Origin(False, "::1", 1, b"[::1]:1", b"")),
        ("http://[::1]", Origin(False, "::1", 80, b"[::1]", b"")),
        ("http://me:pw@box:1/a", Origin(False, "box", 1, b"box:1", b"/a")),
        ("http://ä.de/ü b%20c", Origin(False, "xn--4ca.de", 80, b"xn--4ca.de", b"/%C3%BC%20b%20c")),
    ],
)
def test_where_an_engine_is_and_what_its_requests_say_of_that(url: str, origin: Origin) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "http://box:abc",
        "http://[::1",
        "http://a b",
        "ftp://box",
        "box:1",
        "http://box:1234567",
        "http://b\tx",
        "http://ü..x",
    ],
)
def test_what_is_no_address_of_an_engine_is_refused_in_words(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url="):
        EngineHttp(url)
