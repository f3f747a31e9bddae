"""Settings of a node monitor."""

from __future__ import annotations

import base64
import re
import socket
from typing import Annotated, Literal
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from sollol_bus.errors import ConfigError
from sollol_schemas.prices import Currency, NodePrice, PricePerHour, PricePerKwh
from sollol_schemas.telemetry import MAC, EngineKind

OLLAMA_URL = "http://127.0.0.1:11434"
OPENAI_URL = "http://127.0.0.1:8080"
USUAL_PORTS = (11434, 8080, 1234, 8000)
"""Of Ollama, of llama.cpp, of LM Studio, of vLLM."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a node monitor: one process beside one engine.

    Raises:
        ConfigError: The address has a user in it, and a key is given as well.
    """

    node_id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{0,56}$(?!\n)",
            description="Name of the node in the fleet; empty: made of the host's name.",
        ),
    ] = ""
    engine: Annotated[
        Literal["auto", "ollama", "openai"],
        Meta(
            description="The engine's dialect: ollama, openai (llama.cpp, vLLM and others), or auto: whichever answers."
        ),
    ] = "auto"
    url: Annotated[
        str, Meta(description=f"Address of the engine; empty: {OLLAMA_URL} for Ollama, {OPENAI_URL} for others.")
    ] = ""
    machine: Annotated[
        Literal["auto", "local", "remote"],
        Meta(
            description="Whose GPU, memory and load the node tells: local, this machine's; remote, those stated with "
            "vram_gb and ram_gb, or none; auto: local where the engine's address is one of this machine."
        ),
    ] = "auto"
    vram_gb: Annotated[
        float, Meta(ge=0, le=1e6, description="Video memory in GiB of a remote engine's machine; 0: not known.")
    ] = 0.0
    ram_gb: Annotated[
        float, Meta(ge=0, le=1e6, description="Main memory in GiB of a remote engine's machine; 0: not known.")
    ] = 0.0
    read_gpus: Annotated[
        bool,
        Meta(
            description="Read memory, load and power of the GPUs; without, only what the engine says of them is known."
        ),
    ] = True
    slots: Annotated[
        int, Meta(ge=0, le=1024, description="Attempts that run at a time; 0: what the engine says, 1 for Ollama.")
    ] = 0
    labels: Annotated[dict[str, str], Meta(description="Labels of the node, name to value.")] = {}
    weight: Annotated[float, Meta(gt=0, le=100, description="Factor on the node's share of work; 1 is neutral.")] = 1.0
    price_per_hour: Annotated[PricePerHour, Meta(description="What an hour of the node costs; 0 is a price too.")] = (
        None
    )
    price_per_kwh: Annotated[PricePerKwh, Meta(description="What a kilowatt-hour costs that it draws.")] = None
    currency: Annotated[Currency, Meta(description="The currency of its prices, a short word like EUR.")] = ""
    power_idle_w: Annotated[
        float, Meta(ge=0, le=1e6, description="Watts that the machine draws when idle; 0: as the GPUs' drivers tell.")
    ] = 0.0
    power_busy_w: Annotated[
        float, Meta(ge=0, le=1e6, description="Watts that it draws when busy; 0: as the GPUs' drivers tell, if any do.")
    ] = 0.0
    preferred_task_types: Annotated[
        tuple[str, ...], Meta(description="Task types that the node should get rather than others.")
    ] = ()
    host_priority: Annotated[int, Meta(ge=0, description="Rank of the host for `seven_factor`; 0 is best.")] = 0
    runner_options: Annotated[
        Literal["keep", "error", "allow"],
        Meta(
            description="Options that would make Ollama load a loaded model anew: keep leaves them out and says so, "
            "but lets the context grow for a prompt that needs it; error refuses the request, allow passes them on."
        ),
    ] = "keep"
    model_alias: Annotated[
        dict[str, str],
        Meta(
            description="Names under which models of an OpenAI-compatible engine are offered: offered to engine's own."
        ),
    ] = {}
    engine_api_key: Annotated[
        str,
        Meta(
            description="Bearer token for the engine; never logged. A user and password in its address will do instead."
        ),
    ] = ""
    heartbeat_s: Annotated[float, Meta(gt=0, le=60, description="Seconds between two full telemetry messages.")] = 1.0
    first_token_floor_s: Annotated[
        float, Meta(gt=0, description="An engine may take so many seconds to the first token whatever was predicted.")
    ] = 60.0
    load_floor_s: Annotated[
        float, Meta(gt=0, description="A model may take so many seconds to load whatever was predicted.")
    ] = 300.0
    gap_floor_s: Annotated[
        float, Meta(gt=0, description="An engine may be silent between two tokens for so many seconds.")
    ] = 30.0
    open_paths: Annotated[
        tuple[str, ...],
        Meta(description="Engine paths that requests may use although they change it or tell of its inside."),
    ] = ()
    sleep_command: Annotated[
        str,
        Meta(
            max_length=1000,
            description="Command that sends this machine to sleep when nobody needs it, run without a shell; empty: "
            "it never sleeps.",
        ),
    ] = ""
    sleep_after_idle_s: Annotated[
        float, Meta(ge=0, le=604_800, description="Idle time after which it asks to sleep; 0: only when told to.")
    ] = 900.0
    min_awake_s: Annotated[
        float, Meta(ge=0, le=604_800, description="It is left awake for so long at least once it came.")
    ] = 900.0
    wake_mac: Annotated[
        str,
        Meta(
            pattern=MAC,
            description="MAC address of this machine, in small letters with colons: what a magic packet holds.",
        ),
    ] = ""
    wake_broadcast: Annotated[
        str, Meta(max_length=64, description="Where magic packets for it go: the broadcast address of its network.")
    ] = "255.255.255.255"
    waker: Annotated[
        bool, Meta(description="Whether this node sends magic packets for others, to the network that it is in.")
    ] = False
    wake_commands: Annotated[
        dict[str, str], Meta(description="Commands that wake other nodes, by node id; run here, without a shell.")
    ] = {}
    hand_over: Annotated[
        bool,
        Meta(
            description="Answers that can go on elsewhere do so at once when the node stops or takes no new work; "
            "without, they finish here."
        ),
    ] = True
    drain_timeout_s: Annotated[
        float, Meta(ge=0, description="Seconds that running attempts get to finish when the node stops.")
    ] = 30.0

    def __post_init__(self) -> None:
        """Takes a user out of the engine's address, so that nobody who shows that shows a password."""
        before, at, host = engine_url(self.url).rpartition("@")
        scheme, slashes, userinfo = before.partition("://")
        if not at or "/" in userinfo:
            return
        if self.engine_api_key:
            raise ConfigError("the engine's address has a user in it, and engine_api_key is given; give one of them")
        text = unquote(userinfo).encode()
        msgspec.structs.force_setattr(self, "url", f"{scheme}{slashes}{host}")
        msgspec.structs.force_setattr(self, "engine_api_key", f"Basic {base64.b64encode(text).decode()}")

    def __repr__(self) -> str:
        """The settings without the key."""
        return f"NodeConfig(node_id={self.node_id!r}, engine={self.engine!r}, url={self.url!r}, slots={self.slots})"


