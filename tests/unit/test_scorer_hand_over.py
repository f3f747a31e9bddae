"""Which answers of a node may go on elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.lab.testing.messages import MODEL, model
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_agents.scorer.office.cuts import places_for_answers

SAME, OTHER = "ollama:0123456789ab", "ollama:ba9876543210"


@pytest.mark.parametrize(
    ("told", "may_go_on"),
    [
        ({"installed": (model(fingerprint=SAME),)}, True),
        ({"installed": (model(fingerprint=SAME),), "loaded": ()}, True),
        ({"installed": (model(fingerprint=OTHER),)}, False),
        ({"installed": (model(),)}, False),
        ({"installed": (model("mistral:7b", fingerprint=SAME),)}, False),
        ({"installed": (model(fingerprint=SAME),), "is_draining": True}, False),
        ({"installed": (model(fingerprint=SAME),), "slots": 0}, False),
    ],
    ids=["same", "not in memory", "another template", "no fingerprint", "another model", "draining", "no slots"],
)
def test_another_node_in_service_must_have_the_same(told: dict[str, Any], may_go_on: bool) -> None:
    fleet = Fleet()
    fleet.node("leaving", installed=(model(fingerprint=SAME),), is_draining=True)
    fleet.node("other", **told)
    nodes = fleet.core.fleet
    assert places_for_answers(nodes.nodes["leaving"], nodes) == ((MODEL,) if may_go_on else ())


def test_a_node_that_is_down_is_no_place() -> None:
    fleet = Fleet()
    fleet.node("leaving", installed=(model(fingerprint=SAME),))
    fleet.node("other", installed=(model(fingerprint=SAME),))
    fleet.tick(60.0)
    fleet.node("leaving")
    assert places_for_answers(fleet.core.fleet.nodes["leaving"], fleet.core.fleet) == ()


def test_what_cannot_go_on_anywhere_does_not_go_on_at_a_node_like_it() -> None:
    fleet = Fleet()
    fleet.node("leaving", installed=(model(),))
    fleet.node("other", installed=(model(),))
    assert places_for_answers(fleet.core.fleet.nodes["leaving"], fleet.core.fleet) == ()
