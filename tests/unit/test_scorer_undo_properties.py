"""What holds of every cut, whatever runs and waits."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, gpu, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.continuation import CUTS_MAX, Continuation, Cut, CutReason
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import InFlight

CARDS = ("RTX 3060", "RTX 3070", "RTX 4090", "RTX A4000")
PRINTS = ("ollama:0123456789ab", "ollama:ba9876543210", "")

nodes = st.lists(
    st.tuples(st.sampled_from(CARDS), st.integers(1, 3), st.sampled_from(PRINTS), st.booleans()), min_size=1, max_size=4
)
requests = st.lists(
    st.tuples(st.integers(0, 10), st.integers(50, 4000), st.integers(20, 2000), st.booleans()), min_size=1, max_size=10
)


class Stage(Fleet):
    """A fleet whose answers stream, and whose callers go on with what is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = {}
        self.contexts: dict[str, tuple[TaskContext, int, bool]] = {}
        self.said: dict[str, int] = {}
        self.moved: dict[str, int] = {}

    def begin(self, request_id: str, *, priority: int, prompt: int, limit: int, resumes: bool) -> None:
        """Asks for an answer."""
        kind, task = RequestKind.CHAT, "generation"
        context = TaskContext(kind=kind, model=MODEL, prompt_tokens=prompt, max_output_tokens=limit, task_type=task)
        self.contexts[request_id] = (context, priority, resumes)
        self.again(request_id)

    def again(self, request_id: str) -> None:
        """Asks for the answer, or for the rest of it."""
        context, priority, resumes = self.contexts[request_id]
        number = self.numbers[request_id] = self.numbers.get(request_id, 0) + 1
        moved = self.moved.get(request_id, 0)
        going_on = Continuation(said_tokens=self.said[request_id], cuts=moved) if moved else None
        self.ask(
            request_id,
            number=number,
            context=context,
            routing=Routing(priority=priority),
            is_resumable=resumes,
            continuation=going_on,
        )

    def stream(self, seconds: float, tokens: int) -> None:
        """Time passes, and every answer grows."""
        self.now += seconds
        for node_id, node in self.core.fleet.nodes.items():
            running = tuple(
                InFlight(attempt_id=a.attempt_id, model=MODEL, output_tokens=a.tokens + tokens, has_first_token=True)
                for a in node.attempts.values()
            )
            self.load(node_id, in_flight=running, slots=self.told[node_id]["slots"])

    def carry_out(self, cut: Cut) -> None:
        """Moves an answer."""
        attempt = self.core.fleet.attempt(cut.attempt_id)
        assert attempt is not None
        self.said[cut.request_id] = attempt.continued_tokens + attempt.tokens
        self.moved[cut.request_id] = cut.cuts
        self.end(cut.attempt_id, cut.node_id, OutcomeStatus.FAILED, code=ErrorCode.MOVED)
        self.again(cut.request_id)


def made(fleet: list[tuple[Any, ...]], asked: list[tuple[Any, ...]]) -> Stage:
    stage = Stage()
    for i, (card, slots, fingerprint, is_loaded) in enumerate(fleet):
        stage.node(
            f"n{i}",
            gpus=(gpu(card),),
            slots=slots,
            installed=(model(fingerprint=fingerprint),),
            loaded=(loaded(),) if is_loaded else (),
        )
    for i, (priority, prompt, limit, resumes) in enumerate(asked):
        stage.begin(f"r{i}", priority=priority, prompt=prompt, limit=limit, resumes=resumes)
        if i % 3 == 2:
            stage.stream(2.0, 10)
    return stage


def check(stage: Stage, cut: Cut) -> None:
    """What must hold of one cut."""
    nodes, config = stage.core.fleet.nodes, stage.core.config
    attempt = stage.core.fleet.attempt(cut.attempt_id)
    assert attempt is not None
    assert attempt.is_resumable
    assert 1 <= cut.cuts <= CUTS_MAX
    assert cut.left_s > 2.0
    assert cut.gain_s > 0.0
    assert nodes[cut.to].installed[MODEL].fingerprint == attempt.fingerprint != ""
    assert nodes[cut.to].resident(MODEL) is not None
    if cut.reason is CutReason.REBALANCE:
        assert cut.to != cut.node_id
        assert cut.left_s - cut.moved_s > max(2.0, 0.3 * cut.left_s) - 1e-3
    else:
        urgent = stage.core.waiting.get(cut.in_favour_of)
        assert urgent is not None
        asked = stage.contexts[cut.request_id]
        assert urgent.rank(stage.now, config.ageing_s) > attempt.arrival_rank
        assert urgent.priority > asked[1] - 2.0 * config.size_clamp


@settings(max_examples=60, deadline=None)
@given(nodes, requests, st.integers(1, 5))
def test_every_cut_keeps_the_rules_and_is_named_once(
    fleet: list[tuple[Any, ...]], asked: list[tuple[Any, ...]], steps: int
) -> None:
    stage = made(fleet, asked)
    for _ in range(steps):
        stage.stream(3.0, 30)
        cuts = stage.core.undo.cuts(stage.now)
        assert len({c.attempt_id for c in cuts}) == len(cuts)
        urgent = [c.in_favour_of for c in cuts if c.in_favour_of]
        assert len(set(urgent)) == len(urgent), "one cut for each that gets a slot"
        for cut in cuts:
            check(stage, cut)
        assert stage.core.undo.cuts(stage.now) == []


@settings(max_examples=40, deadline=None)
@given(nodes, requests)
def test_nothing_is_moved_for_ever_nor_back_and_forth(
    fleet: list[tuple[Any, ...]], asked: list[tuple[Any, ...]]
) -> None:
    stage = made(fleet, asked)
    for _ in range(12):
        stage.stream(6.0, 5)
        for cut in stage.core.undo.cuts(stage.now):
            stage.carry_out(cut)
    assert all(count <= CUTS_MAX for count in stage.moved.values())
    running = sum(len(n.attempts) for n in stage.core.fleet.nodes.values())
    assert running + len(stage.core.waiting) <= len(asked), "nothing is doubled"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CARDS), st.sampled_from(CARDS), st.integers(50, 4000))
def test_a_move_is_never_undone_while_nothing_else_changes(first: str, second: str, prompt: int) -> None:
    stage = made([(first, 1, PRINTS[0], True)], [(5, prompt, 2000, True)])
    stage.stream(3.0, 30)
    stage.node("n1", gpus=(gpu(second),), slots=1, installed=(model(fingerprint=PRINTS[0]),), loaded=(loaded(),))
    moves = []
    for _ in range(10):
        for cut in stage.core.undo.cuts(stage.now):
            moves.append(cut)
            stage.carry_out(cut)
        stage.stream(6.0, 30)
    assert len(moves) <= 1
