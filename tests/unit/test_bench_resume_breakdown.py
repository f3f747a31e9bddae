"""What a pause is made of, read from spans as the processes write them."""

from __future__ import annotations

import json
import math
from typing import Any

from bench.resume.breakdown import STAGES, Spans, summary

ID = "r1"
BEGAN_S = 1_000_000.0


def at(after_s: float) -> str:
    return f"1970-01-12T13:46:{40 + after_s:09.6f}Z"


def dispatcher(came_s: float, *granted: tuple[float, str]) -> dict[str, Any]:
    return {
        "context": {"trace_id": "t", "span_id": f"d{came_s}"},
        "parent_id": None,
        "start_time": at(came_s),
        "attributes": {"sollol.actor": "dispatcher", "sollol.request_id": ID},
        "events": [
            {"name": "attempt", "timestamp": at(when), "attributes": {"sollol.attempt_id": which}}
            for when, which in granted
        ],
    }


def engine(attempt_id: str, asked_s: float, first_s: float, **told: float) -> list[dict[str, Any]]:
    node: dict[str, Any] = {
        "context": {"trace_id": "t", "span_id": f"n{attempt_id}"},
        "parent_id": "d",
        "start_time": at(asked_s),
        "attributes": {"sollol.actor": "node", "sollol.attempt_id": attempt_id},
        "events": [],
    }
    first = {"name": "first token", "timestamp": at(first_s), "attributes": {"sollol.seam_s": told.get("seam_s", 0.0)}}
    call = {
        "context": {"trace_id": "t", "span_id": f"e{attempt_id}"},
        "parent_id": f"n{attempt_id}",
        "start_time": at(asked_s),
        "attributes": {"sollol.actor": "engine"} | ({"sollol.prompt_s": 0.2} if "seam_s" in told else {}),
        "events": [first],
    }
    return [call, node]


def read(*spans: dict[str, Any]) -> Spans:
    found = Spans()
    lines = [json.dumps(span) for span in spans]
    found.read("\n".join(['{"event": "ready"}', *lines, lines[0][:40]]))
    return found


def test_each_stage_of_a_pause_is_told_by_the_span_that_ends_it() -> None:
    spans = read(
        dispatcher(-3.0, (-2.9, "a1")),
        *engine("a1", -2.8, -2.0),
        dispatcher(0.2),
        dispatcher(0.7, (0.8, "a2"), (1.0, "a3")),
        *engine("a3", 1.1, 2.0, seam_s=0.3),
    )
    parts = spans.breakdown(ID, BEGAN_S, BEGAN_S + 2.1)
    assert parts is not None
    assert [round(parts[name], 3) for name in STAGES] == [0.2, 0.5, 0.1, 0.2, 0.1, 0.3, 0.6, 0.1]
    assert math.isclose(sum(parts[name] for name in STAGES), 2.1)
    assert parts["prompt_read"] == 0.2


def test_a_pause_in_which_nothing_was_sent_again_is_not_taken_apart() -> None:
    spans = read(dispatcher(-3.0, (-2.9, "a1")), *engine("a1", -2.8, -2.0))
    assert spans.breakdown(ID, BEGAN_S, BEGAN_S + 2.0) is None
    assert spans.breakdown("another", BEGAN_S - 4.0, BEGAN_S) is None


def test_the_stages_of_many_pauses_are_summed_up() -> None:
    told = [dict.fromkeys((*STAGES, "prompt_read"), float(n)) for n in range(100)]
    told[0]["prompt_read"] = math.nan
    figures = summary(told)
    assert figures["n"] == 100
    assert figures["decided"] == {"mean": 49.5, "p99": 99.0}
    assert figures["prompt_read"] == {"mean": 50.0, "p99": 99.0}
