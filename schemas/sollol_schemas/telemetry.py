"""Telemetry: what a node says about itself, once a second in full and at once when its load changes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.decision import Forecast
from sollol_schemas.instants import NOT_WRITTEN, take_over
from sollol_schemas.prices import NodePrice, Power
from sollol_schemas.units import (
    BusId,
    Bytes,
    Celsius,
    Count,
    FormerInstant,
    Instant,
    Mib,
    Priority,
    Ratio,
    Seconds,
    Tokens,
    TokensPerSecond,
    Watts,
    Weight,
)

MAC = r"^([0-9a-f]{2}(:[0-9a-f]{2}){5})?$(?!\n)"
"""What a MAC address looks like; or nothing."""


class EngineKind(StrEnum):
    """The dialects of engines that a node can drive."""

    OLLAMA = "ollama"  # Ollama's native API
    OPENAI = "openai"  # any server that speaks OpenAI's API: llama.cpp, vLLM, SGLang, LM Studio
    OTHER = "other"  # whatever an agent of somebody else's drives; it serves all its models without loading them


class NodeState(StrEnum):
    """A node's health as the scorer sees it."""

    UP = "up"
    SUSPECT = "suspect"  # heartbeats are late, or an attempt just failed
    DOWN = "down"  # no heartbeats for too long, or known to be gone
    DRAINING = "draining"  # finishes what it has, takes no new work


