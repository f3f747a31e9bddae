"""Settings as the documents name them.

    SOLLOLConfig(hosts=["gpu-node-1:11434", "gpu-node-2:11434"], routing_strategy="performance", ray_workers=4)

A name that is not known is logged with the nearest one that is, and nothing else happens. What configured parts that
are not needed here, such as Ray's workers, is taken, kept and without effect; `without_effect` names it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

from sollol_bus.errors import ConfigError
from sollol_schemas.nearest import did_you_mean
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.routing import RoutingMode

log = logging.getLogger(__name__)

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=0, le=100_000)]

_BY_PRIORITY: Final = "priority"
_USUAL: Final = "plan"
_OLLAMA_PORT: Final = 11434
_OTHER_WORDS: Final = {"port": "gateway_port", "ollama_nodes": "hosts", "nodes": "hosts", "api_port": "gateway_port"}
"""What else people say for a setting."""
_IDLE: Final = frozenset(
    {
        *("ray_workers", "dask_workers", "dask_scheduler", "enable_batch_processing"),
        *("autobatch_enabled", "autobatch_interval", "autobatch_min_batch_size", "autobatch_max_batch_size"),
        *("adaptive_metrics_enabled", "adaptive_metrics_interval"),
        *("redis_host", "redis_port", "register_with_dashboard"),
    }
)


@dataclass(kw_only=True, init=False)
class SOLLOLConfig:
    """What to start, where, and with which engines.

    Raises:
        ConfigError: A value is of the wrong type or outside its range.
    """

    hosts: list[str] = field(default_factory=list)
    """Engines to drive from here, as `host`, `host:port` or URL. Empty: the fleet that this machine is set up for,
    else the engines that run on this machine."""
    nats: str = ""
    """Address of a fleet to use, as `nats://host:4222`, in place of `hosts`."""
    routing_strategy: str = ""
    """How a node is picked: one of the names of `sollol strategy`, or `priority`, for which the first of `hosts` is
    best. Empty: `plan`, least predicted completion time."""
    default_routing_mode: RoutingMode = RoutingMode.FAST
    """Mode of requests that name none."""
    gateway_enabled: bool = True
    """Whether `SOLLOL` serves HTTP."""
    gateway_port: Port = 8000
    """Port of the gateway; 0 picks a free one."""
    gateway_host: str = "127.0.0.1"
    """Address of the gateway. Any but a loopback one wants `auth_enabled`."""
    auth_enabled: bool = False
    """Whether the gateway refuses requests without an API key."""
    metrics_enabled: bool = False
    """Whether to serve Prometheus metrics on a port of their own; the gateway's `/metrics` is always there."""
    metrics_port: Port = 9090
    """Port of these metrics; 0 picks a free one."""
    enable_dashboard: bool = False
    """Whether to serve the dashboard."""
    dashboard_port: Port = 8080
    """Port of the dashboard; 0 picks a free one."""
    discovery_enabled: bool = True
    """Whether to look for engines on this machine where neither `hosts` nor a fleet is named."""
    discovery_timeout: Seconds = 10.0
    """Seconds within which the nodes must have shown themselves; those that have not are waited for no longer."""
    enable_vram_monitoring: bool = True
    """Whether nodes read this machine's GPUs."""
    health_check_interval: Seconds = 30.0
    """Seconds between two looks of `periodic_health_check`; nodes tell of themselves each second in any case."""
    store_dir: str = ""
    """Directory of everything that is kept; empty: a temporary one, so that what was learnt ends with the program."""
    app_name: str = "sollol-compat"
    """Name of the program's connection."""
    log_level: str = ""
    """Level of our loggers; empty: as logging is set up."""
    ray_workers: Count = 2
    dask_workers: Count = 2
    dask_scheduler: str | None = None
    enable_batch_processing: bool = True
    autobatch_enabled: bool = True
    autobatch_interval: Seconds = 60.0
    autobatch_min_batch_size: Count = 1
    autobatch_max_batch_size: Count = 100
    adaptive_metrics_enabled: bool = True
    adaptive_metrics_interval: Seconds = 30.0
    redis_host: str = "localhost"
    redis_port: Port = 6379
    register_with_dashboard: bool = True

    def __init__(self, **settings: object) -> None:
        known = {one.name for one in fields(type(self))}
        given = {}
        for said, value in settings.items():
            name = _OTHER_WORDS.get(said, said)
            if name in known:
                given[name] = _hosts(value) if name == "hosts" else value
            else:
                log.warning(
                    "SOLLOLConfig has no setting %r%s; it is left out",
                    said,
                    did_you_mean(said, [*known, *_OTHER_WORDS]),
                    extra={"action": "unknown_setting"},
                )
        if isinstance(mode := given.get("default_routing_mode"), str):
            given["default_routing_mode"] = mode.lower()
        try:
            checked = msgspec.convert(given, type(self), strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"SOLLOLConfig: {in_plain_words(str(error))}") from error
        self.__dict__.update(checked.__dict__)

    @classmethod
    def of(cls, config: SOLLOLConfig | Mapping[str, object] | None, settings: Mapping[str, object]) -> SOLLOLConfig:
        """The settings that a program gave as an object, as a mapping, as keywords, or not at all."""
        if isinstance(config, SOLLOLConfig):
            return config.changed(**settings) if settings else config
        return cls(**{**(config or {}), **settings})

    @classmethod
    def auto_discover(cls, **settings: object) -> Self:
        """Settings that name no engines: they are looked for at the start."""
        return cls(**settings)

    @property
    def strategy(self) -> str:
        """The strategy of this system that is meant."""
        return "seven_factor" if self.routing_strategy == _BY_PRIORITY else self.routing_strategy or _USUAL

    @property
    def without_effect(self) -> list[str]:
        """Settings that were changed and for which there is nothing to do here."""
        usual = type(self)().to_dict()
        return sorted(name for name in _IDLE if getattr(self, name) != usual[name])

    def changed(self, **settings: object) -> Self:
        """The same with other values."""
        return type(self)(**{**self.to_dict(), **settings})

    def validate(self) -> None:
        """Checks what may have been assigned since.

        Raises:
            ConfigError: A value is of the wrong type or outside its range.
        """
        type(self)(**self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name."""
        return {one.name: getattr(self, one.name) for one in fields(type(self))}


def _hosts(value: object) -> object:
    """Hosts given as texts, separated by commas, or as mappings of `host` and `port`."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        return value
    return [_host(one) if isinstance(one, Mapping) else one for one in value]


def _host(said: Mapping[str, object]) -> object:
    if "host" not in said:
        raise ConfigError(f"SOLLOLConfig: a host is 'name:port' or {{'host': name, 'port': number}}, not {dict(said)}")
    return f"{said['host']}:{said.get('port', _OLLAMA_PORT)}"
