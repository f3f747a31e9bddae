"""Every section of settings: its name, its config Struct and where its names differ from the fields'."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from sollol_agents.cli.settings.section import Section
from sollol_schemas.routing import PRIORITY_NAMES, Routing

T = TypeVar("T", bound=msgspec.Struct)


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """Where a section's Struct is, and names that are not simply the field's own."""

    kind: str
    """Import path of the config Struct, so that listing sections imports no actor."""
    title: str
    flags: dict[str, str] = {}
    envs: dict[str, str] = {}
    also: dict[str, str] = {}
    """Names in the environment that count too, where the first is not set."""
    hidden: tuple[str, ...] = ()
    """Fields that commands set themselves, or that only a program which embeds the system may want to turn."""
    flag_prefix: str = ""
    is_flagged: bool = True
    """Whether any command has flags for it."""


DISCOVERY_TIMEOUT: Final = "SOLLOL_DISCOVERY_TIMEOUT"
"""How long an answer is waited for where engines are looked for."""

SECTIONS: Mapping[str, Names] = {
    "nats": Names(
        kind="sollol_bus.transport.connection:BusConfig",
        title="The connection to NATS, for every command",
        flags={"url": "--nats"},
        envs={"url": "SOLLOL_NATS"},
        hidden=("name", "inbox_prefix", "connect_timeout_s", "stream_bytes"),
        flag_prefix="nats-",
    ),
    "log": Names(kind="sollol_agents.cli.log_lines:LogConfig", title="Logging, for every command", flag_prefix="log-"),
    "routing": Names(
        kind="sollol_schemas.routing:Routing",
        title="Where, when and how requests of `generate`, `chat` and `embed` run",
    ),
    "metrics": Names(
        kind="sollol_agents.metering.config:MetricsConfig",
        title="Metrics, for every actor and `sollol up`",
        flag_prefix="metrics-",
    ),
    "tracing": Names(
        kind="sollol_bus.observe.tracing:TracingConfig",
        title="Tracing, for every actor and `sollol up`",
        flag_prefix="tracing-",
    ),
    "up": Names(
        kind="sollol_agents.cli.commands.up:UpConfig",
        title="`sollol up`",
        also={
            "dashboard": "SOLLOL_DASHBOARD_ENABLED",
            "local_node": "SOLLOL_DISCOVERY_ENABLED",
            "look_s": DISCOVERY_TIMEOUT,
        },
    ),
    "server": Names(
        kind="sollol_bus.server.config:EmbeddedServerConfig",
        title="The embedded NATS server of `sollol up`",
        is_flagged=False,
        hidden=("port", "store_dir"),
    ),
    "node": Names(
        kind="sollol_agents.node.config:NodeConfig",
        title="`sollol node`",
        flags={"node_id": "--id", "labels": "--label"},
        envs={"node_id": "SOLLOL_NODE_ID"},
        also={"read_gpus": "SOLLOL_VRAM_MONITORING"},
        hidden=("heartbeat_s",),
    ),
    "scorer": Names(
        kind="sollol_agents.scorer.config:ScorerConfig",
        title="`sollol scorer`",
        hidden=(
            *("seed", "size_clamp", "risk_overhead_s", "soft_success_floor"),
            *("async_gpu_factor", "prefer_s", "cheap_patience_s", "breaker_trials", "successes_to_close"),
        ),
    ),
    "dispatcher": Names(
        kind="sollol_agents.dispatcher.config:DispatcherConfig",
        title="`sollol dispatcher`",
        hidden=("job_ack_wait_s", "job_inline_bytes"),
    ),
    "recorder": Names(kind="sollol_agents.recorder.config:RecorderConfig", title="`sollol recorder`"),
    "gateway": Names(
        kind="sollol_agents.gateway.config:GatewayConfig",
        title="`sollol gateway`",
        hidden=("max_batch_requests",),
    ),
    "dashboard": Names(
        kind="sollol_agents.dashboard.config:DashboardConfig", title="`sollol dashboard`", hidden=("listen_fd",)
    ),
}

ALSO: Final = frozenset(env for names in SECTIONS.values() for env in names.also.values())
"""Further names of settings in the environment; they need not begin as their section's do."""


def section(
    name: str,
    kind: type[T],
    *,
    hidden: tuple[str, ...] = (),
    defaults: Mapping[str, object] | None = None,
    is_flagged: bool = True,
) -> Section[T]:
    """The section called `name`, whose Struct is `kind`.

    Args:
        name: A key of `SECTIONS`.
        kind: The Struct, given again so that the result is typed.
        hidden: Further fields that the command sets itself.
        defaults: Defaults of this command that differ from the Struct's.
        is_flagged: Whether the command has flags for them; environment and file hold in any case.
    """
    names = SECTIONS[name]
    return Section(
        name,
        kind,
        flags=names.flags,
        envs=names.envs,
        also=names.also,
        elsewhere=ALSO,
        hidden=names.hidden + hidden,
        flag_prefix=names.flag_prefix,
        defaults=defaults,
        is_flagged=is_flagged,
    )


def routing_section() -> Section[Routing]:
    """The routing fields as settings: `SOLLOL_ROUTING_PRIORITY` is the default priority of all commands."""
    return Section(
        "routing",
        Routing,
        flags={"node_id": "--node"},
        envs={"routing_mode": "SOLLOL_ROUTING_MODE"},
        words={"priority": PRIORITY_NAMES},
    )


def all_sections() -> list[Section[Any]]:
    """Every section, with its actor's module imported."""
    return [
        routing_section() if name == "routing" else section(name, _load(names.kind)) for name, names in SECTIONS.items()
    ]


def _load(path: str) -> type[msgspec.Struct]:
    module, _, name = path.partition(":")
    kind: type[msgspec.Struct] = getattr(importlib.import_module(module), name)
    return kind
