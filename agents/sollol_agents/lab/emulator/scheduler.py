"""Which model an Ollama node loads, evicts or waits for; pure decisions.

Requests for a loaded model with the same runner options are handed out at once.
All others go through one bounded queue that is served strictly in order, one at a
time: the head loads if there is room, else a victim is chosen and, when it is busy,
waited for. Consequences that routers must live with: a full queue refuses only
requests that need a load, and a head that waits for a busy model can starve, because
new requests for that model are still let in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from sollol_agents.lab.emulator import timing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sollol_agents.lab.emulator.presets import Preset

from sollol_agents.lab.emulator.models import ModelSpec

MAX_LOADED_PER_GPU: Final = 3
_FIT_RATIO: Final = 0.8
_MIB: Final = 1024 * 1024


class RunnerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options whose change means that a model is loaded again; None is automatic."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None

    def needs_reload(self, wanted: RunnerOptions) -> bool:
        """True when a request that names other values than these was made.

        An automatic value in the request matches anything: a request without
        `num_ctx` never reloads.
        """
        return any(
            value is not None and value != getattr(self, name) for name, value in msgspec.structs.asdict(wanted).items()
        )


class Loaded(msgspec.Struct, kw_only=True):
    """A model in memory.

    Attributes:
        model: what is loaded.
        options: with which runner options, automatic ones filled in.
        slots: requests it runs at the same time.
        size_bytes: all memory it occupies.
        vram_bytes: the part on the GPU.
        keep_alive_s: how long it stays after its last request; infinite for ever.
        expires_at: when it is unloaded; not renewed while it is busy.
        in_flight: requests handed out and not ended.
        is_leaving: chosen as a victim; unloaded as soon as it is idle.
    """

    model: ModelSpec
    options: RunnerOptions
    slots: int
    size_bytes: int
    vram_bytes: int
    keep_alive_s: float
    expires_at: float
    in_flight: int = 0
    is_leaving: bool = False

    @property
    def gpu_ratio(self) -> float:
        """Share of the model on the GPU, 0 to 1."""
        return self.vram_bytes / self.size_bytes


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs: a model, with these options, for that many slots."""

    model: ModelSpec
    options: RunnerOptions
    slots: int


class Use(msgspec.Struct, frozen=True):
    """The model is there and matches."""

    loaded: Loaded


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """There is room: load it now, occupying this memory."""

    options: RunnerOptions
    size_bytes: int
    vram_bytes: int


class Unload(msgspec.Struct, frozen=True):
    """This one must go first; it is idle when `in_flight` is 0, else it is waited for."""

    victim: Loaded


def decide(wanted: Wanted, loaded: Sequence[Loaded], preset: Preset, *, max_loaded: int) -> Use | Load | Unload:
    """Returns what the head of the queue makes the node do."""
    same = next((one for one in loaded if one.model.digest == wanted.model.digest), None)
    if same is not None:
        leaves = same.is_leaving or same.options.needs_reload(wanted.options)
        return Unload(same) if leaves else Use(same)
    victim = choose_victim(loaded)
    if victim is not None and len(loaded) >= (max_loaded or MAX_LOADED_PER_GPU):
        return Unload(victim)
    return place(wanted, loaded, preset) or Unload(_required(victim))


def place(wanted: Wanted, loaded: Sequence[Loaded], preset: Preset) -> Load | None:
    """Returns how the model is placed in memory, or None when something must be evicted first.

    Beside others it must fit 80 % of what is free; the first one is loaded anyway and
    split between GPU and RAM.
    """
    ctx_tokens = wanted.options.num_ctx or timing.default_ctx_tokens(preset)
    ctx_tokens = min(ctx_tokens, wanted.model.ctx_tokens)
    options = msgspec.structs.replace(wanted.options, num_ctx=ctx_tokens)
    size = timing.real_bytes(wanted.model, ctx_tokens=ctx_tokens, slots=wanted.slots)
    used = sum(one.vram_bytes if preset.vram_mib else one.size_bytes for one in loaded)
    free = preset.memory_mib * _MIB - used
    if loaded and not _fits(wanted.model, ctx_tokens, wanted.slots, free):
        return None
    on_gpu = 0 if not preset.vram_mib or options.num_gpu == 0 else min(size, free * 95 // 100)
    return Load(options=options, size_bytes=size, vram_bytes=on_gpu)


def choose_victim(loaded: Sequence[Loaded]) -> Loaded | None:
    """Returns the model to evict: idle ones first, shortest keep-alive first, then by name; not LRU."""
    ordered = sorted(loaded, key=lambda one: (one.keep_alive_s, one.model.digest))
    return next((one for one in ordered if not one.in_flight), ordered[0] if ordered else None)


def slots_of(model: ModelSpec, configured: int) -> int:
    """Returns how many requests a model runs at once; an embedding model always one."""
    return 1 if model.is_embedding else configured


def _fits(model: ModelSpec, ctx_tokens: int, slots: int, free_bytes: int) -> bool:
    """True when the prediction stays within 80 % of the free memory."""
    need = timing.predicted_bytes(model, ctx_tokens=ctx_tokens, slots=slots)
    return need <= free_bytes * _FIT_RATIO


def _required(victim: Loaded | None) -> Loaded:
    """Returns the victim: whenever nothing fits, something is loaded."""
    assert victim is not None
    return victim
