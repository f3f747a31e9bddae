"""Whether answers that go on are the answers that nothing disturbed, while something dies every two seconds.

    python -m bench.resume [--json] [--quick] [--out FILE] [--answers N] [--callers N] [--every S] [--seed N]
        [--temperature T]

A fleet of processes: llama.cpp servers with a model that counts down and with a small language model, emulated
machines, their nodes, a gateway and two dispatchers, each with a line to the bus of its own. Every question is asked
once undisturbed, in every dialect, streamed and not, over HTTP, the client library and as a job. Then all of them are
asked again and again while every two seconds a node or an engine is killed or a line is cut, and comes back.

`exact` answers have the same objects as the undisturbed one, each field of each event but those named in `VOLATILE` and
the names that are drawn for each answer. `pause_s` is the longest time between two pieces of a stream that went on.

With `--temperature` each question has a fixed seed. The countdown and the emulated engine say the same at any usual
temperature, and are held to it. The small language model's rests are drawn anew (`by_chance`): of every seam that is
told, the model is asked whether it might have said the next piece (`seams`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from bench.command import parser_of, started
from bench.resume.breakdown import Spans, summary
from bench.resume.comparing import VOLATILE, difference, events_of, normal, text_of
from bench.resume.questions import Heard, Question, questions
from bench.resume.rules import Hit
from bench.resume.seams import Seam, is_likely, seams_of
from bench.resume.stage import COUNTDOWN, EMULATED, SMOLLM, Load, Machines, Stage, smollm_file

BAR_S: Final = 1.5
"""Of pauses: 99 of 100 are shorter."""
_EXAMPLES: Final = 12
_TOLD_EVERY: Final = 20
_TOLD_FROM_S: Final = 0.02
_AT_ONCE: Final = 3
_PROMPTS: Final = {
    COUNTDOWN: ("count 600", "start at 500"),
    EMULATED: ("count down from 90", "tell a story"),
    SMOLLM: ("Write the numbers from 1 to 30.",),
}
"""The small language model's answer leads by .37 nats at every token. Where two lead by less than about .1, llama.cpp
itself may say another one when it reads a text as prompt than when it wrote it."""
_TOKENS: Final = {COUNTDOWN: 900, EMULATED: 90, SMOLLM: 50}


class Paused(NamedTuple):
    """The longest pause of a stream that went on."""

    pause_s: float
    until_mono_s: float
    whose: str
    request_id: str
    resumed: int


class Tally:
    """What came of the answers."""

    def __init__(self, references: dict[Question, list[Any]]) -> None:
        self.references = references
        """What undisturbed answers were."""
        self.rows: dict[str, Counter[str]] = defaultdict(Counter)
        self.examples: list[str] = []
        self.paused: list[Paused] = []
        self.quiet_s: list[float] = []
        self.seams: list[Seam] = []
        """Of answers by chance."""

    def note(self, question: Question, heard: Heard) -> None:
        """Counts one answer."""
        row = self.rows[f"{question.model} {question.name}"]
        row["answers"] += 1
        row["resumed"] += heard.resumed > 0
        row["times_resumed"] += heard.resumed
        if question.is_streamed and not heard.error:
            if heard.resumed:
                whose = f"{question.model} {question.name}"
                until = heard.paused_until_mono_s
                self.paused.append(Paused(heard.pause_s, until, whose, heard.request_id, heard.resumed))
            else:
                self.quiet_s.append(heard.pause_s)
        verdict, what = self._verdict(question, heard)
        row[verdict] += 1
        if verdict not in ("exact", "by_chance") and len(self.examples) < _EXAMPLES:
            self.examples.append(f"{question.model} {question.name} (resumed {heard.resumed}): {verdict}: {what}")
            print(self.examples[-1], file=sys.stderr, flush=True)

    def _verdict(self, question: Question, heard: Heard) -> tuple[str, str]:
        if heard.error:
            return "errors", heard.error
        if is_by_chance(question):
            self.seams += seams_of(question, heard)
            return "by_chance", ""
        events, wanted = events_of(heard), self.references[question]
        what = difference(normal(events), normal(wanted))
        if not what:
            return "exact", ""
        return ("same_text" if text_of(events) == text_of(wanted) else "different"), what

    @property
    def total(self) -> Counter[str]:
        """Of all ways together."""
        return sum(self.rows.values(), Counter[str]())


def is_by_chance(question: Question) -> bool:
    """Whether no two answers need be the same."""
    return question.model == SMOLLM and question.temperature > 0


async def seams_checked(stage: Stage, tally: Tally) -> dict[str, int]:
    """How many seams there are of answers by chance, and at how many the model would hardly go on like that."""
    unlikely = 0
    if tally.seams:
        async with httpx.AsyncClient(base_url=stage.engine_url(SMOLLM), trust_env=False, timeout=60.0) as http:
            for seam in tally.seams:
                if not await is_likely(http, seam):
                    unlikely += 1
                    tally.examples.append(f"unlikely at a seam: {seam}"[:300])
    return {"n": len(tally.seams), "unlikely": unlikely}


async def ask_all(stage: Stage, asked: list[Question], load: Load, tally: Tally, rng: random.Random) -> None:
    """Asks so many questions, by so many callers, while things die."""
    order = itertools.islice(itertools.cycle(rng.sample(asked, len(asked))), load.answers)

    async def call() -> None:
        for question in order:
            tally.note(question, await stage.asker.ask(question))
            if not tally.total["answers"] % _TOLD_EVERY:
                print(dict(tally.total), file=sys.stderr, flush=True)

    async def break_things() -> None:
        while True:
            await asyncio.sleep(load.every_s)
            await stage.hit(rng)

    breaking = asyncio.get_running_loop().create_task(break_things(), name="breaking")
    try:
        await asyncio.gather(*(call() for _ in range(load.callers)))
    finally:
        breaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await breaking
    await stage.all_back()


async def references(stage: Stage, asked: list[Question], *, at_once: int = _AT_ONCE) -> dict[Question, list[Any]]:
    """Every answer, undisturbed.

    Raises:
        RuntimeError: One of them is an error.
    """
    found: dict[Question, list[Any]] = {}
    left = iter(asked)

    async def ask() -> None:
        for question in left:
            heard = await stage.asker.ask(question)
            if heard.error:
                raise RuntimeError(f"undisturbed, {question}: {heard.error}")
            found[question] = events_of(heard)

    await asyncio.gather(*(ask() for _ in range(at_once)))
    return found


def models(*, is_small: bool = False) -> dict[str, tuple[str, ...]]:
    """What is asked of which model."""
    there = [COUNTDOWN, EMULATED, *([SMOLLM] if smollm_file() is not None and not is_small else [])]
    return {model: _PROMPTS[model][: 1 if is_small else 2] for model in there}


def pauses_of(tally: Tally, model: str) -> dict[str, float | int]:
    """The pauses of streams of a model that went on; of all models where none is named."""
    pauses = sorted(one.pause_s for one in tally.paused if one.whose.startswith(model))

    def share(part: float) -> float:
        return round(pauses[min(len(pauses) - 1, int(part * len(pauses)))], 3)

    return {"n": len(pauses), "p50": share(0.5), "p90": share(0.9), "p99": share(0.99)} if pauses else {"n": 0}


def parts_of(tally: Tally, logs: list[str]) -> dict[Paused, dict[str, float]]:
    """What each pause was made of, where the fleet's spans tell."""
    spans, wall_s = Spans(), time.time() - time.monotonic()
    for log in logs:
        spans.read(log)
    found = {}
    for one in tally.paused:
        ended_s = wall_s + one.until_mono_s
        if (parts := spans.breakdown(one.request_id, ended_s - one.pause_s, ended_s)) is not None:
            found[one] = parts
    return found


