"""One line for each event of the bus, as `sollol watch` prints it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from sollol_agents.cli.output import counted, seconds
from sollol_schemas import owners
from sollol_schemas.continuation import Cut
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerEvent, NodeEvent, OfficeEvent, Outcome, PreloadEvent
from sollol_schemas.jobs import JobEvent
from sollol_schemas.scaling import ScaleEvent, ScaleVerdict, SleepEvent, SleepNews
from sollol_schemas.steering import StrategyEvent
from sollol_schemas.subjects import NO_NODE

OfFleet = NodeEvent | PreloadEvent | BreakerEvent | OfficeEvent | StrategyEvent | SleepEvent | ScaleEvent
Event = DecisionEvent | Outcome | Cut | JobEvent | OfFleet


def line_of_event(event: Event, at: datetime) -> str:
    """One event on one line, with the time at which it was heard."""
    return f"{at:%H:%M:%S} {_told(event)}"


def concerns(event: Event, *, node_id: str = "", request_id: str = "") -> bool:
    """Whether an event is about a node and a request; empty: any. A job's id is the id of its request."""
    what = event.decision if isinstance(event, DecisionEvent) else event
    about_node = not node_id or getattr(what, "node_id", "") == node_id
    about = getattr(what, "request_id", "") or getattr(what, "job_id", "")
    return about_node and (not request_id or about == request_id)


def _told(event: Event) -> str:
    match event:
        case DecisionEvent():
            return _decision(event)
        case Outcome():
            return _outcome(event)
        case Cut():
            return f"{event.request_id} leaves {event.node_id}: {event.text}"
        case JobEvent():
            return _job(event)
        case _:
            return _about_fleet(event)


def _about_fleet(event: OfFleet) -> str:
    match event:
        case NodeEvent():
            return _about_node(event)
        case PreloadEvent():
            how = f"was not loaded: {event.error}" if event.error else f"was loaded in {seconds(event.took_s)}"
            return f"node {event.node_id}: {event.model} {how} ({event.reason})"
        case BreakerEvent():
            whose = f"{event.model} on {event.node_id}" if event.model else event.node_id
            return f"breaker of {whose} is {event.state.value.replace('_', '-')} {event.reason}".rstrip()
        case OfficeEvent():
            what = "took office" if event.is_leader else "left office"
            return f"scorer {event.instance} {what}, term {event.term}: {event.reason}"
        case StrategyEvent():
            settings = "".join(f", {name} = {value:g}" for name, value in sorted(event.settings.items()))
            return f"strategy is {event.strategy} (was {event.previous}){settings}"
        case SleepEvent() | ScaleEvent():
            return _about_capacity(event)
    assert_never(event)


def _about_node(event: NodeEvent) -> str:
    if event.has_left or event.is_asleep:
        return f"node {event.node_id} {'left' if event.has_left else 'is asleep'}"
    was = f" (was {event.previous.value})" if event.previous else ""
    return f"node {event.node_id} is {event.state.value}{was} {event.reason}".rstrip()


def _about_capacity(event: SleepEvent | ScaleEvent) -> str:
    if isinstance(event, ScaleEvent):
        scale = event.scale
        what = {ScaleVerdict.TOO_FEW: "too few slots", ScaleVerdict.TOO_MANY: "too many slots"}
        return f"{scale.model} has {what.get(scale.verdict, 'slots enough')}: {scale.reason}".removesuffix(": ")
    match event.news:
        case SleepNews.WAKING:
            return f"node {event.node_id} is woken, which takes about {seconds(event.wake_s)}: {event.reason}"
        case SleepNews.FAILED:
            return f"node {event.node_id} did not wake: {event.reason}; tried again in {seconds(event.retry_in_s)}"
        case SleepNews.ASLEEP:
            return f"node {event.node_id} goes to sleep: {event.reason}"
        case SleepNews.AWAKE:
            return f"node {event.node_id} is awake: {event.reason}".removesuffix(": ")
    assert_never(event.news)


def _decision(event: DecisionEvent) -> str:
    made = event.decision
    question = "would run" if event.is_dry_run else "runs"
    resumed = f", resumed after {counted(made.continued_tokens, 'token')}" if made.continued_tokens else ""
    return (
        f"[{made.mode}] {made.request_id} {made.model} {question} on {made.node_id}{resumed}, waited "
        f"{seconds(made.queue_s)}, predicted {seconds(made.forecast.total_s)}: {made.reason}"
    )


def _outcome(event: Outcome) -> str:
    where = "" if event.node_id == NO_NODE else f" on {event.node_id}"
    made = event.decision
    line = f"[{made.mode}] {made.request_id} {made.model} {event.end}{where}"
    if event.figures is not None:
        line += f" after {seconds(event.figures.actual_s)}, predicted {seconds(made.forecast.total_s)}"
        if event.figures.output_tokens:
            line += f", {counted(event.figures.output_tokens, 'token')}"
    if event.code is not None:
        is_told = event.code is ErrorCode.MOVED and event.message
        line += f": {event.message}" if is_told else f": {event.code.value} {event.message}".rstrip()
    return line


def _job(event: JobEvent) -> str:
    line = f"job {owners.reference(event.user, event.job_id)} {event.news.value}, priority {event.priority}"
    if event.node_id:
        line += f", on {event.node_id}"
    if event.tries > 1:
        line += f", try {event.tries}"
    return line if event.error is None else f"{line}: {event.error.code.value} {event.error.message}".rstrip()
