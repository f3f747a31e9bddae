"""Who is in office, and who may take it: the rules of `Candidate`, without a network and without a clock.

A holder is in office for nine tenths of its tenure, counted by its own clock from the moment at which it *sent* its
last good write. Nobody else takes the office before a whole tenure has passed, by their own clock, since they *read*
that write. Reading comes after sending, so no two are ever in office, whatever is delayed, lost, suspended or cut
off and whatever the clocks show, as long as they run alike within a tenth. The server's clock decides nothing: the
entry has no time to live.

Two things make it faster. A holder that leaves says so. And where holder and asker are both connected to the one
server that has the store, a probe that nobody hears proves that the holder's connection is gone: such a holder is out
of office as soon as it is disconnected. In a cluster the same silence may only mean that the way between two servers
is cut, and proves nothing; so there a holder stays in office over a reconnect, and over an election of the store's
leader, which takes seconds: its tenure is longer.

A store on a lone server that takes no writes (its disk is full, or it is switched off) takes them from nobody. Then
the holder stays: once it has found it so for `REST_S`, which a candidate that stands by cannot have missed, because
it counts from the beginning when a look failed or came later than that.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Final

import msgspec

from sollol_schemas.stores import Holder

SHARE_IN_OFFICE: Final = 0.9
CLUSTER_TENURE_S: Final = 12
"""In a cluster at least: an election of the store's leader takes up to 9 s."""
TENURE_MAX_S: Final = 60
LEFT: Final = "left"
"""Why somebody is out of office who gave it back."""
RENEW_EVERY_S: Final = 1.0
LOOK_EVERY_S: Final = 0.5
REST_S: Final = 1.5
_PROBE_EVERY_S: Final = 0.1
_PROBES_PER_LOOK: Final = 5
_LOOKS_SOON: Final = 3
_RETRY_S: Final = 0.05
_RETRY_RENEWAL_S: Final = 0.2


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What lies under the office's key."""

    revision: int
    """0: the office was never held."""
    holder: Holder | None = None
    """None: nothing, or nothing that names a holder."""


class Look(msgspec.Struct, frozen=True):
    """Read the entry; then `looked` or `looked_in_vain`."""


class Probe(msgspec.Struct, frozen=True):
    """Ask whether the holder is there; then `probed`."""

    instance: str


class Write(msgspec.Struct, frozen=True):
    """Write over a revision; then `wrote` or `wrote_in_vain`."""

    last: int
    holder: Holder


class TryStore(msgspec.Struct, frozen=True):
    """Find out whether the store is away for everybody; then `tried_store`."""


class Wait(msgspec.Struct, frozen=True):
    """Do nothing for so long, or until something happens."""

    seconds: float


Action = Look | Probe | Write | TryStore | Wait


class _Step(Enum):
    LOOK = auto()
    PROBE = auto()
    WRITE = auto()
    TRY_STORE = auto()


