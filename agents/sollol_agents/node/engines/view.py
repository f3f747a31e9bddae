"""What the node knows of its engine at the moment: the newest inventory, the loaded models, whether it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from sollol_agents.node.engines.base import EngineInventory, PretendedMachine
from sollol_agents.node.engines.runners import InForce, Runners
from sollol_agents.requests.names import canonical
from sollol_schemas.telemetry import EngineInfo, EngineKind, InstalledModel, LoadedModel

FAILURES_UNTIL_UNREACHABLE: Final = 2
_RECENT_S: Final = 2.0
_NAMES_MAX: Final = 1024
_DETAIL_MAX: Final = 200
"""An engine's own words may be a whole page."""


class Place(NamedTuple):
    """A model by its name: on disk, in memory, and where that is."""

    installed: InstalledModel | None
    loaded: LoadedModel | None
    blob: str


class Places:
    """The models on disk and in memory by any of their names; every attempt looks at them ten times.

    Args:
        installed: Those on disk; of one name, the first counts.
        loaded: Those in memory.
    """

    def __init__(self, installed: tuple[InstalledModel, ...], loaded: tuple[LoadedModel, ...]) -> None:
        self.installed = installed
        self.loaded = loaded
        self._on_disk = {canonical(one.name): one for one in reversed(installed)}
        self._in_memory = {self._blob(canonical(one.name)): one for one in reversed(loaded)}
        self._found: dict[str, Place] = {}

    def of(self, name: str) -> Place:
        """What is known of a name."""
        place = self._found.get(name)
        if place is None:
            if len(self._found) >= _NAMES_MAX:
                self._found.clear()
            known = canonical(name)
            blob = self._blob(known)
            place = self._found[name] = Place(self._on_disk.get(known), self._in_memory.get(blob), blob)
        return place

    def _blob(self, known: str) -> str:
        model = self._on_disk.get(known)
        return (model.blob or model.digest if model is not None else "") or known


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
    places: Places | None = None
    """What was found of each name; made anew when the models on disk or in memory are others."""

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
        return self._place(name).installed

    def loaded_model(self, name: str) -> LoadedModel | None:
        """What is known of a model in memory."""
        return self._place(name).loaded

    def blob(self, name: str) -> str:
        """What names that share a place in memory have in common: their weights, as far as these are known."""
        return self._place(name).blob

    def _place(self, name: str) -> Place:
        places = self.places
        if places is None or places.installed is not self.inventory.installed or places.loaded is not self.loaded:
            places = self.places = Places(self.inventory.installed, self.loaded)
        return places.of(name)

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
        installed, loaded, blob = self._place(name)
        trained_tokens = installed.context_length if installed is not None else 0
        if loaded is None:
            return InForce(trained_tokens=trained_tokens)
        return self.runners.in_force(
            blob,
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