class Gpu(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU as its driver reports it."""

    index: Count
    name: str
    memory_total_mib: Mib
    memory_used_mib: Mib = 0.0
    memory_free_mib: Mib = 0.0
    utilisation_ratio: Ratio | None = None
    temperature_c: Celsius | None = None
    power_w: Watts | None = None
    driver: str = ""
    """`nvml`, `amdgpu`, `apple`, `engine` (nobody but the engine tells of it), `stated` or `emulated`."""
    shares_ram: bool = False
    """Its memory is the machine's, or cannot be read: then the figures are those of main memory."""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The engine beside the node."""

    kind: EngineKind
    url: str
    version: str = ""
    is_reachable: bool = True
    detail: str = ""
    """What is wrong, when it is not reachable."""


class InstalledModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model on the engine's disk (or the one a single-model engine serves)."""

    name: str
    size_bytes: Bytes = 0
    digest: str = ""
    blob: str = ""
    """Digest of its weights: models of one blob share the memory. Empty when unknown."""
    family: str = ""
    parameter_count: Count = 0
    quantization: str = ""
    context_length: Tokens = 0
    """The longest context it was trained for; 0 when unknown."""
    usual_context_length: Tokens = 0
    """The context that it is loaded with when nobody asks for one; 0 when unknown."""
    kv_bytes_per_token: Bytes = 0
    """Bytes of key-value cache for one token of one slot; 0 when unknown."""
    capabilities: tuple[str, ...] = ()
    fingerprint: str = ""
    """Equal on nodes that would go on with each other's answers: engine, weights and template; empty: none can."""
    slots: Count = 0
    """Slots of this model, where they differ from the node's; 0: the node's."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model in memory."""

    name: str
    size_bytes: Bytes = 0
    vram_bytes: Bytes = 0
    context_length: Tokens = 0
    expires_in_s: Seconds | None = None
    """Until the engine unloads it when idle; None: never, or unknown."""


class Movable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a scorer must know of an attempt that another one granted, to have it cut."""

    priority: Priority = 5
    deadline_s: Seconds = 0.0
    """Until its deadline."""
    cuts: Count = 0
    """How often its request was moved on purpose before."""


class InFlight(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt in one of the node's slots."""

    attempt_id: BusId
    model: str
    elapsed_s: Seconds = 0.0
    output_tokens: Tokens = 0
    has_first_token: bool = False
    is_loading: bool = False
    forecast: Forecast = Forecast()
    movable: Movable | None = None
    """Set where its caller goes on wherever the model is; what wants more than the model is not told."""


class LearnedSpeed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the node measured of one model on its engine, alone in its slot."""

    model: str
    prompt_tps: TokensPerSecond = 0.0
    decode_tps: TokensPerSecond = 0.0
    load_s: Seconds = 0.0
    samples: Count = 0


class Sleeper(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a node sleeps while nobody needs it, and what wakes it, as it is configured there."""

    mac: Annotated[str, Meta(pattern=MAC, description="MAC address of the network card that a magic packet wakes.")] = (
        ""
    )
    """Empty: a command of whoever wakes it does that, which must be configured there."""
    broadcast: Annotated[str, Meta(max_length=64, description="Where magic packets for it go.")] = ""
    min_awake_s: Seconds = 0.0
    """It is left awake for so long at least."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often the node was asked for something since its start."""

    what: Annotated[str, Meta(max_length=64, description="Which of its subjects, as services name it.")]
    requests: Count = 0
    errors: Count = 0
    last_error: Annotated[str, Meta(max_length=64)] = ""
    processing_s: Seconds = 0.0
    """Until the first answer, of all requests together."""


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="node.telemetry.v1"):
    """The full heartbeat of a node, once a second."""

    node_id: BusId
    instance: BusId
    """New at every start of the node's process."""
    revision: Count
    """Revision of the key-value entry with which this instance claimed its id; the highest owns it."""
    seq: Count
    """Counts this instance's telemetry and load messages together; an older one is ignored."""
    engine: EngineInfo
    slots: Count
    """How many attempts the node runs at a time."""
    in_flight: tuple[InFlight, ...] = ()
    is_draining: bool = False
    takes_rests: bool = False
    """Whether it goes on with answers that no other node can go on with, although it drains; not so once it leaves."""
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""
    """What is wrong with a GPU or its driver, and what that costs; empty: nothing."""
    cpu_count: Count = 1
    cpu_load_ratio: Annotated[float, Meta(ge=0, description="Load average over one minute per core.")] = 0.0
    ram_total_mib: Mib = 0.0
    ram_available_mib: Mib = 0.0
    installed: tuple[InstalledModel, ...] = ()
    loaded: tuple[LoadedModel, ...] = ()
    speeds: tuple[LearnedSpeed, ...] = ()
    bus_rtt_s: Seconds = 0.0
    uptime_s: Seconds = 0.0
    labels: dict[str, str] = {}
    weight: Weight = 1.0
    price: NodePrice = NodePrice()
    power: Power = Power()
    preferred_task_types: tuple[str, ...] = ()
    host_priority: Count = 0
    """The operator's rank of this host for `seven_factor`; 0 is best."""
    version: str = ""
    """Version of this software on the node."""
    contract: Count = 1
    """Which messages it understands, see `sollol_schemas.contract`."""
    host: str = ""
    """Name of the machine on which the engine runs."""
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=16)] = ()
    """IP addresses of that machine, but for those that every machine has."""
    sent_at: Instant = ""
    """When it was sent, by the node's own clock."""
    unix_s: FormerInstant = NOT_WRITTEN
    asked: Annotated[tuple[Asked, ...], Meta(max_length=16)] = ()
    sleeper: Sleeper | None = None
    """Set where the node sleeps while nobody needs it."""
    is_waker: bool = False
    """Whether it wakes others, with magic packets to its own network or with commands that are configured there."""

    def __post_init__(self) -> None:
        """Reads what older versions wrote."""
        take_over(self, "unix_s", "sent_at")

    @property
    def price_in_words(self) -> str:
        """What it costs, as a person reads it, and what is missing to know that; empty: it has no price."""
        is_lacking = self.price.per_kwh is not None and self.power.busy_w is None
        return f"{self.price} (its power is not known)" if is_lacking else str(self.price)

    @property
    def has_gpu(self) -> bool:
        """Whether the node has a GPU of any kind."""
        return bool(self.gpus)


class LoadUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="node.load.v1"):
    """A node's change of load, at most 20 a second."""

    node_id: BusId
    instance: BusId
    seq: Count
    slots: Count
    in_flight: tuple[InFlight, ...] = ()
    is_draining: bool = False
    takes_rests: bool = False
    """Whether it goes on with answers that no other node can go on with, although it drains; not so once it leaves."""
    loaded: tuple[LoadedModel, ...] | None = None
    """The loaded models when they changed; None: as before."""
    has_left: bool = False
    """This instance's last word: it ended in order, and nothing of it is missing."""
    is_asleep: bool = False
    """It goes to sleep, and can be woken; its next heartbeat says that it is back."""
