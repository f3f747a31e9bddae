"""`sollol why` and `sollol route`: decisions as tables, every candidate with each term of its cost in seconds."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say, seconds, show_table
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.sections import routing_section
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.decision import CandidateCost, DecisionEvent
from sollol_schemas.events import Outcome
from sollol_schemas.queries import WhyReply
from sollol_schemas.routing import Routing
from sollol_schemas.subjects import NO_NODE

TERMS: Final = {
    "wait_s": "WAIT",
    "overtaking_s": "OVERTAKEN",
    "load_s": "LOAD",
    "prefill_s": "PREFILL",
    "decode_s": "DECODE",
    "slowdown_s": "SLOWED",
    "evict_s": "EVICTS",
    "prefix_evict_s": "PREFIXES",
    "risk_s": "RISK",
    "preference_s": "PREFERENCE",
    "rtt_s": "DISTANCE",
}
"""The heading of each term of a cost; a column is shown when the term matters for some candidate."""
_MATTERS_S: Final = 0.0005
_SHORT_PROMPT: Final = "Hello"


@of_commands.for_clients()
def why(request_id: str, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Explains one request: candidates with every cost, refused nodes with reasons, and what became of it."""
    return listing(bus, log, lambda client: client.why(request_id), show_why, json_=json_)


@of_commands.for_clients(routing=routing_section())
def route(
    model: Annotated[str, Parameter(help="Name of the model, as `sollol models` lists it.")],
    prompt: Annotated[str | None, Parameter(help="The prompt; without it, a short one is assumed.")] = None,
    *,
    routing: Routing,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Says where a request would run now, and why; runs and reserves nothing."""

    async def ask(client: Client) -> DecisionEvent:
        return await client.route(model, prompt or _SHORT_PROMPT, routing=routing)

    return listing(bus, log, ask, show_decision, json_=json_)


def show_why(reply: WhyReply) -> None:
    """Every decision about a request and every outcome, for people."""
    for decision in reply.decisions:
        show_decision(decision)
        say()
    if reply.outcomes:
        headings = ("ATTEMPT", "NODE", "OUTCOME", "CODE", "WAITED", "PREDICTED", "ACTUAL", "MESSAGE")
        show_table(headings, map(_outcome_row, reply.outcomes), numbers=("WAITED", "PREDICTED", "ACTUAL"))
    else:
        say("no attempt has ended yet")


def _outcome_row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.attempt_id,
        outcome.node_id if outcome.node_id != NO_NODE else "-",
        outcome.status.value,
        outcome.code.value if outcome.code else "-",
        seconds(outcome.decision.queue_s),
        seconds(outcome.decision.forecast.total_s),
        seconds(outcome.figures.actual_s if outcome.figures else None),
        outcome.message or "-",
    )


def show_decision(event: DecisionEvent) -> None:
    """One decision: what was chosen and why, what each candidate would have cost, and who was refused."""
    made, forecast = event.decision, event.decision.forecast
    verb = "would run" if event.is_dry_run else "runs"
    say(
        f"attempt {made.attempt}: {made.model} {verb} on {made.node_id} "
        f"({made.mode}, priority {made.priority}, strategy {made.strategy})"
    )
    say(f"  because: {made.reason}")
    say(
        f"  predicted: first token {seconds(forecast.first_token_s)}, answer {seconds(forecast.total_s)}; "
        f"{forecast.prompt_tokens} prompt tokens, about {forecast.output_tokens:.0f} to come"
        f"{'; the model must be loaded' if forecast.needs_load else ''}"
    )
    if not event.is_dry_run:
        say(f"  waited: {seconds(made.queue_s)}; still waiting after it: {event.queued}")
    if event.candidates:
        _show_candidates(event)
    if event.rejections:
        rows = [(r.node_id, r.reason.value, r.detail or "-") for r in event.rejections]
        show_table(("NOT ELIGIBLE", "REASON", "DETAIL"), rows)


def _show_candidates(event: DecisionEvent) -> None:
    """The chosen candidate first, then the alternatives, cheapest first; all in seconds."""
    chosen = event.decision.node_id
    ordered = sorted(event.candidates, key=lambda c: (c.node_id != chosen, c.total_s))
    shown = [term for term in TERMS if any(abs(getattr(c, term)) >= _MATTERS_S for c in ordered)]
    best = ordered[0].total_s
    headings = ("CANDIDATE, SECONDS", "COST", "MORE", *(TERMS[term] for term in shown), "DONE IN", "CACHED", "FREE")
    rows = [_candidate_row(c, shown, best, is_chosen=c.node_id == chosen) for c in ordered]
    show_table(headings, rows, numbers=headings[1:])


def _candidate_row(cost: CandidateCost, terms: list[str], best: float, *, is_chosen: bool) -> tuple[str, ...]:
    values = msgspec.structs.asdict(cost)
    return (
        f"{cost.node_id} (chosen)" if is_chosen else cost.node_id,
        f"{cost.total_s:.3f}",
        "-" if is_chosen else f"{cost.total_s - best:+.3f}",
        *(f"{values[term]:.3f}" if cost.has_terms else "-" for term in terms),
        f"{cost.completion_s:.3f}" if cost.has_terms else "-",
        str(cost.prefix_hit_tokens) if cost.has_terms else "-",
        ("no" if cost.is_busy else "yes") if cost.has_terms else "-",
    )
