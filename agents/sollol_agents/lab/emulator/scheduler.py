"""Which model an Ollama node loads, evicts or waits for; pure decisions.

Requests for a loaded model with the same effective runner options are handed out at once.
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
SHORTEST_CTX_TOKENS: Final = 4
BATCH_TOKENS: Final = 512
_EMBEDDING_BATCH_TOKENS: Final = 2048
_SMALL_CTX_TOKENS: Final = 4096
_DRAFT_TOKENS: Final = 4
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
    shift: bool = True

    def needs_reload(self, wanted: RunnerOptions) -> bool:
        """True when a request with other values than these must have the model loaded again.

        Both are effective values: an automatic one has its number, and so differs from what was loaded with another.
        Only the layers on the GPU match whatever was loaded when a request does not name them.
        """
        if wanted.num_gpu is None:
            wanted = msgspec.structs.replace(wanted, num_gpu=self.num_gpu)
        return wanted != self


def effective(options: RunnerOptions, *, automatic_ctx_tokens: int, trained_ctx_tokens: int) -> RunnerOptions:
    """Returns options with the values that come of them: the context lies between 4 and the trained one."""
    ctx_tokens = automatic_ctx_tokens if options.num_ctx is None else max(options.num_ctx, SHORTEST_CTX_TOKENS)
    return msgspec.structs.replace(
        options,
        num_ctx=min(ctx_tokens, trained_ctx_tokens),
        num_batch=options.num_batch or BATCH_TOKENS,
        num_gpu=None if options.num_gpu is None or options.num_gpu < 0 else options.num_gpu,
        num_thread=options.num_thread or None,
        draft_num_predict=_DRAFT_TOKENS if options.draft_num_predict is None else options.draft_num_predict,
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
        is_dead: its process has ended; it is shown until somebody finds out.
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
    is_dead: bool = False

    def serves(self, wanted: RunnerOptions) -> bool:
        """True when a request with these options can be handed out without a load."""
        return not self.is_dead and not self.options.needs_reload(wanted)

    @property
    def gpu_ratio(self) -> float:
        """Share of the model on the GPU, 0 to 1."""
        return self.vram_bytes / self.size_bytes


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs: a model, with these effective options, for that many slots."""

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
    same = next((one for one in loaded if one.model.weights == wanted.model.weights), None)
    if same is not None:
        return Use(same) if not same.is_leaving and same.serves(wanted.options) else Unload(same)
    victim = choose_victim(loaded)
    if victim is not None and len(loaded) >= (max_loaded or MAX_LOADED_PER_GPU):
        return Unload(victim)
    return place(wanted, loaded, preset) or Unload(_required(victim))


def place(wanted: Wanted, loaded: Sequence[Loaded], preset: Preset) -> Load | None:
    """Returns how the model is placed in memory, or None when something must be evicted first.

    Beside others it must fit 80 % of what is free; the first one is loaded anyway and
    split between GPU and RAM.
    """
    ctx_tokens = wanted.options.num_ctx
    assert ctx_tokens is not None
    size = timing.real_bytes(wanted.model, ctx_tokens=ctx_tokens, slots=wanted.slots)
    used = sum(one.vram_bytes if preset.vram_mib else one.size_bytes for one in loaded)
    free = preset.memory_mib * _MIB - used
    if loaded and not _fits(wanted.model, ctx_tokens, wanted.slots, free):
        return None
    on_gpu = 0 if not preset.vram_mib or wanted.options.num_gpu == 0 else min(size, free * 95 // 100)
    return Load(options=wanted.options, size_bytes=size, vram_bytes=on_gpu)


def choose_victim(loaded: Sequence[Loaded]) -> Loaded | None:
    """Returns the model to evict: idle ones first, shortest keep-alive first, then by name; not LRU."""
    ordered = sorted(loaded, key=lambda one: (one.keep_alive_s, one.model.weights))
    return next((one for one in ordered if not one.in_flight), ordered[0] if ordered else None)


def slots_of(model: ModelSpec, configured: int) -> int:
    """Returns how many requests a model runs at once; an embedding model always one."""
    return 1 if model.is_embedding else configured


def batch_flag(options: RunnerOptions, slots: int, *, is_embedding: bool) -> int:
    """Returns the batch with which the engine is started: larger for large contexts, largest for embeddings."""
    assert options.num_ctx is not None
    if is_embedding:
        return _EMBEDDING_BATCH_TOKENS
    if options.num_batch != BATCH_TOKENS:
        return options.num_batch or BATCH_TOKENS
    return BATCH_TOKENS if options.num_ctx * slots <= _SMALL_CTX_TOKENS else 2 * BATCH_TOKENS


def _fits(model: ModelSpec, ctx_tokens: int, slots: int, free_bytes: int) -> bool:
    """True when the prediction stays within 80 % of the free memory."""
    need = timing.predicted_bytes(model, ctx_tokens=ctx_tokens, slots=slots)
    return need <= free_bytes * _FIT_RATIO


def _required(victim: Loaded | None) -> Loaded:
    """Returns the victim: whenever nothing fits, something is loaded."""
    assert victim is not None
    return victim
