"""A world in which one answer goes on: caller, dispatchers, nodes and the bus between them, every step of it chosen.

The fences, the caller's stream and what travels with a request are the product's own; what is played here is time,
the order in which things happen, and everything that may be lost, delayed, said twice, killed, or put to sleep.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from sollol_agents.dispatcher.requests.fence import AttemptFence, Phase
from sollol_agents.lab.testing.going_on.caller import WHO, PlayedCaller
from sollol_agents.lab.testing.going_on.parts import (
    PIECES,
    PlayedAttempt,
    PlayedDispatcher,
    PlayedNode,
    Sending,
    Step,
    Wires,
    said_in,
)
from sollol_agents.node.attempts.fence import Fence, Verdict
from sollol_bus.transport.messages import encode, error_headers
from sollol_schemas import headers as h
from sollol_schemas.continuation import unpacked
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode

_FIGURES: Final = {"done_reason": "stop", "prompt_eval_count": 1, "eval_count": PIECES}


class World:
    """Everything, in one clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wires = Wires()
        self.nodes = [PlayedNode() for _ in range(3)]
        self.dispatchers = [PlayedDispatcher() for _ in range(2)]
        self.caller = PlayedCaller(self)

    def deliver_all(self) -> None:
        """Everything that is under way arrives."""
        for wire in self.wires.busy:
            self.wires.deliver(wire)

    def settle(self) -> None:
        """Everything under way arrives, and every engine works."""
        self.deliver_all()
        for node in self.nodes:
            for attempt in list(node.attempts):
                self.work(attempt)

    def calm(self) -> None:
        """Nothing is asleep, dead or cut off any more."""
        for node in self.nodes:
            if node.is_frozen:
                self.wake(node, notices=True)
            if not node.is_alive:
                self.start(node)
        for number, dispatcher in enumerate(self.dispatchers):
            if not dispatcher.is_alive:
                self.toggle_dispatcher(number)
        if not self.caller.is_connected:
            self.caller.reconnect()

    def pass_time(self) -> None:
        """Everybody looks after what is silent."""
        self.watch_over_attempts()
        self.caller.asks()
        self.now += 0.5
        self.caller.give_up_at_deadline()

    # -- the caller's view --------------------------------------------------------------------------------

    def send(self, resend: int, inbox: str, payload: bytes, headers: dict[str, str]) -> None:
        """A sending leaves to one dispatcher that lives, if any does."""
        alive = [number for number, one in enumerate(self.dispatchers) if one.is_alive]
        if alive:
            number = alive[resend % len(alive)]
            self.wires.put(f"c>d{number}", lambda: self.take(number, Sending(resend, inbox, None), payload, headers))

    def supersede(self, resend: int) -> None:
        """Whatever was sent up to this one is wanted no more."""
        for number, dispatcher in enumerate(self.dispatchers):
            self.wires.put(f"c>d{number}", partial(self._drop_up_to, resend, dispatcher.held))

    def _drop_up_to(self, resend: int, held: dict[int, Sending]) -> None:
        for number in [n for n in held if n <= resend]:
            self.drop(held.pop(number))

    def messages_of(self, attempt: str) -> int | None:
        """How many messages an attempt made before the last one; 0: it runs; None: nobody knows it."""
        made = [one for node in self.nodes for one in node.attempts if one.name == attempt]
        return None if not made else 0 if made[0].is_running else made[0].messages

    # -- dispatchers --------------------------------------------------------------------------------------

    def take(self, number: int, sending: Sending, payload: bytes, headers: dict[str, str]) -> None:
        """A dispatcher gets the request; what it holds of it already is superseded."""
        dispatcher = self.dispatchers[number]
        if not dispatcher.is_alive:
            return
        for older in [n for n in dispatcher.held if n < sending.number]:
            self.drop(dispatcher.held.pop(older))
        if sending.number in dispatcher.held or any(n > sending.number for n in dispatcher.held):
            return
        _, continued = unpacked(payload, headers)
        dispatcher.held[sending.number] = sending = Sending(sending.number, sending.inbox, continued)
        self.grant(number, sending, sending.number)

    def drop(self, sending: Sending) -> None:
        """Its caller has sent it again."""
        sending.is_over = True
        for attempt in sending.attempts:
            self.abandon(attempt)

    def abandon(self, attempt: PlayedAttempt) -> None:
        """From now on it may not speak."""
        attempt.dispatcher_side.abandon()
        self.to_node(attempt, lambda: self.stop(attempt, ErrorCode.CONNECTION_LOST, is_told=False))

    def grant(self, number: int, sending: Sending, draw: int) -> None:
        """Sends an attempt to a node on which it has not failed, or tells the caller that there is none."""
        continued = sending.continued
        tried = {attempt.node for attempt in sending.attempts}
        excluded = {int(node) for node in continued.excluded} if continued is not None else set()
        fit = [node for node in range(len(self.nodes)) if node not in tried | excluded]
        if not fit:
            self.refuse(number, sending, ErrorCode.NO_ELIGIBLE_NODE)
            return
        said = said_in(continued.text) if continued is not None else []
        node = fit[draw % len(fit)]
        attempt = PlayedAttempt(
            len(sending.attempts) + 1, node, number, self.nodes[node].instance, sending, position=len(said)
        )
        sending.attempts.append(attempt)
        self.to_node(attempt, lambda: self.accept(attempt))

    def refuse(self, number: int, sending: Sending, code: ErrorCode) -> None:
        """A dispatcher tells the caller that it failed."""
        sending.is_over = True
        error = ErrorBody(code=code, message="no", details={"node_id": str(sending.attempts[-1:] or "")})
        self.say(f"d{number}", sending.inbox, encode(error), "", error_headers(error))

    def lose(self, attempt: PlayedAttempt, *, is_dead: bool) -> None:
        """Its dispatcher holds the node for silent, for dead, or for one that hangs."""
        sending, fence = attempt.sending, attempt.dispatcher_side
        if sending.is_over or not fence.is_open or not self.holds(attempt):
            return
        has_streamed = fence.phase is Phase.STREAMING
        if not has_streamed and not is_dead and not fence.may_move(self.now):
            return
        self.abandon(attempt)
        if has_streamed:
            self.refuse(attempt.dispatcher, sending, ErrorCode.NODE_LOST)
        else:
            self.grant(attempt.dispatcher, sending, sending.number)

    def holds(self, attempt: PlayedAttempt) -> bool:
        """Whether the process that sent it lives, and has not forgotten it."""
        dispatcher = self.dispatchers[attempt.dispatcher]
        return dispatcher.is_alive and dispatcher.held.get(attempt.sending.number) is attempt.sending

    def is_gone(self, attempt: PlayedAttempt) -> bool:
        """Whether the process that was to run it is no more."""
        node = self.nodes[attempt.node]
        return not node.is_alive or node.instance != attempt.instance

    def toggle_dispatcher(self, number: int) -> None:
        """It dies with all it knows, or another one starts in its place."""
        dispatcher = self.dispatchers[number]
        dispatcher.is_alive = not dispatcher.is_alive
        dispatcher.held.clear()

    @property
    def held(self) -> list[PlayedAttempt]:
        """What dispatchers know of."""
        return [one for held in self.dispatchers for s in held.held.values() for one in s.attempts]

    def watch_over_attempts(self) -> None:
        """What dispatchers find out for themselves: attempts whose node is gone, or has not taken or kept them."""
        for attempt in self.held:
            if attempt.is_running:
                attempt.node_side.unanswered()
            else:
                self.lose(attempt, is_dead=self.is_gone(attempt))

    # -- nodes --------------------------------------------------------------------------------------------

    def to_node(self, attempt: PlayedAttempt, arrive: Step) -> None:
        """Something for the node, which reads it when it is awake."""
        node = self.nodes[attempt.node]

        def read() -> None:
            if node.is_frozen:
                node.held.append(arrive)
            elif node.is_alive:
                arrive()

        self.wires.put(f"d{attempt.dispatcher}>n{attempt.node}", read)

    def leave(self, node: PlayedNode, wire: str, arrive: Step) -> None:
        """Something leaves a node, or is in its hand while it sleeps."""
        if node.is_frozen:
            node.held.append(lambda: self.wires.put(wire, arrive))
        else:
            self.wires.put(wire, arrive)

    def accept(self, attempt: PlayedAttempt) -> None:
        """The node takes the attempt, and asks."""
        node = self.nodes[attempt.node]
        if attempt in node.attempts or attempt.instance != node.instance:
            return
        attempt.is_running = True
        node.attempts.append(attempt)
        attempt.node_side.accepted_sent(self.now)
        self.ask(attempt, AttemptFence.on_accepted, Fence.accepted_answered)

    def ask(self, attempt: PlayedAttempt, question: Any, heed: Any) -> None:  # noqa: ANN401 methods of the two fences
        """The node asks its dispatcher whether it may speak."""

        def answer() -> None:
            fence = attempt.dispatcher_side
            if not self.dispatchers[attempt.dispatcher].is_alive:
                self.to_node(attempt, lambda: attempt.node_side.nobody_listens(is_settling=False))
            elif question is AttemptFence.on_accepted:
                go = fence.on_accepted(self.now)
                self.to_node(attempt, lambda: heed(attempt.node_side, go=go))
            else:
                go = fence.on_start_asked()
                self.to_node(attempt, lambda: heed(attempt.node_side, go=go))

        self.leave(self.nodes[attempt.node], f"n{attempt.node}>d{attempt.dispatcher}", answer)

    def work(self, attempt: PlayedAttempt) -> None:
        """The engine has the next piece, or the end."""
        node = self.nodes[attempt.node]
        if node.is_frozen or not node.is_alive or not attempt.is_running:
            return
        match attempt.node_side.verdict(self.now):
            case Verdict.SPEAK:
                self.utter(attempt)
            case Verdict.ASK:
                attempt.node_side.start_sent()
                self.ask(attempt, AttemptFence.on_start_asked, Fence.start_answered)
            case Verdict.STOP:
                attempt.is_running = False
            case Verdict.WAIT:
                pass

    def utter(self, attempt: PlayedAttempt) -> None:
        """The next piece leaves, or the end."""
        if attempt.position > PIECES:
            self.end(attempt, None)
            return
        if not attempt.node_side.has_spoken:
            node = self.nodes[attempt.node]
            heard = attempt.dispatcher_side.on_first_token
            self.leave(node, f"n{attempt.node}>d{attempt.dispatcher}", heard)
            attempt.node_side.spoke()
        is_over = attempt.position == PIECES
        text = "" if is_over else f"{attempt.position}@{attempt.name} "
        line = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "response": text, "done": is_over}
        attempt.position += 1
        attempt.messages += 1
        first = {h.DECISION: encode(self.decision(attempt)).decode()} if attempt.messages == 1 else {}
        self.speak(attempt, encode(line | _FIGURES if is_over else line), str(attempt.messages), first)

    def decision(self, attempt: PlayedAttempt) -> Decision:
        """What the first message tells of it."""
        return Decision(
            request_id="r",
            attempt_id=f"r-{attempt.sending.number}-{attempt.number}",
            node_id=str(attempt.node),
            attempt=attempt.number,
            fingerprint="f",
        )

    def end(self, attempt: PlayedAttempt, code: ErrorCode | None) -> None:
        """The last words, and the report."""
        attempt.is_running = False
        if code is not None:
            attempt.messages += 1
            error = ErrorBody(code=code, message="no")
            self.speak(attempt, encode(error), str(attempt.messages), error_headers(error))
        self.speak(attempt, b"", "end", {h.CHUNKS: str(attempt.messages)})

    def stop(self, attempt: PlayedAttempt, code: ErrorCode, *, is_told: bool = True) -> None:
        """It is taken back, moved, or its engine fails: what has spoken says so."""
        if not attempt.is_running:
            return
        attempt.is_running = False
        if attempt.node_side.has_spoken:
            self.end(attempt, code)
        elif is_told:
            self.leave(self.nodes[attempt.node], f"n{attempt.node}>d{attempt.dispatcher}", lambda: self.failed(attempt))

    def stop_by_word(self, attempt: PlayedAttempt) -> None:
        """The scorer cuts it."""
        self.to_node(attempt, lambda: self.stop(attempt, ErrorCode.MOVED))

    def failed(self, attempt: PlayedAttempt) -> None:
        """Its dispatcher hears that it failed before it had spoken: another node begins."""
        if self.holds(attempt) and attempt.dispatcher_side.is_open and not attempt.sending.is_over:
            attempt.dispatcher_side.end()
            self.grant(attempt.dispatcher, attempt.sending, attempt.number)

    def speak(self, attempt: PlayedAttempt, data: bytes, last: str, headers: dict[str, str]) -> None:
        """A node's message to the caller."""
        reply = f"_INBOX_node.{attempt.node}.t.{attempt.name.replace('.', '-')}.{last}"
        heard = {**headers, WHO: attempt.name}
        self.leave(
            self.nodes[attempt.node],
            f"n{attempt.node}>{attempt.sending.inbox}",
            lambda: self.caller.hear(attempt.sending.inbox, data, reply, dict(heard)),
        )

    def say(self, who: str, inbox: str, data: bytes, reply: str, headers: dict[str, str]) -> None:
        """Somebody else's message to the caller."""
        self.wires.put(f"{who}>{inbox}", lambda: self.caller.hear(inbox, data, reply, dict(headers)))

    def fall_asleep(self, node: PlayedNode, act: Step | None = None) -> None:
        """A node is stopped; what it had just decided to say leaves when it wakes."""
        node.is_frozen = True
        if act is not None:
            act()

    def kill(self, node: PlayedNode) -> None:
        """A node's process ends without a word."""
        node.is_alive = node.is_frozen = False
        for attempt in node.attempts:
            attempt.is_running = False
        node.attempts, node.held = [], []

    def start(self, node: PlayedNode) -> None:
        """Another process in its place."""
        node.is_alive, node.instance = True, node.instance + 1

    def wake(self, node: PlayedNode, *, notices: bool) -> None:
        """A frozen node goes on where it was: what it had in its hand leaves, then what came to it is read."""
        node.is_frozen = False
        held, node.held = node.held, []
        for step in held:
            step()
        if notices:
            for attempt in node.attempts:
                attempt.node_side.void()
