"""The parts of a played world in which one answer goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sollol_agents.dispatcher.requests.fence import AttemptFence
from sollol_agents.node.attempts.fence import Fence
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.execution import GO_S

PIECES: Final = 6
"""Of the whole answer."""

Step = Callable[[], None]


def said_in(text: str) -> list[tuple[int, str]]:
    """The pieces of a text: the number of each, and the attempt that said it."""
    pieces = [word.partition("@") for word in text.split()]
    return [(int(number), attempt) for number, _, attempt in pieces]


class Wires:
    """What is under way: in order between two, in any order else."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Step]] = {}

    def put(self, wire: str, arrive: Step) -> None:
        """Sends something."""
        self._queues.setdefault(wire, deque()).append(arrive)

    @property
    def busy(self) -> list[str]:
        """Wires with something on them."""
        return [wire for wire, queue in self._queues.items() if queue]

    def deliver(self, wire: str) -> None:
        """What was sent first arrives."""
        self._queues[wire].popleft()()

    def lose(self, wire: str) -> None:
        """What was sent first is lost."""
        self._queues[wire].popleft()

    def double(self, wire: str) -> None:
        """What was sent first arrives, and once more later."""
        arrive = self._queues[wire].popleft()
        self._queues[wire].append(arrive)
        arrive()


@dataclass
class PlayedAttempt:
    """One attempt, as its node and its dispatcher each know it."""

    number: int
    node: int
    dispatcher: int
    instance: int
    sending: Sending
    position: int
    node_side: Fence = field(default_factory=lambda: Fence(GO_S))
    dispatcher_side: AttemptFence = field(default_factory=lambda: AttemptFence(GO_S))
    messages: int = 0
    is_running: bool = False
    """Whether the node works on it."""

    @property
    def name(self) -> str:
        """Its id."""
        return f"r.{self.sending.number}.{self.number}"


@dataclass
class Sending:
    """The request as it was sent once, as its dispatcher holds it."""

    number: int
    inbox: str
    continued: ContinueFrom | None
    attempts: list[PlayedAttempt] = field(default_factory=list)
    is_over: bool = False


@dataclass
class PlayedNode:
    """One node's process."""

    instance: int = 1
    is_alive: bool = True
    is_frozen: bool = False
    attempts: list[PlayedAttempt] = field(default_factory=list)
    held: list[Step] = field(default_factory=list)
    """What was decided before it fell asleep and leaves when it wakes, and what came to it meanwhile."""


@dataclass
class PlayedDispatcher:
    """One dispatcher's process."""

    is_alive: bool = True
    held: dict[int, Sending] = field(default_factory=dict)
