"""What a node may be called beside its id, and whom the scorer takes such a name for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import telemetry
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, refused
from sollol_agents.node.machine.host import told_addresses
from sollol_agents.scorer.office.node_called import node_called
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.node_names import as_said, bearers, for_the_bus, place_of
from sollol_schemas.routing import InvalidRouting, Routing, parse_routing
from sollol_schemas.telemetry import EngineInfo, EngineKind, Telemetry


def at(node_id: str, url: str, host: str, *addresses: str) -> Telemetry:
    return telemetry(node_id, engine=EngineInfo(kind=EngineKind.OLLAMA, url=url), host=host, addresses=addresses)


NODES = (
    at("attic", "http://127.0.0.1:11434", "attic.lan", "10.9.66.250", "fd00::250"),
    at("attic-2", "http://localhost:11435", "attic.lan", "10.9.66.250", "fd00::250"),
    at("cellar", "http://127.0.0.1:11434", "Cellar", "10.9.66.48"),
    at("nas", "http://nas.lan:8080", "nas.lan", "10.9.66.7"),
    at("web", "https://gpu.example/ollama", "gpu.example", "192.0.2.7"),
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("attic", ["attic"]),  # the id wins over the host
        ("attic.lan", ["attic", "attic-2"]),
        ("attic.lan:11435", ["attic-2"]),
        ("ATTIC.LAN:11434", ["attic"]),
        ("10.9.66.250", ["attic", "attic-2"]),
        ("http://10.9.66.250:11435/", ["attic-2"]),
        ("http://10.9.66.250:11434/v1", ["attic"]),
        ("[fd00::250]:11434", ["attic"]),
        ("fd00:0::250", ["attic", "attic-2"]),
        ("::ffff:10.9.66.48", ["cellar"]),
        ("cellar", ["cellar"]),
        ("CELLAR", ["cellar"]),
        ("cellar.lan", ["cellar"]),
        ("attic:11435", ["attic-2"]),
        ("http://nas.lan:8080", ["nas"]),
        ("nas.lan", ["nas"]),
        ("10.9.66.7:8080", ["nas"]),
        ("https://gpu.example", ["web"]),
        ("gpu.example:443", ["web"]),
        ("http://gpu.example", []),
        ("10.9.66.250:1", []),
        ("10.9.66", []),
        ("attic.wan", []),
        ("lan", []),
        ("localhost", ["cellar"]),
        ("localhost:11434", ["cellar"]),
        ("http://[::1]:11434", ["cellar"]),
        ("localhost:11435", []),
        ("http://[::1", []),
        ("a:b:c", []),
        (":11434", []),
        ("10.9.66.250:99999", []),
    ],
)
def test_a_name_means_the_nodes_that_are_called_so(name: str, found: list[str]) -> None:
    assert list(bearers(name, NODES, here="cellar")) == found


def test_localhost_of_a_host_without_a_node_means_the_one_engine_that_listens_to_its_own_machine_alone() -> None:
    assert bearers("localhost", NODES[2:], here="elsewhere") == ("cellar",)
    assert bearers("localhost", NODES, here="elsewhere") == ("attic", "attic-2", "cellar")
    assert bearers("localhost:11435", NODES, here="elsewhere") == ("attic-2",)
    assert bearers("127.0.0.1", NODES, here="attic.lan") == ("attic", "attic-2")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("localhost", "localhost@desk."),
        ("LOCALHOST:11434", "localhost@desk.:11434"),
        ("http://127.0.0.1:11434/", "127.0.0.1@desk.:11434"),
        ("::1", "localhost@desk."),
        ("0.0.0.0", "0.0.0.0@desk."),
        ("attic", "attic"),
        ("http://attic:1", "http://attic:1"),
    ],
)
def test_whoever_says_localhost_on_the_bus_says_which_host_that_is(name: str, told: str) -> None:
    assert for_the_bus(name, "desk") == told
    assert as_said(told).casefold() in (name.casefold().removeprefix("http://").rstrip("/"), "localhost", name)
    named_after_its_host = at("desk", "http://127.0.0.1:11434", "desk")
    if "desk." in told:
        assert bearers(told, [at("desk", "http://x:1", "x"), at("b", "http://127.0.0.1:11434", "desk")]) == ("b",)
        assert bearers(told, [named_after_its_host]) == ("desk",)


@given(st.text(max_size=40))
def test_no_text_breaks_the_search_for_a_name(text: str) -> None:
    place_of(text)
    found = bearers(text, NODES, here="cellar")
    assert set(found) <= {node.node_id for node in NODES}
    bearers(for_the_bus(text, "cellar"), NODES)
    as_said(text)


def test_a_routing_field_takes_every_name_that_fits_in_a_header() -> None:
    for name in ("10.9.66.250", "http://gpu-1:11434", "[fd00::1]:1", "localhost"):
        assert parse_routing({}, {"X-Sollol-Node-Id": name}).node_id == name
        assert parse_routing({"node_id": name}).node_id == name
    for bad in ("", "a b", "x" * 257, "gpu\n", "ünï"):
        with pytest.raises(InvalidRouting, match="node_id"):
            parse_routing({"node_id": bad})


def test_addresses_that_every_machine_has_are_not_told() -> None:
    found = ["127.0.0.1", "::1", "fe80::1%eth0", "00:11:22:33:44:55", "fd00::2", "10.0.0.9", "169.254.1.1", "10.0.0.10"]
    assert told_addresses(found) == ("10.0.0.9", "10.0.0.10", "fd00::2")
    assert len(told_addresses(f"10.0.0.{n}" for n in range(99))) == 16


# -- in the scorer --------------------------------------------------------------------------------------------


def fleet() -> Fleet:
    made = Fleet()
    for node in NODES:
        made.node(node.node_id, engine=node.engine, host=node.host, addresses=node.addresses)
    return made


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("name", "node_id"), [("10.9.66.48", "cellar"), ("http://attic.lan:11435", "attic-2"), ("nas.lan:8080", "nas")]
)
def test_a_request_goes_to_the_node_that_it_calls_by_its_address(name: str, node_id: str, *, strict: bool) -> None:
    made = granted(fleet().ask("r", routing=Routing(node_id=name, strict=strict)))
    assert made["r"].decision.node_id == node_id


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["10.9.66.250", "attic.lan", "127.0.0.1@attic.lan."])
def test_a_host_with_several_engines_means_any_of_them_and_no_other(name: str, *, strict: bool) -> None:
    stage = fleet()
    routing = Routing(node_id=name, strict=strict)
    made = granted([effect for n in range(3) for effect in stage.ask(f"r{n}", routing=routing)])
    chosen = [grant.decision.node_id for grant in made.values()]
    assert set(chosen) == {"attic", "attic-2"}
    assert all(grant.decision.rejected == {"not_chosen_node": 3} for grant in made.values())


def test_who_insists_on_a_host_hears_what_is_amiss_with_each_of_its_engines() -> None:
    stage = fleet()
    routing = Routing(node_id="attic.lan", strict=True, min_vram_gb=900.0)
    error = refused(stage.ask("r", routing=routing))["r"]
    assert error.code is ErrorCode.NO_ELIGIBLE_NODE
    assert "attic " in error.message
    assert "attic-2" in error.message
    assert "cellar" not in error.message


@pytest.mark.parametrize("strict", [True, False])
def test_a_name_of_several_machines_is_refused_with_the_candidates(*, strict: bool) -> None:
    stage = Fleet()
    for node in (at("a", "http://127.0.0.1:1", "desk.lan"), at("b", "http://127.0.0.1:2", "desk.wan")):
        stage.node(node.node_id, engine=node.engine, host=node.host)
    error = refused(stage.ask("r", routing=Routing(node_id="localhost@desk.", strict=strict)))["r"]
    assert error.code is ErrorCode.BAD_REQUEST
    assert error.message == "'localhost' names 2 nodes: a (port 1), b (port 2); say the id, or the port after the host"
    assert error.details == {"node": "localhost", "candidates": ["a", "b"]}


def test_a_refusal_says_the_name_as_its_caller_wrote_it() -> None:
    error = refused(fleet().ask("r", routing=Routing(node_id="127.0.0.1@desk.:1", strict=True)))["r"]
    assert "no node is known as '127.0.0.1:1'" in error.message


def test_of_two_nodes_with_one_name_the_one_that_is_down_is_not_meant() -> None:
    stage = fleet()
    stage.load("attic", has_left=True)
    made = granted(stage.ask("r", routing=Routing(node_id="10.9.66.250", strict=True)))
    assert made["r"].decision.node_id == "attic-2"


def test_a_name_that_nobody_bears_is_unknown_to_the_strict_and_a_reason_to_others() -> None:
    stage = fleet()
    error = refused(stage.ask("r1", routing=Routing(node_id="10.0.0.1", strict=True)))["r1"]
    assert error.code is ErrorCode.UNKNOWN_NODE
    assert "no node is known as '10.0.0.1'" in error.message
    reason = granted(stage.ask("r2", routing=Routing(node_id="10.0.0.1")))["r2"].decision.reason
    assert "10.0.0.1 is not available (asleep or not known)" in reason


def test_a_request_waits_for_the_node_that_it_calls_by_its_address() -> None:
    stage = Fleet(warm_up_s=2.0)
    stage.node("other")
    stage.ask("r", routing=Routing(node_id="10.9.66.48", strict=True))
    stage.now += 1.0
    cellar = NODES[2]
    made = granted(stage.node("cellar", engine=cellar.engine, host=cellar.host, addresses=cellar.addresses))
    assert made["r"].decision.node_id == "cellar"


def test_a_node_whose_address_changes_is_known_by_the_new_one() -> None:
    stage = fleet()
    routing = Routing(node_id="10.0.0.8", strict=True)
    assert "r1" in refused(stage.ask("r1", routing=routing))
    stage.node("cellar", addresses=("10.0.0.8",))
    assert granted(stage.ask("r2", routing=routing))["r2"].decision.node_id == "cellar"
    stage.end("r2-1", "cellar")
    stage.node("cellar", addresses=("10.0.0.9",))
    assert "r3" in refused(stage.ask("r3", routing=routing))


def test_operators_mean_the_same_by_a_name_as_requests_do() -> None:
    core = fleet().core
    node = node_called(core, "http://10.9.66.250:11435")
    assert not isinstance(node, ErrorBody)
    assert node.node_id == "attic-2"
    several, nobody = node_called(core, "attic.lan"), node_called(core, "10.0.0.1")
    assert isinstance(several, ErrorBody)
    assert isinstance(nobody, ErrorBody)
    assert (several.code, nobody.code) == (ErrorCode.BAD_REQUEST, ErrorCode.UNKNOWN_NODE)
