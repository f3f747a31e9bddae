"""`sollol why` and `sollol route`: decisions as tables, every candidate with each term of its cost in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.commands.rating import told
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import counted, say, seconds, show_table, tell
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.sections import routing_section
from sollol_agents.fleet_view.terms import LEGEND, MATTERS_S, TERMS
from sollol_agents.fleet_view.waits import waited_s
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas import prices
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.queries import WhyReply
from sollol_schemas.routing import Routing
from sollol_schemas.subjects import NO_NODE

_SHORT_PROMPT: Final = "Hello"
_WHOLE: Final = "request"
"""What ended as a whole, when no attempt is named."""


@of_commands.for_clients()
def why(
    request_id: Annotated[
        str | None, Parameter(help="A request's or a job's id; without it, the latest that ended.")
    ] = None,
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Explains one request: candidates with every cost, refused nodes with reasons, and what became of it."""

    async def ask(client: Client) -> WhyReply:
        return await client.why(request_id if request_id is not None else await _latest(client))

    return listing(bus, log, ask, show_why, json_=json_)


async def _latest(client: Client) -> str:
    recent = await client.recent(1)
    if not recent.outcomes:
        raise BadRequest("no request has ended yet; ask something with `sollol generate`, or name a request's id")
    return recent.outcomes[0].request_id


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
    tell(f"request {reply.request_id}")
    for event in reply.decisions:
        show_decision(event, _where_it_goes_on(event.decision, reply.outcomes), reply.outcomes)
        say()
    if reply.outcomes:
        _show_outcomes(reply.outcomes)
    else:
        tell("no attempt has ended yet")
    told_by_nodes = {outcome.message for outcome in reply.outcomes}
    for cut in reply.cuts:
        if cut.text and cut.text in told_by_nodes:
            continue
        tell(f"moved off {cut.node_id}: {cut.text or cut.reason.value}", indent="  ")
    for cut in reply.gave_way:
        tell(f"got the slot of {cut.request_id} on {cut.node_id}: {cut.text or cut.reason.value}", indent="  ")
    for view in reply.feedback:
        tell(told(view), indent="  ")
    if reply.decisions:
        say()
        tell(LEGEND, indent="  ")


def _show_outcomes(outcomes: Sequence[Outcome]) -> None:
    """A line for each attempt; by its number where all are of one request, by its id where a job was tried again."""
    is_one = len({outcome.request_id for outcome in outcomes}) == 1
    names = [_attempt_name(outcome) if is_one else outcome.attempt_id for outcome in outcomes]
    headings = ("ATTEMPT", "NODE", "OUTCOME", "WAITED", "PREDICTED", "ACTUAL", "CODE")
    rows = [(name, *_outcome_row(outcome, outcomes)) for name, outcome in zip(names, outcomes, strict=True)]
    show_table(headings, rows, numbers=("WAITED", "PREDICTED", "ACTUAL"), first_to_go=("WAITED", "PREDICTED", "CODE"))
    for name, outcome in zip(names, outcomes, strict=True):
        if (figures := outcome.figures) is not None and (figures.expense is not None or figures.energy_j is not None):
            energy = "energy not known" if figures.energy_j is None else f"{figures.energy_j / 3600:,.3f} Wh"
            money = "no price known" if figures.expense is None else prices.told(figures.expense, figures.currency)
            tell(f"{name if name == _WHOLE else f'attempt {name}'} cost: {money}, {energy}", indent="  ")
        if outcome.message:
            tell(f"{name if name == _WHOLE else f'attempt {name}'}: {outcome.message}", indent="  ")


def _where_it_goes_on(made: Decision, outcomes: Sequence[Outcome]) -> str:
    """At which token an attempt goes on with an answer, and what ended the one before; empty where it begins."""
    if not made.continued_tokens:
        return ""
    at = f"it goes on after {counted(made.continued_tokens, 'token')} of the answer"
    before = [o for o in outcomes if o.request_id == made.request_id and o.decision.attempt < made.attempt]
    if not before:
        return at
    last = max(before, key=lambda outcome: outcome.decision.attempt)
    attempt = f"attempt {last.decision.attempt} on {last.node_id}"
    if last.status is OutcomeStatus.SUCCESS:
        return f"{at}; {attempt} was given up, and ended there all the same"
    why = (last.code or last.status).value.replace("_", " ")
    return f"{at}; {attempt} ended: {why}"


