"""What the dashboard says is wrong, and what it says first."""

from __future__ import annotations

import pytest

from sollol_agents.fleet_view.node_rows import NodeRow
from sollol_agents.fleet_view.sparks import KEPT, STEP_S, History
from sollol_agents.fleet_view.troubles import Load, Trouble, concern_of, troubles

QUIET = Load(busy=0, slots=8, queued=0, requests=0, failures=0)


def row(node_id: str, state: str = "up", **known: object) -> NodeRow:
    made = NodeRow(id=node_id, state=state, **known)  # type: ignore[arg-type]
    concern, text = concern_of(made)
    return NodeRow(id=node_id, state=state, concern=concern, concern_text=text, **known)  # type: ignore[arg-type]


def said(*rows: NodeRow, load: Load = QUIET) -> list[tuple[str, str]]:
    return [(one.level, one.text) for one in troubles(rows, load)]


def test_a_fleet_without_trouble_says_nothing() -> None:
    assert said(row("a"), row("b", "draining"), row("c", "left")) == []


@pytest.mark.parametrize(
    ("known", "concern", "text"),
    [
        ({"state": "down", "reason": "no heartbeat for 5 s"}, 3, "no heartbeat for 5 s"),
        ({"is_reachable": False, "engine_detail": "refused"}, 3, "the engine does not answer: refused"),
        ({"is_reachable": False}, 3, "the engine does not answer"),
        ({"state": "suspect"}, 2, "heartbeats are late"),
        ({"breaker": "open", "broken_models": ("m",)}, 2, "breaker open for m"),
        ({"temperature_c": 93}, 2, "GPU at 93 °C"),
        ({"temperature_c": 85}, 1, "GPU at 85 °C"),
        ({"temperature_c": 84}, 0, ""),
        ({"ram_used_mib": 970, "ram_total_mib": 1000}, 1, "memory is 97% full"),
        ({"vram_used_mib": 999, "vram_total_mib": 1000}, 0, ""),
        ({"attempts": 20, "success_ratio": 0.85}, 1, "15% of its attempts fail"),
        ({"attempts": 19, "success_ratio": 0.5}, 0, ""),
        ({"state": "left", "is_reachable": False}, 0, ""),
    ],
)
def test_a_node_needs_a_person_as_much_as_it_fails_to_serve(known: dict[str, object], concern: int, text: str) -> None:
    made = row("a", **known)  # type: ignore[arg-type]
    assert (made.concern, made.concern_text) == (concern, text)


def test_nodes_with_the_same_trouble_are_told_in_one_sentence_and_the_worst_comes_first() -> None:
    rows = [row("hot", temperature_c=90), row("up"), *(row(name, "down") for name in ("d", "c"))]
    assert said(*rows) == [("bad", "c and d are down."), ("warn", "hot is under strain.")]
    assert said(row("up"), *(row(f"n{n}", "down") for n in range(5))) == [
        ("bad", "5 nodes are down: n0, n1, n2 and 2 more.")
    ]


def test_when_no_node_is_up_that_is_said_before_who_is_down() -> None:
    assert said(row("a", "down"))[0] == ("bad", "No node is up: nothing can be served.")


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load(8, 8, 40, 0, 0), [("warn", "40 requests wait, and 8 of 8 slots are busy.")]),
        (Load(8, 8, 9, 0, 0), []),
        (Load(8, 80, 40, 0, 0), []),
        (Load(0, 8, 0, 40, 3), [("warn", "3 of 40 attempts failed within the last minute.")]),
        (Load(0, 8, 0, 10, 3), [("bad", "3 of 10 attempts failed within the last minute.")]),
        (Load(0, 8, 0, 2, 2), []),
        (Load(0, 8, 0, 100, 3), []),
    ],
)
def test_a_queue_and_failures_are_told_when_they_are_many(load: Load, expected: list[tuple[str, str]]) -> None:
    assert said(row("a"), load=load) == expected


def test_while_the_bus_is_gone_nothing_else_is_told() -> None:
    found = troubles([row("a", "down")], QUIET, bus="The connection to NATS is lost.", has_scorer=False)
    assert found == (Trouble("bad", "The connection to NATS is lost.", "fleet"),)
    assert troubles([], QUIET, has_scorer=False)[0].text.startswith("No scorer is in office")


def test_curves_keep_four_minutes_and_forget_nodes_that_went() -> None:
    history = History()
    for slot in range(KEPT + 3):
        for moment in (0.0, 2.0):  # the first of five seconds counts
            history.add(1000.0 + slot * STEP_S + moment, {"tps": slot}, [NodeRow(id="a", state="up", tps=slot)], slot)
    shown = history.view(has_nodes=True)
    assert shown.fleet["tps"] == shown.nodes["a"] == list(range(3, KEPT + 3))
    assert history.view(has_nodes=False).nodes == {}
    history.add(2000.0, {"tps": 1.0}, [NodeRow(id="b", state="up")], 99)
    assert set(history.view(has_nodes=True).nodes) == {"b"}
    assert history.version == 99
