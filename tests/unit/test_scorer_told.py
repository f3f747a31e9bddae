"""What the scorer tells of its queue and of its settings."""

from __future__ import annotations

import msgspec
import pytest

from sollol_agents.lab.testing.messages import MODEL, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.office.steering import STEERABLE, limits_of_settings
from sollol_agents.scorer.office.views import nodes_answer
from sollol_schemas.queries import NodesReply
from sollol_schemas.routing import Routing


def test_what_waits_is_told_by_model_and_priority_the_most_first() -> None:
    fleet = Fleet()
    fleet.node()
    fleet.load("gpu1", "other-1")
    for number in range(3):
        fleet.ask(f"r{number}")
    fleet.ask("urgent", routing=Routing(priority=8))
    told = nodes_answer(fleet.core, fleet.now + 4.0, "s", b'{"is_queue_only":true}')
    assert isinstance(told, NodesReply)
    assert told.nodes == ()
    assert [(s.model, s.priority, s.count) for s in told.waiting] == [(MODEL, 5, 3), (MODEL, 8, 1)]
    assert {s.oldest_s for s in told.waiting} == {4.0}
    assert told.queued == 4
    for body in (b"", b"{}", b"null"):
        every = nodes_answer(fleet.core, 0.0, "s", body)
        assert isinstance(every, NodesReply)
        assert len(every.nodes) == 1


@pytest.mark.parametrize("name", STEERABLE)
def test_the_limits_that_are_told_are_those_that_hold(name: str) -> None:
    told = limits_of_settings()[name]
    assert told.text

    def holds(value: float) -> bool:
        try:
            msgspec.convert({name: value}, ScorerConfig)
        except msgspec.ValidationError:
            return False
        return True

    assert holds(told.default)
    assert holds(told.lowest) is not told.excludes_lowest
    assert holds(told.highest) is not told.excludes_highest
    assert not holds(told.lowest - 1)
    assert not holds(told.highest + 1)


def test_models_on_disk_are_taken_in_again_only_when_a_heartbeat_names_others() -> None:
    fleet = Fleet()
    fleet.node("a", installed=(model("one:latest"), model("two", size_gb=-1)))
    node = fleet.core.fleet.nodes["a"]
    first = node.installed
    assert first["two:latest"].size_bytes == 0
    fleet.node("a", installed=(model("two", size_gb=-1), model("one:latest")))
    assert list(node.installed) == ["two:latest", "one:latest"]
    fleet.node("a", installed=(model("one:latest"),))
    one = node.installed
    assert list(one) == ["one:latest"]
    fleet.node("a", installed=(model("one:latest"),))
    assert node.installed is one
    fleet.node("a", installed=(), loaded=(loaded("three"),))
    assert list(node.installed) == ["three:latest"]
    fleet.node("a", installed=(model("one:latest"),), loaded=())
    assert list(node.installed) == ["one:latest"]
