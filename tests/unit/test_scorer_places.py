"""Conditions on the labels of nodes: hard ones decide who may serve a request, soft ones cost seconds."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import gpu
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, reasons, refused
from sollol_schemas.decision import DecisionEvent, RejectionReason
from sollol_schemas.errors import ErrorCode
from sollol_schemas.grant import GrantRequest
from sollol_schemas.label_terms import LabelTerm, label_terms, unmet
from sollol_schemas.routing import InvalidRouting, Routing, RoutingMode, parse_routing

NAMES, VALUES = st.sampled_from(["site", "gpu", "a.b/c"]), st.sampled_from(["office", "home", "a100", "h 100", "büro"])
TERMS = st.builds(LabelTerm, NAMES, st.lists(VALUES | st.just("*"), min_size=1, max_size=3).map(tuple), st.booleans())
LABELS = st.dictionaries(NAMES, VALUES, max_size=3)


@given(st.lists(TERMS, min_size=1, max_size=4))
def test_conditions_read_back_as_they_are_written(terms: list[LabelTerm]) -> None:
    assert label_terms(" , ".join(map(str, terms))) == tuple(terms)


@given(st.text(max_size=40))
def test_any_text_states_conditions_or_is_refused_in_words(text: str) -> None:
    refused_as = ""
    try:
        unmet(parse_routing({"where": text}).where or "", {})
    except InvalidRouting as error:
        refused_as = str(error)
    assert not refused_as or "write site=office" in refused_as


@pytest.mark.parametrize(
    "bad", ["site", "site=", "=office", "", "a=b,,c", "a>3", {"site": ["office"]}, [["a=b"]], 7, "a==b"]
)
@pytest.mark.parametrize("field", ["where", "prefer"])
def test_what_is_no_condition_is_refused_with_how_to_write_one(field: str, bad: object) -> None:
    with pytest.raises(InvalidRouting, match=rf"routing field {field}: .*write site=office, site!=cloud"):
        parse_routing({field: bad})
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: bad}, Routing)


def test_no_message_brings_a_condition_in_that_cannot_be_read() -> None:
    asked = {"request_id": "r", "number": 1, "context": {"kind": "chat", "model": "m"}, "routing": {"where": "x"}}
    with pytest.raises(msgspec.ValidationError, match="no condition on a label"):
        msgspec.convert({"type": "grant.request.v1", **asked}, GrantRequest)


def test_headers_win_and_hold_conditions_too() -> None:
    routing = parse_routing({"where": "site=home"}, {"x-sollol-where": "site=office", "X-Sollol-Prefer": "gpu=a100"})
    assert (routing.where, routing.prefer) == ("site=office", "gpu=a100")


def test_conditions_may_be_an_object_or_a_list() -> None:
    routing = parse_routing({"where": {"site": "office", "gpu": "a100"}, "prefer": ["site=home", "gpu!=old"]})
    assert (routing.where, routing.prefer) == ("site=office,gpu=a100", "site=home,gpu!=old")
    with pytest.raises(InvalidRouting, match="where"):
        parse_routing({"where": {"site": ["office"]}})


@pytest.mark.parametrize(
    ("where", "nodes"),
    [
        ("site=office", {"desk"}),
        ("site!=cloud", {"desk", "bare"}),
        ("gpu=a100,h100", {"rent"}),
        ("site=*", {"desk", "rent"}),
        ("site!=*", {"bare"}),
        ("site=cloud,office,gpu!=a100", {"desk"}),
    ],
)
def test_only_nodes_with_the_labels_serve_a_request(where: str, nodes: set[str]) -> None:
    fleet = Fleet()
    fleet.node("desk", labels={"site": "office"})
    fleet.node("rent", labels={"site": "cloud", "gpu": "a100"})
    fleet.node("bare")
    found = {fleet.place(f"r{n}", routing=Routing(where=where)) for n in range(len(nodes))}
    assert found == nodes
    assert set(reasons(fleet.effects).values()) == {RejectionReason.WRONG_LABELS}


def test_a_refusal_says_which_label_each_node_lacks_and_soft_lifts_it() -> None:
    fleet = Fleet()
    fleet.node("rent", labels={"site": "cloud"})
    fleet.node("bare")
    error = refused(fleet.ask("r1", routing=Routing(where="site=office")))["r1"]
    assert error.code is ErrorCode.NO_ELIGIBLE_NODE
    lacks = "rent (site=cloud, asked for site=office), bare (no site, asked for site=office)"
    assert f"other labels on 2: {lacks}" in error.message
    fleet.node("desk", labels={"site": "office"}, is_draining=True)
    soft = granted(fleet.ask("r2", routing=Routing(where="site=office", soft=True)))["r2"]
    assert soft.decision.node_id in ("rent", "bare")
    assert "soft" in soft.decision.reason


def test_patient_work_waits_for_no_node_that_would_not_do() -> None:
    fleet = Fleet()
    fleet.node("rent", labels={"site": "cloud"}, is_draining=True)
    asked = {"routing": Routing(where="site=office", routing_mode=RoutingMode.ASYNC)}
    assert "r1" in refused(fleet.ask("r1", **asked))
    fleet.node("desk", labels={"site": "office"}, is_draining=True)
    assert queued(fleet.ask("r2", **asked)) == ["r2"]


def test_a_label_that_changes_while_a_request_waits_counts_from_then_on() -> None:
    fleet = Fleet()
    fleet.node("desk", labels={"site": "office"}, slots=1)
    assert fleet.place("r1") == "desk"
    assert queued(fleet.ask("r2", routing=Routing(where="site=office"))) == ["r2"]
    fleet.node("rent", labels={"site": "cloud"})
    assert fleet.where("r2") == ""
    fleet.node("rent", labels={"site": "office"})
    fleet.tick(0.25)
    assert fleet.where("r2") == "rent"


def test_the_reason_names_what_was_asked_for() -> None:
    fleet = Fleet()
    fleet.node("desk", labels={"site": "büro"})
    fleet.node("rent", labels={"site": "cloud"})
    decision = granted(fleet.ask("r1", routing=Routing(where="site=büro")))["r1"].decision
    assert decision.reason == "only node with site=b\\xfcro"


@pytest.mark.parametrize(("prefer_s", "node"), [(60.0, "slow"), (0.01, "fast")], ids=["worth it", "not worth it"])
def test_a_preference_is_worth_seconds(prefer_s: float, node: str) -> None:
    fleet = Fleet(prefer_s=prefer_s)
    fleet.node("slow", labels={"site": "home"}, gpus=(gpu(name="GTX 1080"),))
    fleet.node("fast", gpus=(gpu(name="H100"),))
    event = next(e for e in fleet.ask("r1", routing=Routing(prefer="site=home")) if isinstance(e, DecisionEvent))
    assert event.decision.node_id == node
    assert {c.node_id: c.preference_s for c in event.candidates} == {"slow": 0.0, "fast": prefer_s}


@given(st.lists(st.tuples(LABELS, st.integers(1, 3)), min_size=1, max_size=5), st.lists(TERMS, min_size=1, max_size=2))
def test_no_request_ever_starts_where_a_condition_is_not_met(
    nodes: list[tuple[dict[str, str], int]], terms: list[LabelTerm]
) -> None:
    fleet = Fleet()
    for number, (labels, slots) in enumerate(nodes):
        fleet.node(f"n{number}", labels=labels, slots=slots)
    where = ",".join(map(str, terms))
    for number in range(6):
        fleet.ask(f"r{number}", routing=Routing(where=where))
        fleet.ask(f"free{number}")
    running = [(r, g.decision.node_id) for r, g in granted(fleet.effects).items()]
    for request_id, node_id in running[:3]:
        fleet.end(f"{request_id}-1", node_id)
    for request_id, granted_ in granted(fleet.effects).items():
        labels = nodes[int(granted_.decision.node_id[1:])][0]
        assert request_id.startswith("free") or all(term.is_met(labels) for term in terms)
