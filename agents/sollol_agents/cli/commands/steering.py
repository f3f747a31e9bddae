"""`sollol strategy` and `sollol breaker`: how the scorer decides, and whom it does not trust for the moment."""

from __future__ import annotations

from typing import Annotated

from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say, seconds, show_table, tell
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.steering import BreakersReply, StrategyReply

strategy = Commands(name="strategy", help="Show or change how nodes are picked.")
breaker = Commands(name="breaker", help="List or close circuit breakers.")


@strategy.command("list")
@of_commands.for_clients()
def list_strategies(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists the strategies that can be chosen."""
    return listing(bus, log, Client.strategy, _show_names, json_=json_)


@strategy.command("get")
@of_commands.for_clients()
def get_strategy(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Shows the strategy in use and the settings that may change while the scorer runs."""
    return listing(bus, log, Client.strategy, show_strategy, json_=json_)


@strategy.command("set")
@of_commands.for_clients()
def set_strategy(
    name: Annotated[str | None, Parameter(help="The strategy, as `sollol strategy list` names it.")] = None,
    *,
    bus: BusConfig,
    log: LogConfig,
    setting: Annotated[
        list[str] | None,
        Parameter(name="--setting", help="NAME=NUMBER, repeatable: hold=0.5."),
    ] = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Chooses a strategy or changes settings; kept when scorers restart, until it is changed again."""
    settings = dict(_number(text) for text in setting or ())
    if name is None and not settings:
        raise ConfigError("nothing to change: name a strategy, or give --setting NAME=NUMBER")
    return listing(bus, log, lambda client: client.set_strategy(name, **settings), show_strategy, json_=json_)


@breaker.command("list")
@of_commands.for_clients()
def list_breakers(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists the circuit breakers that are open, on trial, or have seen failures."""
    return listing(bus, log, Client.breakers, show_breakers, json_=json_)


@breaker.command("reset")
@of_commands.for_clients()
def reset_breakers(
    node: Annotated[str, Parameter(help="Only this node's.")] = "",
    model: Annotated[str, Parameter(help="Only this model's, and the node's own.")] = "",
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Closes circuit breakers by force; shows those that are left."""
    return listing(bus, log, lambda client: client.reset_breakers(node, model), show_breakers, json_=json_)


def _number(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError as error:
        raise ConfigError(f"--setting {text!r} must be NAME=NUMBER") from error
    if not name or not equals:
        raise ConfigError(f"--setting {text!r} must be NAME=NUMBER")
    return name, number


def _show_names(reply: StrategyReply) -> None:
    rows = [(name, "in use" if name == reply.strategy else "-") for name in reply.available]
    show_table(("STRATEGY", "STATE"), rows)


def show_strategy(reply: StrategyReply) -> None:
    """The strategy in use, and its settings."""
    say(f"strategy {reply.strategy}")
    rows = [(name, f"{value:g}") for name, value in sorted(reply.settings.items())]
    show_table(("SETTING", "VALUE"), rows, numbers=("VALUE",))


def show_breakers(reply: BreakersReply) -> None:
    """The breakers that are not simply closed."""
    if not reply.breakers:
        tell("every circuit breaker is closed and has seen no failure since its last success")
        return
    rows = [
        (
            b.node_id,
            b.model or "(node)",
            b.state.value,
            str(b.failures),
            seconds(b.opens_for_s) if b.opens_for_s else "-",
        )
        for b in reply.breakers
    ]
    show_table(
        ("NODE", "MODEL", "STATE", "FAILURES", "TRIED IN"),
        rows,
        numbers=("FAILURES", "TRIED IN"),
        first_to_go=("FAILURES",),
    )
