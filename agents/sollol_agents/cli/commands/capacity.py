"""`sollol scale`, `sleep`, `wake`: whether there are slots enough, and machines that sleep while nobody needs them."""

from __future__ import annotations

from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.commands.node_operations import Node, with_known
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import seconds, show_table, tell
from sollol_agents.cli.settings import of_commands
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.scaling import ScaleReply, ScaleVerdict, SleepersReply, SleeperView

_WORDS = {ScaleVerdict.TOO_FEW: "too few", ScaleVerdict.TOO_MANY: "too many", ScaleVerdict.ENOUGH: "enough"}


@of_commands.for_clients()
def scale(
    *, bus: BusConfig, log: LogConfig, watch: of_commands.WatchFlag = False, json_: of_commands.JsonFlag = False
) -> int:
    """Shows for each model whether it has too few slots or too many, with the seconds behind it."""
    return listing(bus, log, Client.scale, show_scale, json_=json_, is_watched=watch)


@of_commands.for_clients()
def sleep(node: Node, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Sends a node to sleep, if nothing runs there; requests that need it wake it, and so does `wake`."""
    return listing(bus, log, lambda client: with_known(client, client.sleep_node(node)), show_sleepers, json_=json_)


@of_commands.for_clients()
def wake(node: Node, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Has a node woken that sleeps, whatever failed before; `sollol nodes` shows when it is there."""
    return listing(bus, log, lambda client: with_known(client, client.wake_node(node)), show_sleepers, json_=json_)


def show_scale(reply: ScaleReply) -> None:
    """The models as a table."""
    rows = [
        (
            one.model,
            _WORDS[one.verdict],
            f"{one.slots}" + (f" (+{one.asleep_slots} asleep)" if one.asleep_slots else ""),
            f"{one.busy_slots:.1f}",
            str(one.waiting),
            seconds(one.waiting_s) if one.waiting_s else "-",
            seconds(one.saved_s) if one.saved_s else "-",
            seconds(one.idle_s) if one.idle_s else "-",
        )
        for one in reply.models
    ]
    show_table(
        ("MODEL", "SLOTS ARE", "SLOTS", "TAKEN", "WAITING", "WAIT IN ALL", "ONE MORE SAVES", "SPARE FOR"),
        rows,
        numbers=("TAKEN", "WAITING", "WAIT IN ALL", "ONE MORE SAVES", "SPARE FOR"),
        first_to_go=("WAIT IN ALL", "TAKEN", "WAITING", "SPARE FOR"),
        empty="no model was asked for lately",
    )
    few = [one.model for one in reply.models if one.verdict is ScaleVerdict.TOO_FEW]
    if few:
        tell(f"one more slot would help {', '.join(few)}: a node more, or a sleeping one woken by `sollol wake`")


def show_sleepers(reply: SleepersReply) -> None:
    """The nodes that may sleep."""
    rows = [
        (one.node_id, one.news.value, seconds(one.for_s), seconds(one.wake_s), _note(one)) for one in reply.sleepers
    ]
    show_table(
        ("NODE", "STATE", "SINCE", "WAKES IN", "NOTE"),
        rows,
        numbers=("SINCE", "WAKES IN"),
        empty="no node may sleep; `sleep_command` in a node's settings lets it",
    )


def _note(one: SleeperView) -> str:
    again = f"tried again in {seconds(one.retry_in_s)}" if one.retry_in_s else ""
    return "; ".join(word for word in (one.reason, again) if word) or "-"
