"""Feedback on a real bus: what the recorder takes, every scorer learns, once, also one that was away."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.lab.testing import messages
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.recorder.actor import Recorder
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import BadRequest, QueueFull, SollolError, error_from
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_schemas import subjects
from sollol_schemas.callers import word_of
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.feedback import FeedbackReply, FeedbackRequest
from sollol_schemas.headers import CALLER
from sollol_schemas.queries import WhyReply
from sollol_schemas.steering import ResetEvent, ResetKind
from sollol_schemas.subjects import Role

Started = Callable[..., Awaitable[Any]]


@pytest.fixture
async def started(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Started]:
    """Starts recorders, over the same database, and scorers."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(kind: type[Recorder | Scorer], **settings: Any) -> Recorder | Scorer:
            bus_config = BusConfig(url=nats_server.url, name=kind.name, inbox_prefix="_INBOX_ctl")
            actor: Recorder | Scorer
            if kind is Recorder:
                config = RecorderConfig(database=str(tmp_path / "recorder.sqlite3"), **settings)
                actor = Recorder(config, bus_config)
            else:
                actor = Scorer(ScorerConfig(warm_up_s=0.0, snapshot_every_s=0.1, **settings), bus_config)
            return await stack.enter_async_context(actor)

        yield start


async def answered(bus: Bus, request_id: str, caller: str = "", **decision: Any) -> None:
    """A model has answered a request."""
    told = messages.outcome(
        f"{request_id}-1", "n1", figures=Figures(actual_s=1.0), caller=word_of(caller), **({"model": "m"} | decision)
    )
    await publish_acked(bus, subjects.OUTCOME_EVENT.of("n1"), encode(told))


async def rate(bus: Bus, request_id: str = "", caller: str = "", **said: Any) -> FeedbackReply:
    headers = {CALLER: caller} if caller else None
    asked = encode(FeedbackRequest(request_id=request_id, **said))
    msg = await bus.request(subjects.FEEDBACK, asked, headers=headers, timeout_s=5.0)
    if (failure := error_of(msg)) is not None:
        raise error_from(failure)
    return decode(msg.data, FeedbackReply)


async def why(bus: Bus, request_id: str) -> WhyReply:
    return decode((await bus.request(subjects.WHY.of(request_id), timeout_s=5.0)).data, WhyReply)


def answers(scorer: Scorer, model: str = "m:latest", category: str = "testing") -> float:
    return scorer.core.qualities.expected(model, category).answers


async def test_every_scorer_learns_once_also_one_that_was_away_or_lost_all(started: Started, bus: Bus) -> None:
    await started(Recorder)
    scorer = await started(Scorer)
    await answered(bus, "r1", task_type="coding", coding_category="testing", group="g")
    reply = await rate(bus, "r1", score=0.2)
    assert reply == FeedbackReply(request_id="r1", model="m", group="g", category="testing", score=0.2)
    await eventually(lambda: answers(scorer) == 1.0)
    again = await rate(bus, "r1", success=True, latency_s=2.5, comment="on second thoughts")
    assert (again.score, again.is_replacement) == (1.0, True)
    assert (await rate(bus, "r1", score=1.0, latency_s=2.5)).is_replacement
    await rate(bus, model="m", category="testing", score=0.0)
    await eventually(lambda: answers(scorer) > 1.5)
    learnt = scorer.core.qualities.expected("m:latest", "testing")
    (view,) = (await why(bus, "r1")).feedback
    assert (view.score, view.latency_s, view.comment, view.category) == (1.0, 2.5, "", "testing")
    standby = await started(Scorer)
    await eventually(lambda: answers(standby) > 1.5)
    assert standby.core.qualities.expected("m:latest", "testing") == pytest.approx(learnt, abs=1e-3)


