"""A world in virtual time in which candidates follow `Tenure`, and much goes wrong.

Messages are late or lost, processes are suspended, servers part, the store has no leader or is off, every clock shows
something else and runs a little faster or slower, and strangers write under the key.
It is a fake of the network and the store, not of the candidates' rules.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from sollol_bus.jetstream.tenure import REST_S, Found, Look, Probe, Tenure, TryStore, Wait, Write
from sollol_schemas.stores import Holder

_ANSWER_S = 1.0
_STALE_S = 10.0
"""So long a server that was the store's leader may go on answering questions."""


class World:
    """The store, the servers and what goes on between them.

    Args:
        seed: Of everything that happens.
        is_lone: Whether one server serves everybody.
        candidates: How many there are.
        trouble_s: For how long things go wrong; from then on all is well.
    """

    def __init__(self, seed: int, *, is_lone: bool, candidates: int, trouble_s: float) -> None:
        self.random = random.Random(seed)
        self.is_lone = is_lone
        self.now = 0.0
        self.trouble_s = trouble_s
        self.doubles: list[str] = []
        """What was seen where two were in office."""
        self.offices = 0
        """How often one began."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._history = [(0.0, Found(revision=0))]
        self._revision = 0
        self.away_until = 0.0
        """Until then the store answers nobody: it has no leader, or is off."""
        self.cut: set[int] = set()
        """Servers that do not reach the store."""
        self.candidates = [Member(self, f"c{n}", n % 3) for n in range(candidates)]
        for member in self.candidates:
            self.at(self.random.uniform(0, 1), member.step)
        self.at(self.random.uniform(0, 2), self._trouble)

    # -- time ---------------------------------------------------------------------------------------------

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Has something happen."""
        heapq.heappush(self._events, (max(when, self.now), next(self._count), act))

    def run(self, until: float) -> None:
        """Lets time pass."""
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heapq.heappop(self._events)
            act()
            held = self.holders()
            if len(held) > 1:
                self.doubles.append(f"{self.now:.3f}: {held}")
        self.now = until

    def holders(self) -> list[str]:
        """Who can act as the holder now: on a lone server nobody is heard without a connection."""
        return [m.name for m in self.candidates if m.tenure.is_held(m.clock()) and (m.is_joined or not self.is_lone)]

    # -- the store ----------------------------------------------------------------------------------------

    @property
    def found(self) -> Found:
        """What lies under the key."""
        return self._history[-1][1]

    def put(self, holder: Holder | None) -> int:
        """Stores a holder, or something that is none."""
        self._revision += 1
        self._history.append((self.now, Found(revision=self._revision, holder=holder)))
        return self._revision

    def reaches_store(self, member: Member) -> bool:
        """Whether a message of a candidate arrives there now."""
        return self.now >= self.away_until and member.is_joined and member.server not in self.cut

    def read(self, member: Member) -> Found | None:
        """What a candidate reads; in a part that was cut off it may be old."""
        if self.reaches_store(member):
            return self.found
        if not self.is_lone and member.is_joined and self.random.random() < 0.3:
            then = self.now - self.random.uniform(0, _STALE_S)
            return [found for at, found in self._history if at <= max(0.0, then)][-1]
        return None

    def write(self, write: Write) -> int | None:
        """A compare-and-set; None: beaten."""
        return self.put(write.holder) if self.found.revision == write.last else None

    # -- trouble ------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        if self.now >= self.trouble_s:
            self.cut.clear()
            return
        member = self.random.choice(self.candidates)
        for_s = self.random.choice((0.3, 1, 3, 8, 15)) * self.random.uniform(0.5, 1.5)
        match self.random.randrange(8):
            case 0 | 1:
                member.suspended_until = max(member.suspended_until, self.now + for_s)
            case 2 | 3:
                self._part(for_s)
            case 4:  # an election, or a disk that is full
                self.away_until = self.now + max(for_s, 2 * REST_S if self.is_lone else 0)
            case 5:
                member.cut_off(for_s)
            case 6:
                self.put(None)  # what a stranger wrote
            case 7:
                member.leave()
        self.at(self.now + self.random.expovariate(0.5), self._trouble)

    def _part(self, for_s: float) -> None:
        if self.is_lone:
            return
        self.cut = set(self.random.sample(range(3), self.random.randrange(3)))
        self.at(self.now + for_s, self.cut.clear)


