"""Who belongs to a fleet: invitations, members, revocations, tokens, certificates. Pure."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.server.rights import permissions
from sollol_bus.transport.naming import caller_in
from sollol_bus.trust import tokens
from sollol_bus.trust.authority import (
    INVITED_S,
    Authority,
    admitted,
    claims_of_fleet,
    claims_of_member,
    invited,
    new_authority,
    new_secret,
    server_config,
    tls_config,
    without,
)
from sollol_bus.trust.certificates import fingerprint, new_ca, new_server
from sollol_bus.trust.claims import Kind, creds_text, is_user_key, new_seed, public_key
from sollol_schemas.instants import instant
from sollol_schemas.members import Member
from sollol_schemas.subjects import Role

NOW = 1_790_000_000.0
KEYS = [public_key(new_seed(Kind.USER)) for _ in range(6)]
AUTHORITY = new_authority(["hub:4222"])


def body_of(claims: str) -> dict[str, object]:
    text = claims.split(".")[1]
    decoded: dict[str, object] = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return decoded


def test_a_token_is_too_old_after_an_hour_and_is_used_once() -> None:
    secret = new_secret()
    authority = invited(AUTHORITY, "desk", Role.NODE, secret, now=NOW)
    with pytest.raises(SollolError, match=r"too old.*sollol invite node desk"):
        admitted(authority, secret, KEYS[0], machine="m", now=NOW + INVITED_S)
    authority, member = admitted(authority, secret, KEYS[0], machine="m", now=NOW + INVITED_S - 1)
    assert (member.name, member.role, member.key) == ("desk", Role.NODE, KEYS[0])
    with pytest.raises(SollolError, match=r"used already.*sollol fleet rotate desk"):
        admitted(authority, secret, KEYS[1], machine="m", now=NOW + INVITED_S - 1)


def test_a_second_invitation_of_a_name_takes_the_place_of_the_first() -> None:
    first, second = new_secret(), new_secret()
    authority = invited(AUTHORITY, "desk", Role.NODE, first, now=NOW)
    authority = invited(authority, "desk", Role.NODE, second, now=NOW)
    with pytest.raises(SollolError, match="none of this fleet's"):
        admitted(authority, first, KEYS[0], machine="", now=NOW)
    assert admitted(authority, second, KEYS[0], machine="", now=NOW)[1].name == "desk"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", ">", "x" * 65, "{{name()}}", "ü"])
def test_names_that_would_widen_rights_are_refused(name: str) -> None:
    with pytest.raises(SollolError, match="cannot be a name"):
        invited(AUTHORITY, name, Role.CLIENT, new_secret(), now=NOW)


def test_nobody_is_invited_as_a_newcomer_or_under_a_name_that_is_taken() -> None:
    with pytest.raises(SollolError, match="nobody yet"):
        invited(AUTHORITY, "desk", Role.NEWCOMER, new_secret(), now=NOW)
    secret = new_secret()
    authority, _ = admitted(
        invited(AUTHORITY, "desk", Role.NODE, secret, now=NOW), secret, KEYS[0], machine="", now=NOW
    )
    with pytest.raises(SollolError, match="is a member already"):
        invited(authority, "desk", Role.CLIENT, new_secret(), now=NOW)
    with pytest.raises(SollolError, match="is no member"):
        invited(authority, "attic", Role.NODE, new_secret(), now=NOW, again=True)
    with pytest.raises(SollolError, match="is no member; there are: desk"):
        without(authority, "attic", now=NOW)


def test_only_keys_of_users_are_admitted() -> None:
    assert is_user_key(KEYS[0])
    secret = new_secret()
    authority = invited(AUTHORITY, "desk", Role.NODE, secret, now=NOW)
    torn = KEYS[0][:-1] + ("A" if KEYS[0][-1] != "A" else "B")
    for key in ("", "U", "x" * 56, public_key(new_seed(Kind.ACCOUNT)), torn, KEYS[0] + "A", KEYS[0].lower()):
        with pytest.raises(SollolError, match="no public key"):
            admitted(authority, secret, key, machine="", now=NOW)


def test_claims_of_a_member_are_short_and_say_nothing_of_its_rights() -> None:
    """The server reads them on one line of at most 4 kB; what a role may do stands in the account's claims."""
    secret = new_secret()
    for role in (Role.CLIENT, Role.NODE, Role.CONTROL, Role.OBSERVER):
        authority = invited(AUTHORITY, "n" * 64, role, secret, now=NOW)
        authority, member = admitted(authority, secret, KEYS[0], machine="", now=NOW)
        claims = claims_of_member(authority, member, now=NOW)
        assert len(claims) < 1024
        told = body_of(claims)
        assert told["iss"] == public_key(authority.signing_seeds[role])
        assert set(msgspec.convert(told["nats"], dict[str, object])) == {"type", "version", "issuer_account", "tags"}


def test_no_private_key_is_in_what_the_server_gets_or_in_a_text_about_the_authority() -> None:
    shown = server_config(AUTHORITY, folder="/x") + repr(AUTHORITY) + claims_of_fleet(AUTHORITY, now=NOW)
    for seed in (AUTHORITY.operator_seed, AUTHORITY.account_seed, *AUTHORITY.signing_seeds.values()):
        assert seed not in shown


