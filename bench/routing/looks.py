"""How long a look at running answers takes, on fleets of many nodes.

    python -m bench.routing.looks [--json]

All slots run answers that may be cut, and urgent requests wait: a look works out which answers give way to them. Then a
few slots of slow nodes come free, and each urgent request that could start there is asked about once more before it is
granted (`holds`). Figures are milliseconds of processor time, the least of three equal looks.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import msgspec

from bench.command import in_json
from bench.machine import describe
from bench.routing.decisions import Bench
from bench.routing.decisions import Setting as Fleet
from bench.routing.figures import quantile
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.grant import Granted, GrantRequest
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import InFlight, Telemetry

_SLOTS = 6
_TASK, _LESSONS, _LONG_TOKENS = "generation", 30, 2000
_ROUNDS = 40
_REPEATS = 3
_TOKENS_A_SECOND = 20
_URGENT, _URGENT_MOST = 9, 40
_AFTER_S = 0.1


class Setting(NamedTuple):
    """A fleet whose slots are all taken, and requests that wait."""

    nodes: int
    kinds: int
    """Of urgent requests: each may not run on another one of the nodes, and so waits in a line of its own."""
    waiting: int


SETTINGS = (Setting(6, 1, 20), Setting(24, 8, 60), Setting(100, 1, 60), Setting(100, 20, 60))


class Crowd(Bench):
    """A fleet that runs answers whose callers go on."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(Fleet(setting.nodes, 1, setting.waiting))
        self.kinds = setting.kinds
        self.spent: list[float] = []
        """Seconds that each `holds` took."""
        self._told: dict[str, int] = {}

    def _telemetry(self, i: int) -> Telemetry:
        told = super()._telemetry(i)
        installed = tuple(msgspec.structs.replace(m, fingerprint=f"ollama:{m.name}") for m in told.installed)
        return msgspec.structs.replace(told, slots=_SLOTS, installed=installed)

    def ask(self, priority: int) -> None:
        """A request comes."""
        asked = super().request()
        context = TaskContext(
            kind=RequestKind.CHAT,
            model=asked.context.model,
            task_type=_TASK,
            prompt_tokens=self.rng.randrange(50, 2000),
        )
        excluded = (f"n{self.rng.randrange(self.kinds)}",) if priority == _URGENT and self.kinds > 1 else ()
        fresh: GrantRequest = msgspec.structs.replace(
            asked, context=context, routing=Routing(priority=priority), is_resumable=True, excluded=excluded
        )
        self.running += [e for e in self.core.enqueue(fresh, self.now) if isinstance(e, Granted)]

    def stream(self, seconds: float) -> None:
        """Time passes, and every answer grows."""
        self.now += seconds
        for i, node in enumerate(list(self.core.fleet.nodes.values())):
            told = self._telemetry(i)
            self._seq += 1
            self.core.on_telemetry(msgspec.structs.replace(told, seq=self._seq, **self._says(node.node_id)), self.now)

    def _says(self, node_id: str) -> dict[str, Any]:
        seen = []
        for attempt in self.core.fleet.nodes[node_id].attempts.values():
            tokens = self._told[attempt.attempt_id] = self._told.get(attempt.attempt_id, 0) + _TOKENS_A_SECOND
            one = InFlight(
                attempt_id=attempt.attempt_id, model=attempt.model, output_tokens=tokens, has_first_token=True
            )
            seen.append(one)
        return {"in_flight": tuple(seen)}

    def fill(self) -> None:
        """Takes every slot with long answers, and lets requests of all ranks wait."""
        for _ in range(_LESSONS):
            self.core.lengths.learn("m0", _TASK, 1000, _LONG_TOKENS)
        slots = _SLOTS * self.setting.nodes
        for _ in range(2 * slots):
            if self.core.fleet.in_flight < slots:
                self.ask(self.rng.randrange(1, 6))
        for waiting in list(self.core.waiting)[self.setting.waiting :]:
            self.core.release(waiting.request_id, self.now)
        for _ in range(3):
            self.stream(1.0)


def measure(setting: Setting) -> dict[str, object]:
    """Both figures on one fleet."""
    runs = [_play(setting) for _ in range(_REPEATS)]
    looks, holds = ([min(same) for same in zip(*kind, strict=True)] for kind in zip(*runs, strict=True))
    return {
        "nodes": setting.nodes,
        "kinds": setting.kinds,
        "slots": setting.nodes * _SLOTS,
        "waiting": setting.waiting,
        "look_ms": _percentiles(looks),
        "holds_ms": _percentiles(holds),
    }


def _play(setting: Setting) -> tuple[list[float], list[float]]:
    bench = Crowd(setting)
    bench.fill()
    undo, looks, held = bench.core.undo, [], []
    for _ in range(_ROUNDS):
        bench.stream(1.0)
        while sum(w.priority == _URGENT for w in bench.core.waiting) < _URGENT_MOST:
            bench.ask(_URGENT)
        began = time.process_time()
        cuts = undo.cuts(bench.now)
        looks.append(time.process_time() - began)
        for cut in cuts:
            undo.refused(cut.attempt_id, bench.now)
    holds = undo.holds

    def timed(*asked: Any) -> bool:  # noqa: ANN401 passed on as it is
        began = time.process_time()
        is_held = holds(*asked)
        held.append(time.process_time() - began)
        return is_held

    undo.holds = timed  # type: ignore[method-assign, assignment]
    for _ in range(_ROUNDS):
        bench.now += _AFTER_S
        outcome = bench.end_one()
        effects = bench.core.on_outcome(outcome, bench.now)
        bench.running += [e for e in effects if isinstance(e, Granted)]
        undo.cuts(bench.now)
        bench.ask(_URGENT)
    return looks, held


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "asked": len(seconds),
        **{f"p{round(100 * q)}": round(1000 * quantile(ordered, q), 3) for q in (0.5, 0.95) if ordered},
        "most": round(1000 * ordered[-1], 3) if ordered else 0.0,
    }


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing.looks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    result = {"machine": describe(), "settings": [measure(s) for s in SETTINGS]}
    if arguments.json:
        print(in_json(result))
    else:
        for figures in result["settings"]:
            print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
