"""Every command: its name, where it lies, and what it does in one line; and what `sollol` prints of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from sollol_agents.cli.declared import Commands

ABOUT: Final = "Makes a fleet of LLM machines behave like one, over NATS."
EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 the request failed; 2 wrong usage or setting; 3 no answer from the fleet; 130 interrupted."
)
GROUPS: Final = ("Start", "Use", "Look", "Operate", "For experts", "Single actors")


class Command(NamedTuple):
    """A command; its module is imported when it runs."""

    place: str
    """Module and name below `commands`."""
    group: str
    summary: str

    def load(self) -> Callable[..., Any] | Commands:
        """What it runs, or the commands below its name."""
        module, _, name = self.place.partition(".")
        found: Callable[..., Any] | Commands = getattr(import_module(f"sollol_agents.cli.commands.{module}"), name)
        return found


COMMANDS: Final[dict[str, Command]] = {
    "up": Command("up.up", "Start", "Start the whole system in one process."),
    "node": Command("actors.node", "Start", "Join the fleet with the engine on this machine."),
    "discover": Command("discover.discover", "Start", "Look for engines at addresses that you name."),
    "demo": Command("demo.demo", "Start", "Show a fleet at work, and a node killed while it works."),
    "init": Command("init.init", "Start", "Write a settings file with every setting."),
    "service": Command("service.service", "Start", "Keep a node, or the whole system, running as a service."),
    "fleet": Command("fleet.fleet", "Start", "Make a fleet that knows its members; list, renew, revoke them."),
    "invite": Command("fleet.invite", "Start", "Print the one command with which a machine joins."),
    "join": Command("join.join", "Start", "Become a member of the fleet that invited you."),
    "doctor": Command("doctor.doctor", "Start", "Check this machine and the fleet, and say what to do."),
    "node-check": Command("node_check.node_check", "Start", "Hold an agent of a node to the protocol of nodes."),
    "version": Command("version.version", "Start", "Show versions."),
    "generate": Command("requesting.generate", "Use", "Stream an answer to a prompt."),
    "chat": Command("chat.chat", "Use", "Answer a message or hold a conversation."),
    "embed": Command("requesting.embed", "Use", "Embed texts."),
    "feedback": Command("rating.feedback", "Use", "Tell how good an answer was."),
    "jobs": Command("jobs.jobs", "Use", "Submit, follow and steer durable jobs."),
    "batch": Command("batch.batch", "Use", "Run a file of requests as durable jobs."),
    "nodes": Command("listings.nodes", "Look", "List the nodes."),
    "models": Command("listings.models", "Look", "List the models."),
    "stats": Command("listings.stats", "Look", "Show requests, latency and speed."),
    "scale": Command("capacity.scale", "Look", "Show which models have too few slots, or too many."),
    "reliability": Command("listings.reliability", "Look", "Show how reliable each node is."),
    "usage": Command("accounts.usage", "Look", "Show who has used how much."),
    "audit": Command("accounts.audit", "Look", "Show what operators did."),
    "why": Command("explaining.why", "Look", "Explain one request."),
    "route": Command("explaining.route", "For experts", "Say where a request would run, and why."),
    "watch": Command("watch.watch", "Look", "Print decisions and node events as they happen."),
    "top": Command("top.top", "Look", "Show fleet, queue and decisions in the terminal, live."),
    "drain": Command("node_operations.drain", "Operate", "Take a node out of service."),
    "undrain": Command("node_operations.undrain", "Operate", "Put a node back into service."),
    "sleep": Command("capacity.sleep", "Operate", "Send a node to sleep that nobody needs."),
    "wake": Command("capacity.wake", "Operate", "Wake a node that sleeps."),
    "upgrade": Command("upgrade.upgrade", "Operate", "Say in which order to restart what, and who would notice."),
    "load": Command("node_operations.load", "Operate", "Load a model on a node."),
    "warm": Command("warming.warm", "Operate", "Compute a system prompt on nodes before it is needed."),
    "unload": Command("node_operations.unload", "Operate", "Unload a model from a node."),
    "pull": Command("node_operations.pull", "Operate", "Download a model to a node."),
    "group": Command("groups.group", "Operate", "Let requests name several models at once."),
    "keys": Command("keys.keys", "Operate", "Make, list or revoke API keys of the gateways."),
    "strategy": Command("steering.strategy", "For experts", "Show or change how nodes are picked."),
    "breaker": Command("steering.breaker", "For experts", "List or close circuit breakers."),
    "set": Command("node_operations.set_node", "Operate", "Change a node's weight, labels or price."),
    "scorer": Command("actors.scorer", "Single actors", "Run a scorer."),
    "dispatcher": Command("actors.dispatcher", "Single actors", "Run a dispatcher."),
    "recorder": Command("actors.recorder", "Single actors", "Run a recorder."),
    "registrar": Command(
        "actors.registrar", "Single actors", "Admit members to the fleet that was made on this machine."
    ),
    "gateway": Command("actors.gateway", "Single actors", "Run an HTTP gateway."),
    "dashboard": Command("actors.dashboard", "Single actors", "Show the fleet in a browser."),
    "engine": Command("engines.engine", "For experts", "Run a real llama.cpp with a tiny generated model."),
    "emulate": Command("engines.emulate", "For experts", "Run an emulated Ollama, for tests and benchmarks."),
}

FIRST_COMMANDS: Final = """\
sollol makes a fleet of LLM machines behave like one.

  sollol up                     start everything on this machine
  sollol join TOKEN             make this machine a member of a fleet
  sollol nodes                  see which machines there are, and what they do
  sollol generate MODEL PROMPT  ask something, wherever it is answered soonest
  sollol doctor                 find out what is wrong, and what to do

Nothing at hand yet? `sollol demo` shows a fleet at work, and a node killed.
`sollol --help` lists every command, `sollol COMMAND --help` explains one.
"""
"""What somebody needs first."""


def overview(columns: int) -> str:
    """What `sollol --help` prints: every command in its group, no line longer than `columns`."""
    from sollol_agents.cli.layout import column_of, entries, paragraph  # noqa: PLC0415 no other command line needs it

    column = column_of(COMMANDS)
    lines = ["Usage: sollol COMMAND", "", *paragraph(ABOUT, columns)]
    for group in GROUPS:
        lines += ["", f"{group}:"]
        rows = [(name, command.summary) for name, command in COMMANDS.items() if command.group == group]
        lines += entries(rows, column, columns)
    lines += ["", *paragraph("`sollol COMMAND --help` explains one; `sollol --version` shows the version.", columns)]
    lines += ["", *paragraph(EXIT_CODES, columns)]
    return "\n".join(lines) + "\n"
