"""Performs calls: waits for the model and a slot, runs a job, and sends what it says."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from sollol_agents.lab.emulator.batch import Job
from sollol_agents.lab.emulator.delivery import Delivery
from sollol_agents.lab.emulator.dialects import Figures
from sollol_agents.lab.emulator.faults import FaultKind
from sollol_agents.lab.emulator.http import TEXT
from sollol_agents.lab.emulator.refusals import BATCH_TOO_SMALL, RESET_WHILE_TOKENIZING, UNEXPECTED_EOF, RefusalError

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.calls import Call
    from sollol_agents.lab.emulator.embeddings import EmbedCall
    from sollol_agents.lab.emulator.faults import Fault, FaultBox
    from sollol_agents.lab.emulator.http import Responder
    from sollol_agents.lab.emulator.residency import Residency
    from sollol_agents.lab.emulator.runner import Runner
    from sollol_agents.lab.emulator.text import Piece

log = logging.getLogger(__name__)

_WARM_LOAD_S: Final = 0.002  # a loaded model still reports 1 to 5 ms
_FAULT_TEXTS: Final = {
    FaultKind.LOAD_ERROR: "llama runner process has terminated: error loading model: unable to load model",
    FaultKind.OUT_OF_MEMORY: "llama runner process has terminated: cudaMalloc failed: out of memory",
}


class Inference:
    """Everything between a call and its answer."""

    def __init__(self, residency: Residency, faults: FaultBox) -> None:
        self._residency = residency
        self._faults = faults

    async def generate(self, path: str, call: Call, responder: Responder) -> None:
        """Answers one call; cancelling it frees its slot at once.

        Raises:
            RefusalError: the queue is full, the engine refuses it, or a fault says so.
        """
        residency = self._residency
        arrived = residency.now()
        fault = self._faults.strike(path, call.model.name, arrived)
        delivery = Delivery(path, call, responder, fault)
        if fault is not None and await self._strike_first(fault, delivery, responder):
            return
        if not call.prompt and call.keep_alive_s == 0:
            residency.expire(call.model)
            delivery.finish(Figures(done_reason="unload"))
            return
        wanted = residency.wanted(call.model, call.options)
        runner = await residency.acquire(wanted, call.keep_alive_s)
        try:
            load_s = residency.now() - arrived + _WARM_LOAD_S / residency.time_scale
            if not call.prompt:
                delivery.finish(Figures(done_reason="load"))
                return
            if _is_answered_at_once(call, responder):
                return
            if call.options.num_batch == 1:
                residency.kill(runner)
                raise RefusalError(BATCH_TOO_SMALL, 500)
            job = await self._run(runner, call, delivery, fault)
        finally:
            residency.release(runner)
        if not delivery.is_broken:
            total_s = residency.now() - arrived
            delivery.finish(_figures(call, job, total_s=total_s, load_s=load_s))

    async def embed(self, call: EmbedCall, responder: Responder) -> Figures:
        """Returns the figures of an embedding once it is done; nothing is written unless a fault strikes.

        Raises:
            RefusalError: the queue is full, the engine refuses it, the model went away, or a fault says so.
        """
        residency = self._residency
        arrived = residency.now()
        await self._strike_embedding(self._faults.strike(call.path, call.model.name, arrived), responder)
        runner = await residency.acquire(residency.wanted(call.model, call.options), call.keep_alive_s)
        try:
            load_s = residency.now() - arrived + _WARM_LOAD_S / residency.time_scale
            if call.refusal is not None:
                raise call.refusal
            for tokens in call.inputs:
                await self._evaluate(runner, tokens)
        finally:
            residency.release(runner)
        count = sum(map(len, call.inputs))
        total_s = residency.now() - arrived
        return Figures(done_reason="stop", prompt_tokens=count, total_s=total_s, load_s=load_s)

    async def _run(self, runner: Runner, call: Call, delivery: Delivery, fault: Fault | None) -> Job:
        """Runs one job to its end, whatever that is; a job whose client left is taken out."""
        job = Job(
            prompt=call.prompt,
            output=call.answer.pieces,
            output_tokens=call.answer.tokens,
            on_piece=delivery.piece,
            on_end=delivery.ended.set,
        )
        if fault is not None:
            self._prepare(job, runner, delivery, fault)
        runner.submit(job)
        try:
            await delivery.ended.wait()
        finally:
            runner.cancel(job)
        if not job.is_complete and not delivery.is_broken:
            delivery.die(has_begun=not job.is_waiting)
        return job

    def _prepare(self, job: Job, runner: Runner, delivery: Delivery, fault: Fault) -> None:
        """Arms the faults that change how a job runs."""
        if fault.kind is FaultKind.SLOW:
            job.slow_factor = fault.factor

        def resume() -> None:
            job.is_paused = False
            runner.wake()

        def stall(struck: Fault) -> None:
            job.is_paused = True
            if struck.duration_s:
                asyncio.get_running_loop().call_later(struck.duration_s, resume)

        delivery.on_stall = stall
        if fault.kind is FaultKind.STALL and fault.after_tokens == 0:
            stall(fault)

    async def _evaluate(self, runner: Runner, tokens: list[str]) -> None:
        """Runs the prompt work of one embedding."""
        ended = asyncio.Event()
        job = Job(prompt=tokens, output=(), output_tokens=0, on_piece=_ignore, on_end=ended.set)
        runner.submit(job)
        try:
            await ended.wait()
        finally:
            runner.cancel(job)
        if not job.is_complete:
            raise RefusalError(RESET_WHILE_TOKENIZING)

    async def _strike_first(self, fault: Fault, delivery: Delivery, responder: Responder) -> bool:
        """Performs what a fault does before the first token; True when it has ended the answer."""
        if fault.kind in _FAULT_TEXTS:
            raise RefusalError(_FAULT_TEXTS[fault.kind], 500)
        if fault.kind is FaultKind.HANG:
            await _hang(fault)
        elif fault.kind is FaultKind.WRONG_CONTENT:
            responder.send(200, b"<html><body>It works!</body></html>", TEXT)
            return True
        elif fault.after_tokens == 0:
            delivery.strike(fault)
        return delivery.is_broken

    async def _strike_embedding(self, fault: Fault | None, responder: Responder) -> None:
        """Performs a fault on a request that has no tokens to send."""
        if fault is None:
            return
        if fault.kind in _FAULT_TEXTS:
            raise RefusalError(_FAULT_TEXTS[fault.kind], 500)
        if fault.kind in {FaultKind.HANG, FaultKind.STALL}:
            await _hang(fault)
        elif fault.kind is FaultKind.WRONG_CONTENT:
            responder.send(200, b"<html><body>It works!</body></html>", TEXT)
        elif fault.kind is FaultKind.ERROR_LINE:
            raise RefusalError(UNEXPECTED_EOF, 500)
        elif fault.kind is not FaultKind.SLOW:
            responder.reset()


def _is_answered_at_once(call: Call, responder: Responder) -> bool:
    """True when the engine refused the request, or was asked for nothing but the prompt."""
    if call.refusal is not None:
        raise call.refusal
    if call.rendered is not None:
        responder.send(200, call.dialect.rendered(call.rendered))
        return True
    return False


async def _hang(fault: Fault) -> None:
    """Waits as long as the fault says; until cancelled when it says 0."""
    if fault.duration_s:
        await asyncio.sleep(fault.duration_s)
    else:
        await asyncio.Event().wait()


def _ignore(piece: Piece) -> None:
    """Takes the pieces of an embedding, which has none."""
    del piece


def _figures(call: Call, job: Job, *, total_s: float, load_s: float) -> Figures:
    """Returns the figures of a finished job; a wait for a slot is in none but the total."""
    return Figures(
        done_reason=call.answer.done_reason,
        # steps may run a millisecond ahead of the clock
        total_s=max(total_s, load_s + job.prompt_s + job.output_s),
        load_s=load_s,
        prompt_tokens=len(job.prompt),
        prompt_s=job.prompt_s,
        output_tokens=job.output_tokens,
        output_s=job.output_s,
        tool_calls=call.answer.tool_calls,
    )
