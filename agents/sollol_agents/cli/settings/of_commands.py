"""The settings that every command about the fleet takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from cyclopts import Parameter

from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.cli.settings.section import Section
from sollol_agents.cli.settings.sections import SECTIONS, section
from sollol_agents.metering.config import MetricsConfig
from sollol_bus.observe.tracing import TracingConfig
from sollol_bus.transport.connection import BusConfig

KNOWN: Final = tuple(SECTIONS)
"""Every table that a settings file may have."""

JsonFlag = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="Print JSON.")]

BUS: Final[Section[BusConfig]] = section("nats", BusConfig)
LOG: Final[Section[LogConfig]] = section("log", LogConfig)
QUIET_LOG: Final[Section[LogConfig]] = section("log", LogConfig, defaults={"level": "warning"})
"""For commands whose output is for people: the client's own remarks would only get between it."""

PATIENT_S: Final = 2.0
"""A person waits less long for a server than an actor, which may have been started before it."""

CLIENT: Final[dict[str, Section[Any]]] = {
    "bus": section("nats", BusConfig, defaults={"connect_timeout_s": PATIENT_S}),
    "log": QUIET_LOG,
}
METRICS: Final[Section[MetricsConfig]] = section("metrics", MetricsConfig)
TRACING: Final[Section[TracingConfig]] = section("tracing", TracingConfig)
ACTOR: Final[dict[str, Section[Any]]] = {"bus": BUS, "log": LOG, "metrics": METRICS, "tracing": TRACING}


def for_clients(**sections: Section[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a command that speaks to the fleet: it gets the bus's and the log's settings beside its own."""
    return with_settings(KNOWN, **sections, **CLIENT)


def for_actors(**sections: Section[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a command that runs an actor: it gets settings of bus, log, metrics and tracing beside its own."""
    return with_settings(KNOWN, **sections, **ACTOR)
