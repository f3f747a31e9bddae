"""The settings that every command about the fleet takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import Form, on_screen
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.cli.settings.section import Section
from sollol_agents.cli.settings.sections import SECTIONS, section
from sollol_agents.metering.config import MetricsConfig
from sollol_bus.observe.tracing import TracingConfig
from sollol_bus.transport.connection import BusConfig

KNOWN: Final = tuple(SECTIONS)
"""Every table that a settings file may have."""

JsonFlag = Annotated[
    bool, Parameter(name="--json", has_negative=False, show_default=False, help="Print JSON: -o json.")
]
WatchFlag = Annotated[
    bool,
    Parameter(name="--watch", has_negative=False, show_default=False, help="Show it anew every 2 s, until Ctrl-C."),
]
_OUTPUT: Final = inspect.Parameter(
    "output",
    inspect.Parameter.KEYWORD_ONLY,
    default=Form.TABLE,
    annotation=Annotated[
        Form,
        Parameter(
            name=("--output", "-o"),
            show_default=False,
            help="`wide` for every column, uncut; `json`, `yaml` for programs.",
        ),
    ],
)

BUS: Final[Section[BusConfig]] = section("nats", BusConfig)
LOG: Final[Section[LogConfig]] = section("log", LogConfig)
QUIET_LOG: Final[Section[LogConfig]] = section("log", LogConfig, defaults={"level": "warning", "format": "text"})
"""For commands whose output is for people: the client's own remarks are few, and in words."""

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
    fill = with_settings(KNOWN, **sections, **CLIENT)
    return lambda function: with_output(fill(function))


def for_actors(**sections: Section[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a command that runs an actor: it gets settings of bus, log, metrics and tracing beside its own."""
    return with_settings(KNOWN, **sections, **ACTOR)


def with_output(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the flag `--output`, where it has `--json`."""
    signature = inspect.signature(command)
    if "json_" not in signature.parameters:
        return command

    @functools.wraps(command)
    def shown(*args: Any, output: Form = Form.TABLE, **kwargs: Any) -> Any:  # noqa: ANN401 whatever the command takes
        if output in (Form.JSON, Form.YAML):
            kwargs["json_"] = True
        with on_screen(output):
            return command(*args, **kwargs)

    parameters = list(signature.parameters.values())
    place = next(i for i, p in enumerate(parameters) if p.name == "json_")
    parameters.insert(place, _OUTPUT)
    # the command line reads the signature, and the wrapped command's own must not shine through
    shown.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    shown.__annotations__ = {p.name: p.annotation for p in parameters}
    del shown.__wrapped__
    return shown