def price_of(config: NodeConfig) -> NodePrice:
    """What the node costs, as configured."""
    return NodePrice(per_hour=config.price_per_hour, per_kwh=config.price_per_kwh, currency=config.currency)


def node_id_of(config: NodeConfig, host: str | None = None) -> str:
    """The configured node id, or one made of the host's name (by default this host's)."""
    return config.node_id or bus_id_from(socket.gethostname() if host is None else host)


def bus_id_from(text: str) -> str:
    """`text` as one token of a subject: the first label of a host name, other characters as hyphens, 56 at most."""
    first = text.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", first).strip("-")[:56] or "node"


def engine_candidates(config: NodeConfig) -> tuple[tuple[EngineKind, str], ...]:
    """Which engines to look for, and where, in order: a given URL may speak either dialect."""
    kinds = (EngineKind.OLLAMA, EngineKind.OPENAI) if config.engine == "auto" else (EngineKind(config.engine),)
    usual = {EngineKind.OLLAMA: OLLAMA_URL, EngineKind.OPENAI: OPENAI_URL}
    return tuple((kind, engine_url(config.url or usual[kind])) for kind in kinds)


def engine_url(text: str) -> str:
    """An engine's base URL: with a scheme, without a trailing slash, `/v1` or `/api`, which clients are often given."""
    url = (text if "://" in text else f"http://{text}").rstrip("/")
    return url.removesuffix("/v1").removesuffix("/api").rstrip("/")