async def test_what_operators_had_forgotten_is_not_told_to_a_scorer_that_begins(started: Started, bus: Bus) -> None:
    recorder = await started(Recorder)
    for number, model in enumerate(("m", "other")):
        await answered(bus, f"r{number}", model=model, task_type="testing")
        await rate(bus, f"r{number}", score=0.0)
    await publish_acked(bus, subjects.RESET_EVENT, encode(ResetEvent(kind=ResetKind.QUALITY, model="M:latest")))
    await eventually(lambda: recorder.statistics().waiting == 0 and recorder.statistics().written >= 5)
    scorer = await started(Scorer)
    await eventually(lambda: answers(scorer, "other:latest") == 1.0)
    assert answers(scorer) == 0.0


async def test_feedback_that_comes_before_its_request_is_recorded_counts(
    started: Started, bus: Bus, tmp_path: Path
) -> None:
    await started(Recorder)
    early = await rate(bus, "r1", score=0.4)
    assert (early.is_waiting, early.model) == (True, "")
    theirs = await rate(bus, "r1", caller="alice", score=0.0)
    assert theirs.is_waiting, "nothing tells yet that the request is another's"
    await answered(bus, "r1", task_type="coding")

    async def is_shown() -> bool:
        with contextlib.suppress(SollolError):
            return [view.score for view in (await why(bus, "r1")).feedback] == [0.4]
        return False

    await eventually(is_shown)

    def waits() -> int:
        with contextlib.closing(sqlite3.connect(tmp_path / "recorder.sqlite3")) as database:
            return int(database.execute("SELECT count(*) FROM feedback_waiting").fetchone()[0])

    await eventually(lambda: waits() == 0)
    assert [view.score for view in (await why(bus, "r1")).feedback] == [0.4]


async def test_a_caller_rates_its_own_requests_and_no_model_as_such(started: Started, bus: Bus) -> None:
    await started(Recorder, feedback_per_minute=4)
    await answered(bus, "r1", "alice", task_type="coding")
    assert (await rate(bus, "r1", "alice", score=1.0)).model == "m"
    with pytest.raises(SollolError, match="nothing is recorded about request r1") as refused:
        await rate(bus, "r1", "bob", score=0.0)
    assert refused.value.body.code is ErrorCode.UNKNOWN_REQUEST
    with pytest.raises(SollolError, match="only operators may rate a model") as forbidden:
        await rate(bus, caller="alice", model="m", score=0.0)
    assert forbidden.value.body.code is ErrorCode.FORBIDDEN
    with pytest.raises(BadRequest, match="not a request id"):
        await rate(bus, "no id!", "bob", score=0.0)
    for _ in range(2):
        await rate(bus, "r1", "alice", score=1.0)
    with pytest.raises(QueueFull, match="4 feedback a minute"):
        await rate(bus, "r1", "alice", score=0.0)
    assert (await rate(bus, "r1", score=0.5)).is_replacement, "an operator corrects it"
    with pytest.raises(BadRequest, match="score"):
        await rate(bus, "r1", score=1.5)


async def test_a_member_speaks_under_its_own_name_whatever_it_says(tmp_path: Path) -> None:
    members = Members(tmp_path, {"alice": Role.CLIENT, "bob": Role.CLIENT, "control": Role.CONTROL})
    server_config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(server_config))
        control = members.bus_config("control", server.url)
        config = RecorderConfig(database=str(tmp_path / "recorder.sqlite3"))
        await stack.enter_async_context(Recorder(config, control))
        operator = await stack.enter_async_context(Client(control))
        alice, bob = [
            await stack.enter_async_context(Client(members.bus_config(name, server.url))) for name in ("alice", "bob")
        ]
        await answered(operator.bus, "r1", "alice", task_type="coding")
        assert (await alice.feedback("r1", success=True)).category == "coding"
        with pytest.raises(SollolError, match="nothing is recorded"):
            await bob.feedback("r1", success=False)
        with pytest.raises(SollolError, match="only operators"):
            await bob.feedback(model="m", success=False)
        with pytest.raises(SollolError):
            await rate(bob.bus, "r1", caller="alice", score=0.0)
        assert [view.score for view in (await alice.why("r1")).feedback] == [1.0]
        assert (await operator.feedback("r1", score=0.5)).is_replacement