class Tenure:
    """One candidate's part: `next` says what to do, and is told how it went. Every `now` is of one monotonic clock.

    Args:
        instance: The candidate.
        tenure_s: How long it is in office without renewing, where there is no cluster.
        has_probe: Whether instances answer probes.
    """

    def __init__(self, instance: str, *, tenure_s: int, has_probe: bool) -> None:
        self.owner = ""
        """Who was last seen in office, possibly this candidate."""
        self.term = 0
        """The revision at which this candidate took office; 0 when it is out of office."""
        self.valid_until = 0.0
        """When it is out of office unless it renews."""
        self.lost_because = ""
        self._instance = instance
        self._tenure_s = min(tenure_s, TENURE_MAX_S)
        self._has_probe = has_probe
        self._step, self._due = _Step.LOOK, 0.0
        self._last = 0
        self._mine = Holder(instance=instance, tenure_s=self._tenure_s)
        """What was written last."""
        self._resting: tuple[int, float] | None = None
        """The term in which the store was found off, and since when; it was off at every try since."""
        self._broken_at = self._tried_at = -math.inf
        self._seen = -1
        self._since = self._looked_at = self._asked_at = 0.0
        self._is_new = True
        """Whether nothing is known that could have been a holder."""
        self._patience_s = 0
        self._probes_left = self._looks_soon = 0

    def is_held(self, now: float) -> bool:
        """Whether this candidate is in office."""
        return self.term > 0 and now < self.valid_until

    # -- what to do ---------------------------------------------------------------------------------------

    def next(self, now: float, *, is_lone: bool) -> Action:
        """What to do now.

        Args:
            now: The time.
            is_lone: Whether the candidate is connected to a server that is in no cluster and has the store.
        """
        if self.term and not self.is_held(now):
            self._lose("was not running when it had to renew")
        if now < self._due:
            return Wait(self._due - now)
        self._asked_at = now
        match self._step:
            case _Step.WRITE:
                tenure_s = self._tenure_s if is_lone else max(self._tenure_s, CLUSTER_TENURE_S)
                return Write(self._last, Holder(instance=self._instance, tenure_s=tenure_s, is_lone=is_lone))
            case _Step.PROBE:
                return Probe(self.owner)
            case _Step.TRY_STORE:
                return TryStore()
            case _Step.LOOK:
                return Look()

    def hurry(self, now: float) -> None:
        """Somebody writes to the office, or is about to: the next renewal, or look, is due."""
        self._due = min(self._due, now)
        self._looks_soon = _LOOKS_SOON
        if not self.term and self._step is _Step.PROBE:
            self._step = _Step.LOOK

    # -- how it went --------------------------------------------------------------------------------------

    def looked(self, found: Found, now: float, *, is_lone: bool) -> None:
        """The entry was read."""
        self.owner = found.holder.instance if found.holder is not None else ""
        if self.term:
            if found.holder is not None and self.owner != self._instance:
                self._lose(f"taken by {self.owner or 'nobody'}")
            else:  # stored, but its ack was lost; or something else wrote over it
                self._last = found.revision
                self._do(_Step.WRITE, now)
            return
        wait_s = self._wait_s(found, now, is_lone=is_lone)
        self._last = found.revision
        if wait_s <= 0:
            self._do(_Step.WRITE, now)
        elif self._looks_soon:  # what was overheard may not be stored yet
            self._looks_soon -= 1
            self._do(_Step.LOOK, now + min(_RETRY_S, wait_s))
        elif self._has_probe and is_lone and found.holder is not None and found.holder.is_lone:
            self._probes_left = _PROBES_PER_LOOK
            self._do(_Step.PROBE, now)
        else:
            self._do(_Step.LOOK, now + min(LOOK_EVERY_S, wait_s))

    def looked_in_vain(self, now: float) -> None:
        """The entry could not be read."""
        self._forget()
        self._do(_Step.LOOK, now + _RETRY_S)

    def probed(self, *, is_gone: bool, is_slow: bool, now: float) -> None:
        """The holder was asked for.

        Args:
            is_gone: Whether nobody listens, on the server that has the store.
            is_slow: Whether no answer came.
            now: The time.
        """
        if self.term:
            return
        self._probes_left -= 1
        if is_gone:
            self._do(_Step.WRITE, now)
        elif is_slow or self._probes_left <= 0:
            self._do(_Step.LOOK, now + _RETRY_S)
        else:
            self._do(_Step.PROBE, now + _PROBE_EVERY_S)

    def wrote(self, write: Write, revision: int | None, sent_at: float, now: float) -> None:
        """A write was answered; None: somebody else wrote first."""
        if revision is None:
            self._do(_Step.LOOK, now if self.term else now + _RETRY_S)
            return
        valid_until = sent_at + SHARE_IN_OFFICE * write.holder.tenure_s
        is_broken = write.holder.is_lone and sent_at <= self._broken_at  # others may know that we were gone
        if valid_until <= now or is_broken:
            self._lose("the renewal took too long")
            self._do(_Step.LOOK, now)
            return
        self.term = self.term or revision
        self.owner = self._instance
        self.valid_until, self._last, self._mine, self._resting = valid_until, revision, write.holder, None
        self._do(_Step.WRITE, sent_at + min(RENEW_EVERY_S, write.holder.tenure_s / 3))

    def wrote_in_vain(self, now: float, *, is_lone: bool) -> None:
        """A write was not answered, or refused: it may have happened."""
        if not self.term:
            self._do(_Step.LOOK, now + _RETRY_S)
        elif self._mine.is_lone and is_lone:
            self._do(_Step.TRY_STORE, now)
        else:
            self._do(_Step.WRITE, now + _RETRY_RENEWAL_S)

    def tried_store(self, *, is_off: bool, sent_at: float, now: float) -> None:
        """The store was tried; `is_off` means that it takes no writes from anybody."""
        if self._resting is not None and sent_at - self._tried_at > SHARE_IN_OFFICE * self._mine.tenure_s:
            self._resting = None  # the store may have worked in between
        self._tried_at = sent_at
        if not is_off or (self._resting is None and not self.is_held(sent_at)):
            self._resting = None
            self._do(_Step.WRITE if self.term else _Step.LOOK, now + _RETRY_RENEWAL_S)
            return
        if self._resting is None:
            self._resting = self.term, sent_at
        term, since = self._resting
        if sent_at - since >= REST_S:
            self.term = term  # where it lapsed before that was sure, nobody can have taken it
            self.valid_until = max(self.valid_until, sent_at + SHARE_IN_OFFICE * self._mine.tenure_s)
        self._do(_Step.TRY_STORE, now + _RETRY_RENEWAL_S)

    # -- the end ------------------------------------------------------------------------------------------

    def disconnected(self, now: float) -> None:
        """The connection broke."""
        self._resting, self._broken_at = None, now
        self._forget()
        if self._mine.is_lone:
            self._lose("disconnected")
        self._do(_Step.WRITE if self.term else _Step.LOOK, now)

    def lapse(self, now: float) -> None:
        """The time is over up to which this candidate is in office, unless it has renewed meanwhile."""
        if not self.is_held(now):
            self._lose("not renewed in time")

    def leave(self) -> tuple[int, Holder] | None:
        """Gives up the office; the revision to write over and what to write, None when it was not held."""
        if not self.term:
            return None
        last = self._last
        self._resting = None
        self._lose(LEFT)
        return last, msgspec.structs.replace(self._mine, instance="")

    def _lose(self, reason: str) -> None:
        if not self.term:
            return
        self.term, self.lost_because = 0, reason
        self._forget()
        if self._resting is None:
            self._do(_Step.LOOK, 0.0)

    def _do(self, step: _Step, due: float) -> None:
        self._step, self._due = step, due

    # -- another's office ---------------------------------------------------------------------------------

    def _forget(self) -> None:
        """What was seen counts no more: a holder may have stayed in office in ways that could not be seen."""
        self._seen, self._is_new = -1, False

    def _wait_s(self, found: Found, now: float, *, is_lone: bool) -> float:
        """For how long the office may not be taken yet, when nothing changes."""
        may_rest = is_lone or (found.holder is not None and found.holder.is_lone)
        is_late = may_rest and now - self._looked_at > REST_S
        if found.revision != self._seen or is_late:
            self._seen, self._since = found.revision, now
        self._looked_at = self._asked_at
        if found.holder is not None and found.holder.instance in ("", self._instance):
            return 0.0
        if found.revision == 0 and self._is_new:
            return 0.0
        self._is_new = False
        least_s = self._tenure_s if is_lone else max(self._tenure_s, CLUSTER_TENURE_S)
        self._patience_s = max(self._patience_s, least_s)
        if found.holder is not None:
            self._patience_s = found.holder.tenure_s
        return self._since + self._patience_s - now
