"""From pieces to the connection: one answer on its way out, and the faults that strike it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sollol_agents.lab.emulator.faults import FaultKind
from sollol_agents.lab.emulator.http import NO_CACHE
from sollol_agents.lab.emulator.refusals import NO_LONGER_RUNNING, UNEXPECTED_EOF, RefusalError
from sollol_agents.lab.emulator.refusing import refuse
from sollol_agents.lab.emulator.text import Piece

if TYPE_CHECKING:
    from collections.abc import Callable

    from sollol_agents.lab.emulator.calls import Call
    from sollol_agents.lab.emulator.dialects import Figures
    from sollol_agents.lab.emulator.faults import Fault
    from sollol_agents.lab.emulator.http import Responder

_CUT_BYTES: Final = 20  # well inside a message of any dialect


class Delivery:
    """Writes the pieces of one call to its connection, or keeps them until the end.

    Attributes:
        ended: set when the job has ended or a fault has ended the answer.
        is_broken: a fault has ended the answer; nothing more may be written.
        on_stall: called when a stall strikes, with the fault.
    """

    def __init__(self, path: str, call: Call, responder: Responder, fault: Fault | None) -> None:
        self.ended = asyncio.Event()
        self.is_broken = False
        self.on_stall: Callable[[Fault], None] | None = None
        self._path = path
        self._call = call
        self._responder = responder
        self._fault = fault
        self._sent = 0
        self._kept: list[Piece] = []

    def piece(self, piece: Piece) -> None:
        """Passes one token on."""
        if self.is_broken:
            return
        if self._call.is_stream:
            self._write(self._call.dialect.piece(piece))
        else:
            self._kept.append(piece)
        self._sent += 1
        if self._fault is not None and self._sent == self._fault.after_tokens:
            self.strike(self._fault)

    def finish(self, figures: Figures) -> None:
        """Ends the answer properly."""
        if self.is_broken:
            return
        dialect = self._call.dialect
        if not self._call.is_stream or not self._call.prompt:
            self._responder.send(200, dialect.whole(self._kept, figures))
            return
        self._open()
        self._responder.end(dialect.closing(figures))

    def die(self, *, has_begun: bool = True) -> None:
        """Ends the answer as an engine that died does; one that waited for a slot has other words."""
        self.is_broken = True
        if self._responder.has_started:
            self._responder.end(self._call.dialect.broken())
        else:
            refuse(self._responder, self._path, RefusalError(UNEXPECTED_EOF if has_begun else NO_LONGER_RUNNING, 500))
        self.ended.set()

    def strike(self, fault: Fault) -> None:
        """Lets a fault end the answer; those that only delay are the caller's to perform."""
        match fault.kind:
            case FaultKind.RESET:
                self._responder.reset()
            case FaultKind.ERROR_LINE:
                self.die()
            case FaultKind.END_EARLY:
                self._open()
                self._responder.end()
            case FaultKind.TRUNCATE:
                self._open()
                self._responder.write(self._call.dialect.piece(Piece("0"))[:_CUT_BYTES])
                self._responder.cut()
            case FaultKind.STALL if self.on_stall is not None:
                self.on_stall(fault)
                return
            case _:
                return
        self.is_broken = True
        self.ended.set()

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._responder.has_started:
            self._responder.write(data)
        else:
            self._open(data)

    def _open(self, first: bytes = b"") -> None:
        if self._responder.has_started:
            return
        dialect = self._call.dialect
        if not dialect.is_cached:
            self._responder.extra += NO_CACHE
        self._responder.start(dialect.content_type, first)