def test_a_template_for_the_name_never_widens_a_role() -> None:
    """Where the name stands in a subject it is one token of its own, and no inbox of others is left open."""
    for role in Role:
        allowed = permissions(role, "{{name()}}")
        for subject in (*allowed.publish, *allowed.subscribe):
            assert all(token == "{{name()}}" for token in subject.split(".") if "{" in token), subject
    assert "_INBOX_cli.>" not in permissions(Role.CLIENT, "{{name()}}").subscribe
    assert "_INBOX_cli.>" not in permissions(Role.OBSERVER, "{{name()}}").subscribe


class Life(RuleBasedStateMachine):
    """Whatever is asked of an authority, a key is a member's or revoked, and a secret admits once."""

    def __init__(self) -> None:
        super().__init__()
        self.authority: Authority = AUTHORITY
        self.now = NOW
        self.secrets: list[str] = []
        self.used: set[str] = set()
        self.keys: set[str] = set()

    @rule(name=st.sampled_from(["a", "b", "c"]), again=st.booleans())
    def invite(self, name: str, again: bool) -> None:
        secret = new_secret()
        try:
            self.authority = invited(self.authority, name, Role.NODE, secret, now=self.now, again=again)
        except SollolError:
            assert (name in self.authority.members) != again
        else:
            self.secrets.append(secret)

    @rule(which=st.integers(0, 20))
    def join(self, which: int) -> None:
        if not self.secrets:
            return
        secret = self.secrets[which % len(self.secrets)]
        key = public_key(new_seed(Kind.USER))
        try:
            self.authority, _ = admitted(self.authority, secret, key, machine="", now=self.now)
        except SollolError:
            return
        assert secret not in self.used
        self.used.add(secret)
        self.keys.add(key)

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def revoke(self, name: str) -> None:
        if name in self.authority.members:
            self.authority = without(self.authority, name, now=self.now)

    @rule(seconds=st.sampled_from([1.0, 1800.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def every_key_counts_or_is_revoked(self) -> None:
        alive = {member.key for member in self.authority.members.values()}
        assert alive | set(self.authority.revoked) == self.keys
        assert not alive & set(self.authority.revoked)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=20)


@given(
    addresses=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=4),
    mark=st.binary(min_size=32, max_size=32),
    secret=st.text(max_size=64),
)
def test_a_token_reads_as_it_was_written_whatever_a_terminal_does_to_it(
    addresses: list[str], mark: bytes, secret: str
) -> None:
    token = tokens.Token(tuple(addresses), mark, secret)
    text = tokens.written(token)
    assert tokens.read(text) == token
    assert tokens.read(f"  {text[:20]}\n   {text[20:]}\r\n") == token
    assert repr(token) == f"Token({', '.join(addresses)})"


@given(st.text(max_size=200))
def test_what_is_no_token_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        tokens.read(text)


def test_an_encrypted_server_gives_a_slow_machine_time_for_its_first_handshake() -> None:
    text = tls_config('/a "b"/server.pem', "/a/server.key")
    assert text.splitlines() == [
        "tls {",
        '  cert_file: "/a \\"b\\"/server.pem"',
        '  key_file: "/a/server.key"',
        "  timeout: 10",
        "}",
    ]


def test_the_servers_certificate_is_believed_under_its_names_and_by_its_own_authority_alone(tmp_path: Path) -> None:
    ca, other = new_ca(now=NOW), new_ca(now=NOW)
    own = new_server(ca, ["hub", "10.0.0.5", "::1"], now=NOW)
    assert fingerprint(ca.certificate) != fingerprint(other.certificate)
    (tmp_path / "s.pem").write_text(own.certificate)
    (tmp_path / "s.key").write_text(own.key)
    for authority, name, is_believed in (
        (ca, "hub", True),
        (ca, "10.0.0.5", True),
        (ca, "::1", True),
        (ca, "den", False),
        (other, "hub", False),
    ):
        assert _handshake(tmp_path, authority.certificate, name) == is_believed, name


def _handshake(folder: Path, ca: str, name: str) -> bool:
    """A handshake in memory, without a socket."""
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(folder / "s.pem", folder / "s.key")
    of_client = ssl.create_default_context(cadata=ca)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = of_client.wrap_bio(back, there, server_hostname=name)
    server = of_server.wrap_bio(there, back, server_side=True)
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


@pytest.mark.parametrize(
    ("role", "asks_as"), [(Role.CLIENT, "n1"), (Role.OBSERVER, "n1"), (Role.NODE, ""), (Role.CONTROL, "")]
)
def test_a_credentials_file_tells_under_which_name_its_owner_asks(role: Role, asks_as: str, tmp_path: Path) -> None:
    member = Member(name="n1", role=role, key=KEYS[0], joined_at=instant(NOW))
    path = tmp_path / "member.creds"
    path.write_text(creds_text(claims_of_member(AUTHORITY, member, now=NOW), new_seed(Kind.USER)))
    assert caller_in(str(path)) == asks_as
    told = "Asks on subjects below sollol.v1.as.n1 with the inbox prefix _INBOX_cli.n1"
    assert (told in path.read_text()) == bool(asks_as)


@pytest.mark.parametrize(
    "text",
    ["", "BEGIN NATS USER JWT", "-----BEGIN NATS USER JWT-----\na.b.c", "\xff", "BEGIN NATS USER JWT\na.e30.c"],
)
def test_a_credentials_file_that_cannot_be_read_names_nobody(text: str, tmp_path: Path) -> None:
    path = tmp_path / "member.creds"
    path.write_text(text, encoding="latin-1")
    assert caller_in(str(path)) == ""
    assert caller_in(str(tmp_path / "absent")) == ""
