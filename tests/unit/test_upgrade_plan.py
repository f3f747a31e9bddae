"""In which order a fleet is upgraded, and what of it is not safe yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sollol_agents.cli.commands.findings import Level
from sollol_agents.cli.commands.upgrade import show_plan
from sollol_agents.cli.commands.upgrade_plan import Copies, Peer, Plan, Seen, StreamConfig, StreamSeen, plan_of
from sollol_agents.cli.output import Form, on_screen
from sollol_agents.cli.table import width_of
from sollol_agents.lab.testing.messages import model, node_view
from sollol_bus.transport.discovery import Service
from sollol_bus.transport.topology import ServerTold
from sollol_schemas import contract
from sollol_schemas.telemetry import NodeState

MODELS = (model(fingerprint="ollama:0123456789ab"),)


def server(name: str, **more: Any) -> ServerTold:
    usual = {"cluster": "sollol", "version": "2.12.1", "place": f"{name}.example:4222"}
    return ServerTold(server_id=name, server_name=name, **usual | more)


def service(role: str, number: int = 1, **told: str) -> Service:
    own = {"contract": "2", "contract_oldest": "1", "process": f"{role}-host:{number}", **told}
    return Service(name=f"sollol-{role}", id=f"{role}-{number}", version="0.1.0", metadata=own)


def stream(name: str = "SOLLOL_JOBS", copies: int = 3, *peers: Peer, leader: str = "a") -> StreamSeen:
    return StreamSeen(StreamConfig(name, copies), cluster=Copies(leader, peers))


STANDING = {"office": "stands by"}
HOLDING = {"office": "held"}
SERVICES = (
    service("gateway", 1),
    service("gateway", 2),
    service("recorder", 1, **HOLDING),
    service("recorder", 2, **STANDING),
    service("dispatcher", 1),
    service("dispatcher", 2),
    service("scorer", 1, **HOLDING),
    service("scorer", 2, **STANDING),
)
SERVERS = (server("a"), server("b"), server("c"))
WHOLE: dict[str, Any] = {
    "servers": SERVERS,
    "services": SERVICES,
    "nodes": (node_view("n1", installed=MODELS, contract=2), node_view("n2", installed=MODELS, contract=2)),
    "streams": (stream(),),
}


def without(role: str, number: int) -> tuple[Service, ...]:
    return tuple(one for one in SERVICES if one.id != f"{role}-{number}")


def planned(**changed: Any) -> Plan:
    return plan_of(Seen(**WHOLE | changed))


def said(plan: Plan, level: Level) -> str:
    return "\n".join(f"{one.check}: {one.found}" for one in plan.findings if one.level is level)


def test_whoever_is_asked_goes_before_whoever_asks_and_who_stands_by_before_who_is_in_office() -> None:
    plan = planned()
    assert plan.is_safe, plan.findings
    assert [(one.number, one.what, one.name) for one in plan.steps] == [
        (1, "nats-server", "a"),
        (2, "nats-server", "b"),
        (3, "nats-server", "c"),
        (4, "node", "n1"),
        (5, "node", "n2"),
        (6, "scorer", "scorer-2"),
        (7, "scorer", "scorer-1"),
        (8, "recorder", "recorder-2"),
        (9, "recorder", "recorder-1"),
        (10, "dispatcher", "dispatcher-1"),
        (11, "dispatcher", "dispatcher-2"),
        (12, "gateway", "gateway-1"),
        (13, "gateway", "gateway-2"),
    ]
    assert {one.where for one in plan.steps if one.what == "gateway"} == {"gateway-host"}
    assert not [one for one in plan.findings if one.level is not Level.OK]


def test_a_server_without_others_is_not_said_to_have_its_clients_go_to_them() -> None:
    (alone,) = [one for one in planned(servers=(server("a", cluster=""),)).steps if one.what == "nats-server"]
    assert "others" not in alone.then
    assert "until it is back" in alone.then


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"servers": (server("a", cluster=""),)}, "one server: every connection breaks"),
        ({"servers": SERVERS[:2]}, "2 servers: a, b; while one of them is away, nothing can be stored"),
        ({"servers": (*SERVERS[:2], server("c", leaving=True))}, "c is leaving"),
        ({"silent": ("10.0.0.7:4222",)}, "no server answers at 10.0.0.7:4222"),
        ({"streams": (stream(copies=1),)}, "SOLLOL_JOBS: too few copies"),
        ({"streams": (stream("SOLLOL_JOBS", 3, Peer("b", current=False)),)}, "SOLLOL_JOBS: a copy is behind"),
        ({"streams": (stream("SOLLOL_JOBS", 3, Peer("b", current=True, offline=True)),)}, "SOLLOL_JOBS: a copy is"),
        ({"streams": (stream(leader=""),)}, "there is no leader"),
        ({"services": without("dispatcher", 2), "jobs": 3}, "refused (503) while it restarts, all others wait; 3 jobs"),
        ({"services": without("gateway", 2)}, "1 gateway: connections are refused"),
        ({"services": ()}, "no scorer"),
        ({"nodes": ()}, "no node is up"),
        ({"nodes": (node_view("n1", NodeState.DOWN, installed=MODELS),)}, "no node is up"),
        ({"nodes": WHOLE["nodes"][:1]}, "nobody but n1 has llama3:8b"),
        (
            {"services": (*without("dispatcher", 2), service("gateway", 3, process="dispatcher-host:1"))},
            "dispatcher, gateway are one process (dispatcher-host:1)",
        ),
        (
            {"services": (*SERVICES, service("scorer", 3, contract="9", contract_oldest="7"))},
            "scorer scorer-3 and this version",
        ),
    ],
)
def test_what_callers_would_notice_makes_it_unsafe(changed: dict[str, Any], told: str) -> None:
    plan = planned(**changed)
    assert not plan.is_safe
    assert told in said(plan, Level.PROBLEM)
    assert all(one.remedy for one in plan.findings if one.level is not Level.OK)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"services": without("scorer", 2)}, "1 scorer: requests wait"),
        ({"services": without("recorder", 2)}, "1 recorder: `why`"),
        ({"streams": None}, "only the control role may"),
        ({"servers": (*SERVERS[:2], msgspec.structs.replace(SERVERS[2], version="2.13.0"))}, "versions 2.12.1, 2.13.0"),
        ({"nodes": (WHOLE["nodes"][0], node_view("n2", installed=(model(fingerprint="ollama:9"),), contract=2))}, "n1"),
        ({"nodes": (WHOLE["nodes"][0], node_view("n2", installed=(model(),), contract=2))}, "goes on with answers"),
        ({"nodes": (WHOLE["nodes"][0], node_view("old", installed=MODELS))}, "node old: too old to hand answers over"),
        ({"services": (*SERVICES, Service(name="sollol-gateway", id="g0"))}, "gateway g0: too old"),
    ],
)
def test_what_only_takes_longer_is_told_and_is_safe(changed: dict[str, Any], told: str) -> None:
    plan = planned(**changed)
    assert plan.is_safe
    assert told in said(plan, Level.WARNING)


def test_a_gateway_that_shares_its_port_needs_no_second_one_that_runs_already() -> None:
    shared = service("gateway", 1, shares_port="yes")
    assert planned(services=(*without("gateway", 2)[1:], shared)).is_safe


def test_versions_fit_where_each_speaks_what_the_other_understands() -> None:
    assert contract.fits(2, 1, beside=1, beside_oldest=1)
    assert contract.fits(1, 1, beside=2, beside_oldest=1)
    assert not contract.fits(3, 2, beside=1, beside_oldest=1)
    assert not contract.fits(1, 1, beside=3, beside_oldest=2)
    assert set(contract.ADDED) == set(range(1, contract.CONTRACT + 1))
    assert contract.OLDEST <= contract.CONTRACT


@pytest.mark.parametrize("width", [60, 100, 140])
def test_the_plan_looks_as_it_was_kept(
    width: int, capsys: pytest.CaptureFixture[str], assert_kept: Callable[[str, str], None]
) -> None:
    plan = planned(services=without("dispatcher", 2), jobs=3)
    findings = [one for one in plan.findings if one.check != "versions"]  # which names this version
    with on_screen(Form.TABLE, width):
        show_plan(msgspec.structs.replace(plan, findings=tuple(findings)))
    shown = capsys.readouterr().out
    assert all(width_of(line) <= width for line in shown.splitlines())
    assert_kept(f"upgrade_{width}", shown)
