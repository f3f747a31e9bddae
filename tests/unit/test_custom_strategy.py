"""The example of a strategy and a detector of one's own, installed the way `pip` installs it."""

from __future__ import annotations

import random
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sollol_agents.lab.testing.messages import MODEL, loaded, model, telemetry
from sollol_agents.requests.detector import detector_named
from sollol_agents.scorer import strategies
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.grant import RouteRequest
from sollol_schemas.routing import Routing

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_strategy"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's module and entry points as an installation leaves them on the path."""
    if not EXAMPLE.is_dir():
        pytest.skip("the examples are not beside the tests")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in project["entry-points"].items()
    ]
    metadata.joinpath("entry_points.txt").write_text("\n".join(groups))
    tmp_path.joinpath("green_power.py").write_text((EXAMPLE / "green_power.py").read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    caches = (strategies._installed, strategies._maker)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("green_power", None)


def fleet_of(labels: dict[str, dict[str, str]]) -> SchedulerCore:
    """A core that knows idle nodes with these labels, all alike otherwise."""
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0, seed=1), random.Random(1), 0.0)
    for node_id, own in labels.items():
        core.on_telemetry(telemetry(node_id, labels=own, installed=(model(),), loaded=(loaded(),)), 0.0)
    return core


@pytest.mark.usefixtures("installed")
def test_an_installed_strategy_is_listed_chosen_by_name_and_decides() -> None:
    assert "green_power" in strategies.available()
    core = fleet_of({"grey": {}, "roof": {"power": "solar"}, "coal": {"power": "coal"}})
    core.set_strategy("green_power")
    for number in range(5):
        context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=50)
        decision = core.route(RouteRequest(request_id=f"r{number}", context=context, routing=Routing()), 0.0)
        assert isinstance(decision, DecisionEvent)
        assert (decision.decision.node_id, decision.decision.strategy) == ("roof", "green_power")
        assert "surcharge" in decision.decision.reason


@pytest.mark.usefixtures("installed")
def test_an_installed_detector_is_chosen_by_name_and_falls_back_to_the_built_in_one() -> None:
    detector = detector_named("sql")
    assert detector.detect("SELECT name FROM users").coding_category == "coding"
    assert detector.detect("Summarize this letter").task_type == "summarization"


def test_a_strategy_that_is_not_installed_is_unknown_and_the_known_ones_are_named() -> None:
    strategies._installed.cache_clear()
    with pytest.raises(strategies.UnknownStrategy, match="known are plan"):
        strategies.strategy_named("green_power")
