"""Settings of an emulated node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from sollol_agents.lab.emulator.faults import Fault
from sollol_agents.lab.emulator.presets import PRESETS
from sollol_agents.requests.ollama.fields import duration_s


class EmulatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an emulated Ollama node; it is never a real engine."""

    name: Annotated[str, msgspec.Meta(description="name shown in /emulator/state")] = "emulated"
    host: Annotated[str, msgspec.Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535, description="port; 0 picks a free one")] = 0
    preset: Annotated[str, msgspec.Meta(description=f"machine to pretend to be: {', '.join(PRESETS)}")] = "steady"
    model: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="models on disk, NAME[:TAG]=BILLIONS; empty means those of the preset"),
    ] = ()
    preload: Annotated[tuple[str, ...], msgspec.Meta(description="models in memory from the start")] = ()
    parallel: Annotated[int, msgspec.Meta(ge=1, description="requests a loaded model runs at once")] = 1
    max_queue: Annotated[int, msgspec.Meta(ge=1, description="requests that may wait for a load")] = 512
    max_loaded: Annotated[int, msgspec.Meta(ge=0, description="models in memory; 0 means three")] = 0
    keep_alive_s: Annotated[float, msgspec.Meta(description="seconds an idle model stays; negative for ever")] = 300.0
    ctx_tokens: Annotated[
        int, msgspec.Meta(ge=0, description="context of a request that names none; 0 as Ollama chooses it")
    ] = 0
    origins: Annotated[
        tuple[str, ...], msgspec.Meta(description="origins of pages allowed besides local ones; * for all")
    ] = ()
    seed: Annotated[int, msgspec.Meta(description="seed of all random draws")] = 1
    time_scale: Annotated[
        float,
        msgspec.Meta(gt=0, description="10 makes loads and tokens ten times faster; keep-alive and faults stay real"),
    ] = 1.0
    decode_tps: Annotated[
        float, msgspec.Meta(ge=0, description="tokens/s of every stream in place of the preset's model; 0 keeps it")
    ] = 0.0
    prefill_tps: Annotated[
        float, msgspec.Meta(ge=0, description="prompt tokens/s of an 8B model in place of the preset's; 0 keeps it")
    ] = 0.0
    download_gbps: Annotated[float, msgspec.Meta(gt=0, description="rate of a pull in 10^9 bytes/s")] = 0.1
    faults: Annotated[tuple[Fault, ...], msgspec.Meta(description="faults set at the start")] = ()


def ollama_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Returns the fields of a configuration that Ollama's own variables set."""
    fields: dict[str, Any] = {
        field: int(environ[name]) for name, field in _NUMBERS.items() if environ.get(name, "").isdigit()
    }
    if host := environ.get("OLLAMA_HOST", "").partition("://")[2] or environ.get("OLLAMA_HOST", ""):
        fields["host"] = host.partition(":")[0]
    if origins := environ.get("OLLAMA_ORIGINS", ""):
        fields["origins"] = tuple(origins.split(","))
    if keep := environ.get("OLLAMA_KEEP_ALIVE", ""):
        is_number = keep.lstrip("-").isdigit()
        fields["keep_alive_s"] = float(keep) if is_number else duration_s(keep)
    return fields


_NUMBERS: Final = {
    "OLLAMA_NUM_PARALLEL": "parallel",
    "OLLAMA_MAX_LOADED_MODELS": "max_loaded",
    "OLLAMA_MAX_QUEUE": "max_queue",
    "OLLAMA_CONTEXT_LENGTH": "ctx_tokens",
}
