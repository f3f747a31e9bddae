"""`sollol group`: names for several models, among which the fleet chooses, and what it learnt of them."""

from __future__ import annotations

from typing import Annotated

from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import counted, gib_of_bytes, seconds, show_table, tell
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.events import BreakerState
from sollol_schemas.groups import Group, GroupsReply, GroupStrategy, GroupView, MemberView, TrialVerdict, TrialView

group = Commands(name="group", help="Let requests name several models at once: set, show, remove groups.")

Name = Annotated[str, Parameter(help="The group, as requests name it.")]
_MODELS_SHOWN = 3
_CATEGORIES_SHOWN = 2


@group.command("set")
@of_commands.for_clients()
def set_group(
    name: Name,
    *models: Annotated[str, Parameter(help="Its models, as `sollol models` lists them.")],
    bus: BusConfig,
    log: LogConfig,
    weight: Annotated[
        list[str] | None,
        Parameter(name="--weight", help="MODEL=NUMBER, repeatable; 2 prefers it, 0.5 avoids it."),
    ] = None,
    strategy: Annotated[
        GroupStrategy, Parameter(help="How it picks: cost, cheap_first, affinity, and what others are called.")
    ] = GroupStrategy.COST,
    patience_s: Annotated[
        float, Parameter(name="--patience", help="Seconds that a bad answer costs its reader, beside its own time.")
    ] = 30.0,
    candidate: Annotated[str | None, Parameter(help="A model on trial beside the others.")] = None,
    share: Annotated[float, Parameter(help="Share of the requests that the candidate gets, up to 0.9.")] = 0.1,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Makes a group of models, or replaces the one of this name; kept when scorers restart."""
    if not models:
        raise ConfigError("a group needs models: sollol group set NAME MODEL MODEL ...")
    weights = dict.fromkeys(models, 1.0)
    if len(weights) != len(models):
        raise ConfigError("a model is named twice; --weight MODEL=2 prefers one")
    weights |= dict(_weight(text, models) for text in weight or ())

    async def ask(client: Client) -> GroupView:
        return await client.set_group(
            name, weights, strategy=strategy, patience_s=patience_s, candidate=candidate, share=share
        )

    return listing(bus, log, ask, show_group, json_=json_)


@group.command("show")
@of_commands.for_clients()
def show(
    name: Annotated[str, Parameter(help="Only this one.")] = "",
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Shows the models of a group: what was learnt of each, its breaker, and what a trial has shown."""

    async def ask(client: Client) -> GroupsReply:
        return GroupsReply(groups=(await client.group(name),)) if name else await client.groups()

    return listing(bus, log, ask, show_groups, json_=json_)


@group.command("list")
@of_commands.for_clients()
def list_groups(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists the groups of models; `auto` is there without being set."""
    return listing(bus, log, Client.groups, show_list, json_=json_)


@group.command("remove")
@of_commands.for_clients()
def remove(name: Name, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Removes a group; what was learnt of its models stays. Lists those that are left."""
    return listing(bus, log, lambda client: client.remove_group(name), show_list, json_=json_)


@group.command("reset")
@of_commands.for_clients()
def reset(
    name: Annotated[str, Parameter(help="The group whose models are meant; without it, every model.")] = "",
    *,
    bus: BusConfig,
    log: LogConfig,
    model: Annotated[str, Parameter(help="Only this model.")] = "",
    breaker: Annotated[
        bool, Parameter(has_negative=False, help="Close this model's circuit breaker instead, on every node.")
    ] = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Forgets what feedback taught of models."""
    if breaker and not model:
        raise ConfigError("--breaker needs the model whose breaker is meant: --model MODEL")

    async def ask(client: Client) -> GroupsReply:
        done = await (client.close_model_breaker(model) if breaker else client.reset_group(name, model=model))
        return GroupsReply(groups=(await client.group(name),)) if name else done

    return listing(bus, log, ask, show_groups, json_=json_)


def _weight(text: str, models: tuple[str, ...]) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError as error:
        raise ConfigError(f"--weight {text!r} must be MODEL=NUMBER") from error
    if not name or not equals:
        raise ConfigError(f"--weight {text!r} must be MODEL=NUMBER")
    if name not in models:
        raise ConfigError(f"--weight {text!r}: the group has no model of that name; it has {', '.join(models)}")
    return name, number


def show_list(reply: GroupsReply) -> None:
    """The groups as a table."""
    rows = [
        (
            view.group.name,
            "built in" if view.is_built_in else view.group.strategy.value,
            _models(view),
            _trial_in_a_word(view),
        )
        for view in reply.groups
    ]
    show_table(
        ("GROUP", "STRATEGY", "MODELS", "TRIAL"),
        rows,
        first_to_go=("STRATEGY", "TRIAL"),
        empty="no groups; `sollol group set NAME MODEL MODEL` makes one",
    )


def _models(view: GroupView) -> str:
    names = [member.model for member in view.group.members] or [member.model for member in view.members]
    more = len(names) - _MODELS_SHOWN
    return ", ".join(names[:_MODELS_SHOWN]) + (f" and {more} more" if more > 0 else "") if names else "-"


def _trial_in_a_word(view: GroupView) -> str:
    candidate = view.group.candidate
    if candidate is None:
        return "-"
    verdict = view.trial.verdict if view.trial is not None else TrialVerdict.UNDECIDED
    return f"{candidate.model}: {verdict.value}"


def show_groups(reply: GroupsReply) -> None:
    """Each group with its models."""
    for place, view in enumerate(reply.groups):
        if place:
            tell("")
        show_group(view)
    if not reply.groups:
        show_list(reply)


def show_group(view: GroupView) -> None:
    """A group in a sentence, its models as a table, and what a trial has shown."""
    tell(_heading(view.group, len(view.members), is_built_in=view.is_built_in))
    headings = ("MODEL", "GOOD", "FEEDBACK", "ANSWERS", "WEIGHT", "SIZE", "NODES", "BREAKER", "BY CATEGORY")
    show_table(
        headings,
        [_member_row(member) for member in view.members],
        numbers=("GOOD", "FEEDBACK", "ANSWERS", "WEIGHT", "SIZE", "NODES"),
        first_to_go=("WEIGHT", "ANSWERS", "BY CATEGORY", "SIZE", "NODES", "FEEDBACK"),
        empty="none of its models is on any node; `sollol pull NODE MODEL` fetches one",
    )
    if view.trial is not None:
        tell(trial_in_words(view.trial))


def _heading(group: Group, models: int, *, is_built_in: bool) -> str:
    if is_built_in:
        return f"group {group.name}: whatever model can do the request, out of {counted(models, 'model')}"
    patience = f", a bad answer costs {seconds(group.patience_s)}" if group.strategy is GroupStrategy.COST else ""
    return f"group {group.name}: {counted(models, 'model')}, picked by {group.strategy.value}{patience}"


def _member_row(member: MemberView) -> tuple[str, ...]:
    quality = member.quality
    return (
        member.model + (f" (trial, {member.share * 100:.0f} %)" if member.share else ""),
        f"{quality.mean * 100:.0f} %" if quality.feedback else "-",
        f"{quality.feedback:.0f}" if quality.feedback else "-",
        str(member.answers) if member.answers else "-",
        f"{member.weight:g}",
        gib_of_bytes(member.size_bytes),
        str(member.nodes) if member.nodes else "none",
        _breaker(member),
        _by_category(member),
    )


def _breaker(member: MemberView) -> str:
    if member.breaker is BreakerState.OPEN:
        return f"open, tried in {seconds(member.opens_for_s)}"
    if member.failures:
        return f"{member.breaker.value}, {counted(member.failures, 'failure')}"
    return member.breaker.value


def _by_category(member: MemberView) -> str:
    """The categories of which most is known."""
    known = sorted(member.categories.items(), key=lambda item: (-item[1].feedback, item[0]))[:_CATEGORIES_SHOWN]
    return ", ".join(f"{name} {view.mean * 100:.0f} %" for name, view in known) or "-"


def trial_in_words(trial: TrialView) -> str:
    """What the trial of a candidate has shown so far, in a sentence."""
    seen = f"{trial.candidate_feedback} and {trial.others_feedback} pieces of feedback"
    match trial.verdict:
        case TrialVerdict.UNDECIDED:
            verdict = "not decided yet whether it is better or worse than the others"
        case TrialVerdict.BETTER:
            verdict = "better than the others; make it a member, or the only one"
        case TrialVerdict.WORSE:
            verdict = "worse than the others; set the group without it"
    figures = f"mean score {trial.difference:+.2f} to theirs after {seen}, evidence {trial.evidence:.3g} of 20"
    return f"trial of {trial.model}: {verdict} ({figures})"
