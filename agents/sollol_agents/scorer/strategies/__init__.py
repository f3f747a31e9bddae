"""Strategies: how a node is picked among those that may serve a request.

Filtering, slots, the queue's order and the explanation are the same for all of them; a strategy only chooses
among candidates whose costs were worked out. Programs may add their own under the entry point group
`sollol.strategies`: a callable without arguments that returns a `Strategy`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from sollol_agents.scorer.strategies.adaptive import Affinity, Hybrid, Performance
from sollol_agents.scorer.strategies.base import Choice, Strategy
from sollol_agents.scorer.strategies.least_cost import LeastCost
from sollol_agents.scorer.strategies.seven_factor import SevenFactor
from sollol_agents.scorer.strategies.simple import LeastLoaded, RandomChoice, RoundRobin

__all__ = ["BUILT_IN", "Choice", "Strategy", "UnknownStrategy", "available", "prepare", "strategy_named"]

ENTRY_POINTS = "sollol.strategies"
_MAKERS: dict[str, Callable[[], Strategy]] = {
    "seven_factor": SevenFactor,
    "round_robin": RoundRobin,
    "least_loaded": LeastLoaded,
    "random": RandomChoice,
    "performance": Performance,
    "affinity": Affinity,
    "hybrid": Hybrid,
}
BUILT_IN = ("plan", *_MAKERS)


_NAME_SHOWN = 80


class UnknownStrategy(ValueError):
    """No strategy has this name, or it cannot be imported; the message lists those that exist."""


def available() -> tuple[str, ...]:
    """The names of all strategies: the built-in ones, then those that installed programs bring.

    The first call reads the metadata of installed programs from disk, later ones do not.
    """
    return (*BUILT_IN, *sorted(set(_installed()) - set(BUILT_IN)))


def prepare(name: str) -> None:
    """Imports the program that brings a strategy, so that `strategy_named` need not; nothing for an unknown name.

    Raises:
        UnknownStrategy: It cannot be imported.
    """
    if name not in BUILT_IN and name in _installed():
        _maker(name)


@functools.cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


@functools.cache
def _maker(name: str) -> Callable[[], Strategy]:
    try:
        maker: Callable[[], Strategy] = _installed()[name].load()
    except Exception as error:  # a program of others: whatever it raises, the scorer goes on as it was
        raise UnknownStrategy(f"strategy {name[:_NAME_SHOWN]!r} cannot be imported: {error!r}") from error
    return maker


def strategy_named(name: str, *, hold: float = 0.3) -> Strategy:
    """A fresh strategy by its name.

    Args:
        name: One of `BUILT_IN`, or of an installed entry point.
        hold: For `plan`: the share of the cost that waiting for a better node must save.

    Raises:
        UnknownStrategy: Nothing is known under this name.
    """
    if name == "plan":
        return LeastCost(hold=hold)
    if name in _MAKERS:
        return _MAKERS[name]()
    if name in _installed():
        return _maker(name)()
    raise UnknownStrategy(f"strategy {name[:_NAME_SHOWN]!r} is unknown; known are {', '.join(available())}")