def made_of(parts: dict[Paused, dict[str, float]], models: Iterable[str]) -> dict[str, Any]:
    """The stages of the pauses of each model, and of all."""
    return {"all": summary(parts.values())} | {
        model: summary(stages for one, stages in parts.items() if one.whose.startswith(model)) for model in models
    }


def longest_of(tally: Tally, hits: list[Hit], parts: dict[Paused, dict[str, float]]) -> list[str]:
    """The longest pauses: whose, what died meanwhile, and the stages in seconds."""
    return [
        f"{one.pause_s:.2f} s, {one.whose}: {', '.join(met_by(hits, one.pause_s, one.until_mono_s))}; "
        + ", ".join(f"{name} {value:.2f}" for name, value in parts.get(one, {}).items() if value >= _TOLD_FROM_S)
        for one in sorted(tally.paused, reverse=True)[:_EXAMPLES]
    ]


def met_by(hits: list[Hit], pause_s: float, until_mono_s: float) -> list[str]:
    """What died shortly before a pause or in it, and how long before its end."""
    began = until_mono_s - pause_s - 1.0
    return [
        f"{hit.name} {hit.kind} -{until_mono_s - hit.at_mono_s:.2f}"
        for hit in hits
        if began < hit.at_mono_s < until_mono_s
    ]


