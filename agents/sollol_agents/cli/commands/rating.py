"""`sollol feedback`: how good an answer was, from which the choice among models learns."""

from __future__ import annotations

from typing import Annotated

from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import tell
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.feedback import FeedbackReply, FeedbackView


@of_commands.for_clients()
def feedback(
    request_id: Annotated[
        str, Parameter(help="The request's or the job's id, as `sollol why` shows it.", show_default=False)
    ] = "",
    *,
    bus: BusConfig,
    log: LogConfig,
    score: Annotated[float | None, Parameter(help="How good it was: 0 is useless, 1 is perfect.")] = None,
    good: Annotated[bool, Parameter(has_negative=False, show_default=False, help="The same as --score 1.")] = False,
    bad: Annotated[bool, Parameter(has_negative=False, show_default=False, help="The same as --score 0.")] = False,
    model: Annotated[str, Parameter(help="In place of a request: a model; for operators.", show_default=False)] = "",
    category: Annotated[
        str, Parameter(help="Coding category or task type; else what is known of the request.", show_default=False)
    ] = "",
    latency_s: Annotated[
        float | None, Parameter(name="--latency-s", help="Seconds that the answer took its reader.")
    ] = None,
    comment: Annotated[str, Parameter(help="Shown by `sollol why`.", show_default=False)] = "",
    json_: of_commands.JsonFlag = False,
) -> int:
    """Tells how good an answer was; a later word on the same request replaces it."""
    if (score is not None) + good + bad != 1:
        raise ConfigError("say how good the answer was, in one way: --score 0.9, --good or --bad")
    if bool(request_id) == bool(model):
        raise ConfigError("say what is meant: sollol feedback REQUEST_ID --good, or --model MODEL --category CATEGORY")
    said = score if score is not None else float(good)
    if not 0 <= said <= 1:
        raise ConfigError(f"--score {said:g} must lie between 0 and 1")

    async def ask(client: Client) -> FeedbackReply:
        return await client.feedback(
            request_id, score=said, model=model, category=category, latency_s=latency_s, comment=comment
        )

    return listing(bus, log, ask, show_feedback, json_=json_)


def show_feedback(reply: FeedbackReply) -> None:
    """What feedback counted for."""
    if reply.is_waiting:
        tell(f"kept: nothing is recorded about {reply.request_id} yet; it counts as soon as that is, within an hour")
        return
    instead = ", in place of what was said before" if reply.is_replacement else ""
    tell(f"{reply.score:g} for {reply.model}{f' at {reply.category}' if reply.category else ''}{instead}")


def told(view: FeedbackView) -> str:
    """What was said of an answer, on one line."""
    comment = f": {' '.join(view.comment.split())}" if view.comment else ""
    return f"feedback: {view.score:g} for {view.model}{f' at {view.category}' if view.category else ''}{comment}"
