"""Requests: classes of work with lognormal lengths, arrivals, conversations, agents."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.routing.fleets import MODELS, ModelSpec


@dataclass(slots=True)
class Request:
    """One request with its true size, which only the engine (and the oracle) knows beforehand."""

    number: int
    arrival_s: float
    model: ModelSpec
    task: str
    prompt_tokens: int
    output_tokens: int
    priority: int = 5
    session: str | None = None
    prefix_hashes: tuple[str, ...] = ()
    prefix_tokens: tuple[int, ...] = ()
    follows: int | None = None
    """The request of the same conversation after whose answer, and `think_s`, this one comes."""
    think_s: float = 0.0
    said_tokens: int = 0
    """What attempts before have said of the answer."""
    spoke_at: float | None = None
    """When the first of them began to speak."""
    latency_s: float | None = None
    ttft_s: float | None = None
    is_failed: bool = False
    done_at: float = field(default=0.0)
    started_at: float | None = None
    """When the engine that answered it began with it."""
    machine_name: str = ""


class TaskClass(NamedTuple):
    """Lognormal prompt and output lengths of one kind of work; capped at 6000 and 2048 tokens."""

    name: str
    share: float
    prompt_median: float
    prompt_sigma: float
    output_median: float
    output_sigma: float
    model: str = "base:8b"

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Prompt and output tokens of one request."""
        prompt = rng.lognormvariate(math.log(self.prompt_median), self.prompt_sigma)
        if self.output_median == 0:
            return max(1, min(6000, round(prompt))), 0
        output = rng.lognormvariate(math.log(self.output_median), self.output_sigma)
        return max(1, min(6000, round(prompt))), max(1, min(2048, round(output)))


Classes = tuple[TaskClass, ...]

QUICK = TaskClass("quick", 0.25, 60, 0.8, 60, 0.7)
CHAT = TaskClass("chat", 0.30, 400, 1.0, 180, 0.8)
CODE = TaskClass("code", 0.15, 800, 1.0, 450, 0.7)
SUMMARY = TaskClass("summary", 0.15, 2500, 0.6, 150, 0.5)
DOCUMENT = TaskClass("document", 0.15, 1200, 0.8, 900, 0.6)
EMBED = TaskClass("embedding", 0.15, 250, 0.7, 0, 0.0, "embed:latest")
COMPLEX = (QUICK, CHAT, CODE, SUMMARY, DOCUMENT)
UNIFORM = (TaskClass("uniform", 1.0, 200, 0.0, 150, 0.0),)
MIXED = (
    EMBED,
    QUICK._replace(share=0.25, model="small:1.7b"),
    CHAT._replace(share=0.30),
    CODE._replace(share=0.15, model="large:14b"),
    SUMMARY._replace(share=0.10),
    DOCUMENT._replace(share=0.05, model="huge:27b"),
)
TALK = (CHAT._replace(share=0.7), CHAT._replace(name="chat14", share=0.3, model="large:14b"))
TEN_TOKENS = (TaskClass("ten", 1.0, 1, 0.0, 10, 0.0),)
AGENT_PREFIX_TOKENS = 4500
AGENT = (TaskClass("agent", 1.0, 300, 0.7, 150, 0.7),)
SHORT = (TaskClass("summarization", 1.0, 60, 0.3, 47, 0.3),)
"""Answers of 49 tokens, where the planner expects 199 of a task it knows nothing about."""
LONG = (TaskClass("generation", 1.0, 800, 0.5, 600, 0.4),)
SHORTER = (TaskClass("summarization", 1.0, 60, 0.3, 40, 0.3),)
LONGER = (TaskClass("classification", 1.0, 60, 0.3, 400, 0.3),)
"""Answers of 400 tokens, where the planner expects 20."""


def _draw(number: int, at: float, classes: Classes, rng: random.Random) -> Request:
    task = rng.choices(classes, [t.share for t in classes])[0]
    prompt, output = task.draw(rng)
    return Request(number, at, MODELS[task.model], task.name, prompt, output)


def poisson(classes: Classes, rate: float, count: int, rng: random.Random) -> list[Request]:
    """Independent requests with exponential gaps."""
    at, requests = 0.0, []
    for number in range(count):
        at += rng.expovariate(rate)
        requests.append(_draw(number, at, classes, rng))
    return requests


def prioritised(classes: Classes, rate: float, count: int, rng: random.Random) -> list[Request]:
    """Independent requests, 15 % urgent, 55 % normal, 30 % low."""
    requests = poisson(classes, rate, count, rng)
    for request in requests:
        request.priority = rng.choices([9, 5, 2], [15, 55, 30])[0]
    return requests