def _attempt_name(outcome: Outcome) -> str:
    return str(outcome.decision.attempt or _WHOLE)


def _outcome_row(outcome: Outcome, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    return (
        outcome.node_id if outcome.node_id != NO_NODE else "-",
        outcome.end,
        seconds(waited_s(outcome.decision, outcomes)),
        seconds(outcome.decision.forecast.total_s) if outcome.node_id != NO_NODE else "-",
        seconds(outcome.figures.actual_s if outcome.figures else None),
        outcome.code.value if outcome.code else "-",
    )


def show_decision(event: DecisionEvent, where_it_goes_on: str = "", outcomes: Sequence[Outcome] = ()) -> None:
    """One decision: what was chosen and why, what each candidate would have cost, and who was refused."""
    made, forecast = event.decision, event.decision.forecast
    verb = "would run" if event.is_dry_run else "runs"
    tell(
        f"attempt {made.attempt}: {made.model} {verb} on {made.node_id} "
        f"({made.mode}, priority {made.priority}, strategy {made.strategy})",
        indent="  ",
    )
    tell(f"  because: {made.reason}", indent="    ")
    if where_it_goes_on:
        tell(f"  resumed: {where_it_goes_on}", indent="    ")
    tell(
        f"  predicted: first token {seconds(forecast.first_token_s)}, answer {seconds(forecast.total_s)}; "
        f"{counted(forecast.prompt_tokens, 'prompt token')}, about {forecast.output_tokens:.0f} to come"
        f"{'; the model must be loaded' if forecast.needs_load else ''}",
        indent="    ",
    )
    if not event.is_dry_run:
        tell(f"  waited: {_waited(made, outcomes)}; still waiting after it: {event.queued}", indent="    ")
    if event.candidates:
        _show_candidates(event)
    if event.rejections:
        say()
        rows = [(r.node_id, r.reason.value.replace("_", " "), r.detail or "-") for r in event.rejections]
        show_table(("NOT ELIGIBLE", "REASON", "DETAIL"), rows, is_last_wrapped=True)


def _waited(made: Decision, outcomes: Sequence[Outcome]) -> str:
    """How long it waited for its slot; of an attempt that is not the first, how old the request was by then too."""
    waited = waited_s(made, outcomes)
    if waited == made.queue_s:
        return seconds(waited)
    age = f"{seconds(made.queue_s)} after the request came"
    return f"until {age}" if waited is None else f"{seconds(waited)}, until {age}"


def _show_candidates(event: DecisionEvent) -> None:
    """The chosen candidate first, then the alternatives, cheapest first; all in seconds."""
    chosen = event.decision.node_id
    ordered = sorted(event.candidates, key=lambda c: (c.node_id != chosen, c.total_s))
    shown = [term for term in TERMS if any(abs(getattr(c, term)) >= MATTERS_S for c in ordered)]
    best = ordered[0].total_s
    headings = ("SECONDS ON", "COST", "MORE", *(TERMS[term] for term in shown), "DONE IN", "CACHED", "FREE")
    rows = [_candidate_row(c, shown, best, is_chosen=c.node_id == chosen) for c in ordered]
    if any(c.expense is not None for c in ordered):
        headings = (*headings, "EXPENSE")
        rows = [(*row, prices.told(c.expense, c.currency)) for row, c in zip(rows, ordered, strict=True)]
    largest = sorted(shown, key=lambda term: max(abs(getattr(c, term)) for c in ordered))
    first_to_go = ("CACHED", "FREE", "DONE IN", *(TERMS[term] for term in largest))
    show_table(headings, rows, numbers=headings[1:], first_to_go=first_to_go)


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
