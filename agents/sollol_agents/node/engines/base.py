"""What a node needs of an engine, whatever dialect it speaks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

import msgspec

from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.control import EngineOperation
from sollol_schemas.execution import Figures
from sollol_schemas.telemetry import EngineKind, Gpu, InstalledModel, LoadedModel


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request for an engine."""

    kind: RequestKind
    model: str
    """The model's name on this node."""
    body: bytes
    """The caller's body, without routing fields."""
    path: str = ""
    """The engine's path, for passthrough."""
    keep_alive_s: float | None = None
    """How long the engine should keep the model; None leaves it to the engine."""
    continued: ContinueFrom | None = None
    """What was said of the answer already; None: it begins."""


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is to be in memory."""

    model: str
    options: dict[str, Any] = {}
    """Load options of the engine that differ from its automatic ones."""
    keep_alive_s: float | None = None
    """How long the engine should keep it; negative: for ever; None leaves it to the engine."""


class EngineInventory(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is and has."""

    version: str = ""
    slots: int | None = None
    """How many requests it runs at a time, where it says so."""
    installed: tuple[InstalledModel, ...] = ()


class PretendedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that an emulated node pretends to be."""

    gpus: tuple[Gpu, ...]
    ram_total_mib: float


class Taker(Protocol):
    """Takes messages of an answer the moment the engine says them."""

    @property
    def has_room(self) -> bool:
        """Whether it takes some now."""

    def take(self, chunks: list[bytes]) -> None:
        """Takes what came together; only called while it has room."""


class EngineAnswer(ABC):
    """One request on an engine, running.

    `chunks` gives the messages for the caller, ready to be published, in lists of what came together; an empty list
    says that the engine works on what the caller gets later. It can be used once. It raises a `SollolError` when the
    engine fails, breaks its protocol or ends without its final message. Closing it early ends the request on the
    engine.
    """

    content_type: str = ""
    """The engine's Content-Type, known with the first chunk."""
    figures: Figures = Figures()
    """What the engine says that the request took; complete at the end."""
    output_chunks: int = 0
    """Chunks so far, each about one token."""
    is_whole: bool = False
    """Whether nothing follows what was given last, so that the end comes without any waiting; False: not known."""
    left_out: tuple[str, ...] = ()
    """Fields of the caller's body that the engine did not get, though they ask for something."""
    taker: Taker | None = None
    """Gets plain messages as they come, where the adapter does that; `chunks` gives all others."""
    seam_s: float = 0.0
    """Of an answer that goes on: seconds until the engine was asked for the rest."""

    @abstractmethod
    def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """The messages for the caller."""

    @abstractmethod
    def join(self, chunks: list[bytes]) -> bytes:
        """The one reply for a caller who did not ask for a stream, from all the chunks."""


class Engine(Protocol):
    """An adapter to one engine. Every method raises `SollolError` when the engine does not do as it should."""

    kind: EngineKind
    url: str

    async def probe(self) -> str:
        """The engine's version; returns when the engine answers in its own dialect."""

    async def inventory(self) -> EngineInventory:
        """Version, slots and the models it could run."""

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in its memory."""

    async def pretended(self) -> PretendedMachine | None:
        """The machine of an emulated node as it is now; None for a real engine."""

    def run(self, request: EngineRequest) -> EngineAnswer:
        """Starts nothing yet: the request goes out when its chunks are asked for."""

    async def load(self, wanted: LoadRequest) -> None:
        """Returns when a model is in memory, with these options."""

    async def sample(self, loaded: LoadRequest) -> None:
        """Returns when a model that is in memory with these options has made one token, or one vector."""

    async def unload(self, model: str) -> None:
        """Takes a model out of memory."""

    def operate(self, operation: EngineOperation, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Asks about its models, or changes them; gives the engine's own JSON objects, and raises its own words."""

    async def upload(self, digest: str, pieces: AsyncIterator[bytes]) -> int:
        """Takes a file of a model; returns 201, or 200 when it has it already and took nothing."""

    async def aclose(self) -> None:
        """Closes its connections."""