class Member:
    """One candidate's process, with a clock of its own."""

    def __init__(self, world: World, name: str, server: int) -> None:
        self.world, self.server = world, 0 if world.is_lone else server
        self.name = name
        self.suspended_until = 0.0
        self.is_joined = True
        """Whether its server has it connected."""
        self._rate, self._offset_s = world.random.uniform(0.97, 1.03), world.random.uniform(0, 1e6)
        self._lives = itertools.count(1)
        self.tenure = Tenure(f"{name}-0", tenure_s=3, has_probe=world.is_lone)
        self._turn = 0

    def clock(self) -> float:
        """Its own time."""
        return self._offset_s + self._rate * self.world.now

    def step(self) -> None:
        """Does what is to be done now, as soon as the process runs."""
        world = self.world
        if self._is_suspended(self.step):
            return
        self._turn += 1
        action = self.tenure.next(self.clock(), is_lone=world.is_lone)
        match action:
            case Wait():
                self._again(action.seconds / self._rate)
            case Look():
                self._ask(lambda: world.read(self), self._looked, self._looked_in_vain)
            case Probe():
                self._ask(lambda: self._hear_of(action.instance), self._probed, lambda: self._probed(None))
            case Write():
                sent_at = self.clock()
                self._ask(
                    lambda: (world.write(action),) if world.reaches_store(self) else None,
                    lambda answer: self._wrote(action, answer[0], sent_at),
                    self._wrote_in_vain,
                    is_write=True,
                )
            case TryStore():
                asked_at = self.clock()
                self._ask(
                    lambda: (world.now < world.away_until,) if self.is_joined else None,
                    lambda answer: self._tried(asked_at, is_off=answer[0]),
                    lambda: self._tried(asked_at, is_off=False),
                )

    def cut_off(self, for_s: float) -> None:
        """Its server drops it; the process notices later, and is connected anew."""
        if not self.is_joined:
            return
        self.is_joined = False
        self.world.at(self.world.now + for_s * self.world.random.random(), self._notice)

    def leave(self) -> None:
        """Ends in order, and is started again as a new instance."""
        if self._is_suspended(self.leave):
            return
        left = self.tenure.leave()
        if left is not None:
            write = Write(*left)
            delay_s = self._delay_s()
            self.world.at(self.world.now + delay_s, lambda: self._hand_over(write))
        self._turn += 1
        self.tenure = Tenure(f"{self.name}-{next(self._lives)}", tenure_s=3, has_probe=self.world.is_lone)
        self._again(self.world.random.uniform(0, 3))

    def _hand_over(self, write: Write) -> None:
        if self.world.reaches_store(self):
            self.world.write(write)

    def _notice(self) -> None:
        if self._is_suspended(self._notice):
            return
        self.tenure.disconnected(self.clock())
        self.world.at(self.world.now + self.world.random.uniform(0.01, 2), self._join)

    def _join(self) -> None:
        self.is_joined = True
        self.server = self.server if self.world.is_lone else self.world.random.randrange(3)

    def _is_suspended(self, act: Callable[[], None]) -> bool:
        if self.world.now < self.suspended_until:
            self.world.at(self.suspended_until, act)
            return True
        return False

    def _again(self, after_s: float) -> None:
        turn = self._turn
        self.world.at(self.world.now + after_s, lambda: self.step() if turn == self._turn else None)

    def _delay_s(self) -> float:
        if self.world.now >= self.world.trouble_s:
            return 0.001
        return self.world.random.choice((0.001, 0.01, 0.2, self.world.random.uniform(0, 1)))

    def _ask(
        self,
        act: Callable[[], Any],
        on_answer: Callable[[Any], None],
        on_none: Callable[[], None],
        *,
        is_write: bool = False,
    ) -> None:
        """A question that arrives some time later, and its answer; whichever comes first, that or the time limit."""
        world, turn = self.world, self._turn
        is_lost = world.now < world.trouble_s and world.random.random() < 0.05
        late_s = world.random.uniform(0, 20) if is_write and is_lost else 0.0  # held back on the way

        def end(then: Callable[[], None]) -> None:
            if turn != self._turn or self._is_suspended(lambda: end(then)):
                return
            then()
            self.step()

        def arrive() -> None:
            answer = act()
            if answer is None:
                if not is_lost:
                    world.at(world.now + self._delay_s(), lambda: end(on_none))
            elif not is_lost:
                world.at(world.now + self._delay_s(), lambda: end(lambda: on_answer(answer)))

        if not is_lost or late_s:
            world.at(world.now + self._delay_s() + late_s, arrive)
        world.at(world.now + _ANSWER_S, lambda: end(on_none))

    def _hear_of(self, instance: str) -> object | None:
        """Whether the server knows somebody who answers under this name; who is suspended does not."""
        if not self.is_joined:
            return None
        there = [m for m in self.world.candidates if m.is_joined and m.tenure._instance == instance]  # noqa: SLF001
        if not there:
            return ("gone",)
        return ("here",) if self.world.now >= there[0].suspended_until else None

    # -- answers ------------------------------------------------------------------------------------------

    def _looked(self, found: object) -> None:
        assert isinstance(found, Found)
        self.tenure.looked(found, self.clock(), is_lone=self.world.is_lone)

    def _looked_in_vain(self) -> None:
        self.tenure.looked_in_vain(self.clock())

    def _probed(self, answer: object) -> None:
        self.tenure.probed(is_gone=answer == ("gone",), is_slow=answer is None, now=self.clock())

    def _wrote(self, write: Write, revision: int | None, sent_at: float) -> None:
        was = self.tenure.term
        self.tenure.wrote(write, revision, sent_at, self.clock())
        self.world.offices += not was and bool(self.tenure.term)

    def _wrote_in_vain(self) -> None:
        self.tenure.wrote_in_vain(self.clock(), is_lone=self.world.is_lone)

    def _tried(self, sent_at: float, *, is_off: bool) -> None:
        self.tenure.tried_store(is_off=is_off, sent_at=sent_at, now=self.clock())