_SPIKE_S, _SPIKE_FACTOR, _SPIKE_EVERY_S = 15.0, 5.0, 180.0


def bursty(classes: Classes, rate: float, count: int, rng: random.Random) -> list[Request]:
    """Gamma gaps with a coefficient of variation of 2, and every 180 s or so a spike of five times the rate."""
    spare = 1.0 + (_SPIKE_FACTOR - 1.0) * _SPIKE_S / _SPIKE_EVERY_S
    base = rate / spare
    at, requests = 0.0, []
    spike_at = rng.expovariate(1.0 / _SPIKE_EVERY_S)
    for number in range(count):
        while at > spike_at + _SPIKE_S:
            spike_at += _SPIKE_S + rng.expovariate(1.0 / (_SPIKE_EVERY_S - _SPIKE_S))
        now_rate = base * (_SPIKE_FACTOR if spike_at <= at <= spike_at + _SPIKE_S else 1.0)
        at += rng.gammavariate(0.25, 4.0 / now_rate)
        requests.append(_draw(number, at, classes, rng))
    return requests


_TURNS_MEAN, _THINK_S = 5.0, 15.0


def conversations(classes: Classes, rate: float, count: int, rng: random.Random) -> list[Request]:
    """Conversations of about five turns with 15 s to think; each turn carries all that was said before."""
    at, talk = 0.0, 0
    requests: list[Request] = []
    while len(requests) < count:
        at += rng.expovariate(rate / _TURNS_MEAN)
        talk += 1
        task = rng.choices(classes, [t.share for t in classes])[0]
        turns = 1 + int(rng.expovariate(1.0 / (_TURNS_MEAN - 0.5)))
        talk_of = Talk(f"talk{talk}", at, first=len(requests), turns=min(turns, count - len(requests)))
        requests += _conversation(task, talk_of, rng)
    return requests


class Talk(NamedTuple):
    """One conversation."""

    name: str
    begins_at: float
    first: int
    turns: int


def _conversation(task: TaskClass, talk: Talk, rng: random.Random) -> Iterator[Request]:
    said = 0
    hashes: list[str] = []
    tokens: list[int] = []
    for turn in range(talk.turns):
        prompt, output = task.draw(rng)
        if turn > 0:
            prompt = min(prompt, 200)
        said += prompt
        yield Request(
            talk.first + turn,
            talk.begins_at if turn == 0 else math.inf,
            MODELS[task.model],
            task.name,
            said,
            output,
            session=talk.name,
            prefix_hashes=(*hashes, f"{talk.name}.{turn}"),
            prefix_tokens=(*tokens, said),
            follows=talk.first + turn - 1 if turn else None,
            think_s=rng.expovariate(1.0 / _THINK_S),
        )
        hashes.append(f"{talk.name}.{turn}")
        tokens.append(said)
        said += output


_AGENTS = 12


def agents(classes: Classes, rate: float, count: int, rng: random.Random) -> list[Request]:
    """Requests of twelve agents, each with its own long prompt beginning."""
    at, requests = 0.0, []
    for number in range(count):
        at += rng.expovariate(rate)
        request = _draw(number, at, classes, rng)
        agent = rng.randrange(_AGENTS)
        request.prompt_tokens += AGENT_PREFIX_TOKENS
        request.prefix_hashes = (f"agent{agent}", f"agent{agent}.{number}")
        request.prefix_tokens = (AGENT_PREFIX_TOKENS, request.prompt_tokens)
        requests.append(request)
    return requests


def clients(classes: Classes, count_of_clients: float, count: int, rng: random.Random) -> list[Request]:
    """One request for each client; the rest have no arrival, and are asked next by whoever is answered."""
    first = int(count_of_clients)
    return [_draw(number, 0.01 * number if number < first else math.inf, classes, rng) for number in range(count)]


_APART_S = 0.0002  # what one client needs to send the next


def at_once(classes: Classes, _load: float, count: int, rng: random.Random) -> list[Request]:
    """Everything at the start, as fast as one client sends."""
    return [_draw(number, _APART_S * number, classes, rng) for number in range(count)]


_PATIENT_CLIENTS = 40


def forty_clients(classes: Classes, _load: float, count: int, rng: random.Random) -> list[Request]:
    """Forty clients that begin at once, and ask again as soon as they are answered until `count` are asked."""
    return [
        _draw(number, _APART_S * number if number < _PATIENT_CLIENTS else math.inf, classes, rng)
        for number in range(count)
    ]


def of_two_models(classes: Classes) -> Classes:
    """The same work, half of it for a second, smaller model."""
    return tuple(t._replace(share=t.share / 2, model=model) for model in ("base:8b", "small:1.7b") for t in classes)
