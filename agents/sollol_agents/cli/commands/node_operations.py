"""`sollol drain`, `undrain`, `load`, `unload`, `pull`, `set`: an operator's requests about one node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import is_terminal, say, show_json_line
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError, SollolError, UnknownModel, error_from
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.control import ControlReply
from sollol_schemas.errors import ErrorCode
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.prices import NodePrice
from sollol_schemas.queries import ModelView

T = TypeVar("T")

Node = Annotated[str, Parameter(help="The node: its id, as `sollol nodes` lists it, its host, address or URL.")]
Model = Annotated[str, Parameter(help="Name of the model, as `sollol models` lists it.")]


@of_commands.for_clients()
def drain(
    node: Node,
    *,
    finish: Annotated[
        bool, Parameter(has_negative=False, show_default=False, help="Let all answers finish there.")
    ] = False,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Takes a node out of service until `undrain`, restarts included; what cannot go on elsewhere finishes there."""
    said = "{node} takes no new work; {in_flight} still running"
    return _operate(bus, log, lambda client: client.drain(node, lets_finish=finish), said, json_=json_)


@of_commands.for_clients()
def undrain(node: Node, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Puts a drained node back into service."""
    return _operate(bus, log, lambda client: client.undrain(node), "{node} takes work again", json_=json_)


@of_commands.for_clients()
def load(
    node: Node,
    model: Model,
    *,
    bus: BusConfig,
    log: LogConfig,
    keep_alive_s: Annotated[float | None, Parameter(help="Seconds it stays when idle; negative: for ever.")] = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Loads a model into a node's memory."""
    said = f"{model} is loaded on {{node}}"

    async def ask(client: Client) -> ControlReply:
        try:
            return await client.load(node, model, keep_alive_s)
        except UnknownModel as error:
            raise not_there(error, node, model, await _models(client)) from error

    return _operate(bus, log, ask, said, json_=json_)


@of_commands.for_clients()
def unload(node: Node, model: Model, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Unloads a model from a node's memory; refused while it is busy."""
    said = f"{model} is unloaded from {{node}}"

    async def ask(client: Client) -> ControlReply:
        try:
            return await client.unload(node, model)
        except UnknownModel as error:
            raise not_there(error, node, model, await _models(client), is_wanted=False) from error

    return _operate(bus, log, ask, said, json_=json_)


@of_commands.for_clients()
def set_node(
    node: Node,
    *,
    bus: BusConfig,
    log: LogConfig,
    weight: Annotated[
        float | None, Parameter(help="Factor on its share of work, above 0 to 100; 1 is neutral.")
    ] = None,
    label: Annotated[
        list[str] | None,
        Parameter(name="--label", help="KEY=VALUE, repeatable; KEY= removes it."),
    ] = None,
    price_per_hour: Annotated[float | None, Parameter(help="What an hour of it costs; 0 is a price too.")] = None,
    price_per_kwh: Annotated[float | None, Parameter(help="What a kilowatt-hour costs that it draws.")] = None,
    currency: Annotated[str | None, Parameter(help="The currency of its prices, a short word like EUR.")] = None,
    no_price: Annotated[
        bool,
        Parameter(name="--no-price", has_negative=False, show_default=False, help="Its price is not known any more."),
    ] = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Changes a node's weight, labels or price, for good: it wins over what the node is configured with."""
    labels = dict(_pair(text) for text in label or ())
    told: dict[str, float | str | None] = {"per_hour": price_per_hour, "per_kwh": price_per_kwh, "currency": currency}
    changes = {name: value for name, value in told.items() if value is not None}
    _check_price(changes, no_price=no_price)
    if weight is None and not labels and not changes and not no_price:
        raise ConfigError("nothing to change: give --weight, --label or a price")
    if weight is not None and not 0 < weight <= 100:
        raise ConfigError(f"--weight {weight:g} is not allowed; it must be above 0 and at most 100")
    said = "{node} is changed"

    async def ask(client: Client) -> ControlReply:
        price = NodePrice() if no_price else await _changed_price(client, node, changes) if changes else None
        return await client.set_node(node, weight=weight, labels=labels, price=price)

    return _operate(bus, log, ask, said, json_=json_)


def _check_price(changes: Mapping[str, float | str], *, no_price: bool) -> None:
    """Makes sure that what is changed of a price can be one."""
    if no_price and changes:
        raise ConfigError("--no-price takes the price away; give no other price with it")
    try:
        msgspec.convert(dict(changes), NodePrice)
    except msgspec.ValidationError as error:
        raise ConfigError(f"no price: {in_plain_words(str(error))}") from error


async def _changed_price(client: Client, node: str, changes: Mapping[str, float | str]) -> NodePrice:
    """The node's price as it tells it now, with what is changed of it."""
    try:
        known = (await client.node(node)).telemetry.price
    except SollolError:  # away: it is called by its id, and what is kept of it is all there is
        known = NodePrice()
    return msgspec.convert(msgspec.structs.asdict(known) | dict(changes), NodePrice)


@of_commands.for_clients()
def pull(
    node: Node,
    model: Annotated[str, Parameter(help="Name of the model, as the engine's library calls it.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Downloads a model to a node, with progress; `--json` prints the engine's progress objects as lines."""
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            progress = client.pull(node, model)
            await with_known(client, _show(progress, json_=json_))
        return 0

    return running.run(main)


async def _show(progress: AsyncIterator[dict[str, Any]], *, json_: bool) -> None:
    """A download as it goes on, in the form that is wanted."""
    if json_:
        async for step in progress:
            show_json_line(step)
    elif is_terminal():
        await _show_bars(progress)
    else:
        await _show_steps(progress)


async def _models(client: Client) -> list[ModelView]:
    return [view for view in (await client.models()).models if not view.members]


def not_there(
    error: UnknownModel, node: str, model: str, there: Sequence[ModelView], *, is_wanted: bool = True
) -> UnknownModel:
    """The refusal about a model that the node has not, with who has it and, if it is wanted there, what to do."""
    named = {view.name: view for view in there}
    holders = (named.get(model) or named.get(f"{model}:latest") or ModelView(name=model)).installed_on
    text = f"{node} has not {model!r}"
    if holders:
        text += f"; {', '.join(holders)} {'has' if len(holders) == 1 else 'have'} it"
        text += f": `sollol pull {node} {model}`" if is_wanted else " (`sollol models` lists who has what)"
    details = {"model": model, "models": [] if holders else list(named)}
    return UnknownModel(body=msgspec.structs.replace(error.body, message=text, details=details))


async def with_known(client: Client, asking: Awaitable[T]) -> T:
    """The answer; a refusal because nobody knows the node says which nodes there are."""
    try:
        return await asking
    except SollolError as error:
        if error.body.code is not ErrorCode.UNKNOWN_NODE or error.details.get("known"):
            raise
        known = [view.node_id for view in (await client.nodes()).nodes]
        node_id = str(error.details.get("node", ""))
        details = {**error.details, "node": node_id, "known": known}
        raise error_from(msgspec.structs.replace(error.body, details=details)) from error


def _operate(
    bus: BusConfig, log: LogConfig, ask: Callable[[Client], Awaitable[ControlReply]], said: str, *, json_: bool
) -> int:
    def show(reply: ControlReply) -> None:
        if reply.is_away:
            say(f"{reply.node_id} is not here; what you want of it is kept, and holds when it comes")
        else:
            say(said.format(node=reply.node_id, in_flight=reply.in_flight))

    return listing(bus, log, lambda client: with_known(client, ask(client)), show, json_=json_)


async def _show_steps(progress: AsyncIterator[dict[str, Any]]) -> None:
    """One line whenever the status changes."""
    last = ""
    async for step in progress:
        status = str(step.get("status", ""))
        if status and status != last:
            say(status)
            last = status


async def _show_bars(progress: AsyncIterator[dict[str, Any]]) -> None:
    """A bar for each layer that is being downloaded."""
    # 25 ms of imports that plain output need not pay
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as bars:
        tasks: dict[str, Any] = {}
        async for step in progress:
            status = str(step.get("status", ""))
            if status not in tasks:
                tasks[status] = bars.add_task(status, total=step.get("total"))
            done = step.get("completed", 0) if step.get("total") else None
            bars.update(tasks[status], total=step.get("total") or 1, completed=1 if done is None else done)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--label {text!r} must be KEY=VALUE")
    return name, value
