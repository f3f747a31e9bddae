"""What the node knows of its engine at the moment: the newest inventory, the loaded models, whether it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineInventory, PretendedMachine
from sollol_agents.node.engines.runners import InForce, Runners
from sollol_agents.requests.names import canonical
from sollol_schemas.telemetry import EngineInfo, EngineKind, InstalledModel, LoadedModel

FAILURES_UNTIL_UNREACHABLE: Final = 2
_RECENT_S: Final = 2.0
_DETAIL_MAX: Final = 200
"""An engine's own words may be a whole page."""


class EngineView(msgspec.Struct, kw_only=True):
    """The engine as last seen; changed by whoever asks the engine and by the attempts that hear from it."""

    kind: EngineKind
    url: str
    inventory: EngineInventory = EngineInventory()
    loaded: tuple[LoadedModel, ...] = ()
    runners: Runners = msgspec.field(default_factory=Runners)
    looks: int = 0
    """Changes whenever the loaded models are known anew: an older look says nothing any more."""
    pretended: PretendedMachine | None = None
    """The machine of an emulated engine, which stands for this one."""
    detail: str = "not asked yet"
    failures: int = FAILURES_UNTIL_UNREACHABLE
    """How many times in a row it did not answer."""
    by_name: tuple[tuple[InstalledModel, ...], Mapping[str, InstalledModel]] = ((), MappingProxyType({}))
    """The models on disk, and the first of each name among them; made anew for another inventory."""

    def answered(self) -> None:
        """The engine answered a question."""
        self.failures, self.detail = 0, ""

    def failed(self, detail: str) -> None:
        """The engine did not answer, or not in its dialect."""
        self.failures += 1
        self.detail = detail if len(detail) <= _DETAIL_MAX else f"{detail[: _DETAIL_MAX - 1]}…"

    def is_reachable(self, silent_s: float) -> bool:
        """Whether work may be sent there.

        One failed question proves nothing, and an engine whose side questions hang while tokens come is working.

        Args:
            silent_s: Seconds since a running attempt last heard from it; infinite when none runs.
        """
        return self.failures < FAILURES_UNTIL_UNREACHABLE or silent_s < _RECENT_S

    def info(self, silent_s: float) -> EngineInfo:
        """The engine as telemetry tells it."""
        is_reachable = self.is_reachable(silent_s)
        return EngineInfo(
            kind=self.kind,
            url=self.url,
            version=self.inventory.version,
            is_reachable=is_reachable,
            detail="" if is_reachable else self.detail,
        )

    def installed_model(self, name: str) -> InstalledModel | None:
        """What is known of a model on disk."""
        models = self.inventory.installed
        if self.by_name[0] is not models:
            self.by_name = models, {canonical(one.name): one for one in reversed(models)}
        return self.by_name[1].get(canonical(name))

    def loaded_model(self, name: str) -> LoadedModel | None:
        """What is known of a model in memory."""
        wanted = self.blob(name)
        return next((one for one in self.loaded if self.blob(one.name) == wanted), None)

    def blob(self, name: str) -> str:
        """What names that share a place in memory have in common: their weights, as far as these are known."""
        model = self.installed_model(name)
        return (model.blob or model.digest if model is not None else "") or canonical(name)

    @property
    def installed(self) -> tuple[InstalledModel, ...]:
        """The models on disk, with the contexts that they get by themselves as far as loads have shown them."""
        return tuple(
            one
            if not (usual := self.runners.automatic_tokens(canonical(one.name)))
            else msgspec.structs.replace(one, usual_context_length=usual)
            for one in self.inventory.installed
        )

    def in_force(self, name: str) -> InForce:
        """How a model is loaded."""
        installed, loaded = self.installed_model(name), self.loaded_model(name)
        trained_tokens = installed.context_length if installed is not None else 0
        if loaded is None:
            return InForce(trained_tokens=trained_tokens)
        return self.runners.in_force(
            self.blob(name),
            canonical(name),
            context_tokens=loaded.context_length,
            trained_tokens=trained_tokens,
            own_tokens=installed.usual_context_length if installed is not None else 0,
        )

    def saw(self, loaded: tuple[LoadedModel, ...]) -> None:
        """The engine told which models are loaded."""
        self.looks += 1
        self.loaded = loaded
        stays_s = {self.blob(one.name): math.inf if one.expires_in_s is None else one.expires_in_s for one in loaded}
        self.runners.look(stays_s)

    def model_slots(self, name: str) -> int:
        """How many attempts of this model may run at a time, where that differs from the node's slots; else 0."""
        model = self.installed_model(name)
        return model.slots if model is not None else 0

    def gpu_share(self, name: str) -> float | None:
        """The part of a loaded model that lies in video memory."""
        model = self.loaded_model(name)
        if model is None or not model.size_bytes:
            return None
        return min(1.0, model.vram_bytes / model.size_bytes)

    def note_unloaded(self, name: str) -> None:
        """The engine was told to take a model out of memory."""
        self.looks += 1
        blob = self.blob(name)
        self.loaded = tuple(one for one in self.loaded if self.blob(one.name) != blob)
        self.runners.forget(blob)

    def note_loaded(self, name: str, options: Mapping[str, Any]) -> None:
        """The node loaded a model with these options, after which the engine told what is loaded, if it could."""
        self.looks += 1
        model = self.loaded_model(name)
        if model is None:
            self.loaded = (*self.loaded, LoadedModel(name=name))
        self.runners.loaded(self.blob(name), canonical(name), options, model.context_length if model else 0)