def figures_of(tally: Tally, hits: list[Hit], logs: list[str]) -> dict[str, Any]:
    """The figures of one run."""
    total, parts = tally.total, parts_of(tally, logs)
    models = sorted({question.model for question in tally.references})
    names = ("answers", "exact", "by_chance", "same_text", "different", "errors", "resumed", "times_resumed")
    return {
        **{name: total[name] for name in names},
        "died": Counter(hit.kind for hit in hits),
        "pause_s": {"all": pauses_of(tally, ""), "bar": BAR_S} | {model: pauses_of(tally, model) for model in models},
        "pause_made_of_s": made_of(parts, models),
        "gap_undisturbed_p99_s": round(sorted(tally.quiet_s)[int(0.99 * len(tally.quiet_s))], 3)
        if tally.quiet_s
        else None,
        "longest": longest_of(tally, hits, parts),
        "load": [round(one, 1) for one in os.getloadavg()],
        "volatile": sorted(VOLATILE),
        "ways": {name: dict(row) for name, row in sorted(tally.rows.items())},
        "examples": tally.examples,
    }


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, on one stage."""
    asked = questions(models(is_small=options.quick), _TOKENS, options.temperature)
    machines = (Machines(COUNTDOWN, 3, slots=4), Machines(EMULATED, 3, slots=8), Machines(SMOLLM, 3))
    load = Load(answers=options.answers, callers=options.callers, every_s=options.every)
    there = tuple(m for m in machines if m.model in {question.model for question in asked})
    async with Stage(folder, there) as stage:
        tally = Tally(await references(stage, asked))
        print(f"{len(asked)} questions answered undisturbed", file=sys.stderr, flush=True)
        await ask_all(stage, asked, load, tally, random.Random(options.seed))
        seams = await seams_checked(stage, tally)
        return figures_of(tally, stage.hits, await stage.logs()) | {"seams": seams}


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    lines = [
        f"{name:15}{figures[name]}"
        for name in figures
        if name not in ("ways", "examples", "longest", "volatile", "machine")
    ]
    return "\n".join([*lines, *figures["examples"], *figures["longest"]])


if __name__ == "__main__":
    parser = parser_of("bench.resume", __doc__)
    parser.add_argument("--answers", type=int, default=1000, help="how many answers while things die")
    parser.add_argument("--callers", type=int, default=6, help="how many ask at a time")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two deaths")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the questions, which then have a seed")
    parser.add_argument("--seed", type=int, default=1, help="of the order of questions and deaths")
    sys.exit(started(parser, measure, as_text))
