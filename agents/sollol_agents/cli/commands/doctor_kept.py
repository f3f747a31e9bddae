"""What `sollol doctor` says of what is kept in buckets: whether each value is what it must be, and who is in office."""

from __future__ import annotations

import re
from typing import Any, Final

from sollol_agents.cli.commands.findings import Finding, Level
from sollol_bus.errors import BusError, DecodeFailed, NoResponders, NotPermitted
from sollol_bus.jetstream.api import JetStreamRefused
from sollol_bus.jetstream.buckets import Bucket, Entry
from sollol_bus.jetstream.stored import stored_message
from sollol_bus.jetstream.vacancy import why_vacant
from sollol_bus.transport.connection import Bus
from sollol_schemas import batch_progress, batches, callers, groups, jobs, keys, learned, steering, stores, subjects
from sollol_schemas.stores import KEPT, Kept

_KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        stores.NodeClaim,
        stores.Holder,
        keys.KeyRing,
        callers.Standings,
        steering.StrategyRequest,
        steering.Intents,
        groups.Groups,
        learned.Learned,
        batches.FileRecord,
        batches.BatchRecord,
        jobs.JobStatus,
        batch_progress.BatchPlan,
    )
}
_OFFICES: Final = ((stores.SCORER_LEASE, subjects.NODES), (stores.RECORDER_LEASE, subjects.STATS))
_ANSWER_S: Final = 2.0


UNSEEN: Final = Finding(
    check="fleet",
    level=Level.OK,
    found="not looked at: a node's credentials ask nothing; on the first machine `sollol doctor` looks",
)


async def may_ask(bus: Bus) -> bool:
    """Whether these credentials may ask about the fleet at all; a node's may not."""
    try:
        await bus.request(subjects.NODES, timeout_s=_ANSWER_S)
    except NotPermitted:
        return False
    except BusError:
        return True  # whatever it is, the checks tell
    return True


async def check_answers(bus: Bus) -> list[Finding]:
    """Whether scorer and recorder answer, and why not."""
    findings = []
    for office, subject in _OFFICES:
        try:
            await bus.request(subject, b"{}", timeout_s=_ANSWER_S)
        except NoResponders:
            findings.append(Finding(check="office", level=Level.PROBLEM, found=await why_vacant(bus, office)))
        except BusError as error:
            findings.append(Finding(check="office", level=Level.PROBLEM, found=f"the {office}: {error.message}"))
    return findings


async def check_kept(bus: Bus, *, repair: bool) -> list[Finding]:
    """Each value that is not what it must be, which everybody ignores; with `repair` it is removed."""
    findings: list[Finding] = []
    try:
        await Bucket(bus, stores.OFFICES_BUCKET, timeout_s=_ANSWER_S).get(stores.SCORER_LEASE)
        for row in KEPT:
            if row.value in _KINDS:
                findings += await _check(bus, row, repair=repair)
    except NotPermitted:
        return [Finding(check="kept", level=Level.OK, found="not looked at: only the control role may")]
    except (JetStreamRefused, NoResponders):
        return findings  # nothing was ever kept, or the store does not answer, which another check tells
    return findings or [Finding(check="kept", level=Level.OK, found="every value is what it must be")]


async def _check(bus: Bus, row: Kept, *, repair: bool) -> list[Finding]:
    bucket = Bucket(bus, row.bucket)
    pattern = re.sub(r"\{\w+\}", "*", row.key)
    findings: list[Finding] = []
    try:
        async for entry in bucket.each(pattern):
            why = _fault(entry, row)
            if why and await _is_waiting_job(bus, row, entry):
                found = f"{entry.key} in {bucket.name}: {why}; a dispatcher that takes the job ends it"
                findings.append(Finding(check="kept", level=Level.OK, found=found))
            elif why:
                findings.append(await _mended(bucket, entry, why) if repair else _ignored(bucket, entry, why))
    except (JetStreamRefused, NoResponders):
        return findings  # a bucket that nobody has made yet
    return findings


async def _is_waiting_job(bus: Bus, row: Kept, entry: Entry) -> bool:
    """Whether this is the state of a job that waits: without a state it would run, perhaps once more."""
    if row.value != jobs.JobStatus.__name__:
        return False
    submitted = subjects.JOB_SUBMIT.of("*", subjects.last_token(entry.key))
    return await stored_message(bus, stores.JOBS_STREAM, subject=submitted) is not None


def _fault(entry: Entry, row: Kept) -> str:
    """Why nobody reads a value; empty for one that is what it must be."""
    try:
        entry.decode(_KINDS[row.value])
    except DecodeFailed as error:
        return error.message
    return ""


def _ignored(bucket: Bucket, entry: Entry, why: str) -> Finding:
    found = f"{entry.key} in {bucket.name} is ignored: {why}"
    return Finding(check="kept", level=Level.WARNING, found=found, remedy="`sollol doctor --repair` removes it")


async def _mended(bucket: Bucket, entry: Entry, why: str) -> Finding:
    if await bucket.delete(entry.key, entry.revision):
        return Finding(check="kept", level=Level.OK, found=f"removed {entry.key} from {bucket.name}: {why}")
    return Finding(check="kept", level=Level.OK, found=f"{entry.key} in {bucket.name} was written anew meanwhile")
