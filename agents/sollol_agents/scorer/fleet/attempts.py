"""The scorer's own ledger of granted and running attempts: what occupies a slot, and for how much longer."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable

from sollol_agents.scorer.knowledge.lognormal import mean_residual, mean_rest
from sollol_schemas.grant import Granted
from sollol_schemas.routing import RoutingMode
from sollol_schemas.telemetry import InFlight

_OVERDUE_SHARE = 0.1  # of a phase's predicted time, that is taken to be left when it should be over


class Attempt:
    """One attempt in one slot. Seconds are base seconds: as if it ran alone at the node's usual speed."""

    __slots__ = (
        "_spoke_at",
        "_spoken",
        "arrival_rank",
        "attempt_id",
        "continued_tokens",
        "cuts",
        "deadline_at",
        "decode_s",
        "decode_tps",
        "dispatcher",
        "evicts",
        "fingerprint",
        "grant",
        "granted_at",
        "has_first_token",
        "head_s",
        "instance",
        "is_confirmed",
        "is_resumable",
        "is_silent",
        "is_trial",
        "least_s",
        "load_s",
        "max_output_tokens",
        "mode",
        "model",
        "node_id",
        "observed_at",
        "output_median",
        "predicted_s",
        "prefill_s",
        "prefix_hashes",
        "priority",
        "prompt_tokens",
        "request_id",
        "session_id",
        "task_type",
        "tokens",
        "wire_model",
    )

    def __init__(
        self,
        *,
        attempt_id: str,
        request_id: str,
        node_id: str,
        instance: str,
        model: str,
        wire_model: str,
        granted_at: float,
    ) -> None:
        self.attempt_id = attempt_id
        self.request_id = request_id
        self.node_id = node_id
        self.instance = instance
        self.model = model
        self.wire_model = wire_model
        self.granted_at = granted_at
        self.dispatcher = ""
        self.mode = RoutingMode.FAST
        self.priority = 5
        self.arrival_rank = 5.0
        self.task_type = ""
        self.predicted_s = 0.0
        self.load_s = 0.0
        self.prefill_s = 0.0
        self.decode_tps = 0.0
        self.output_median = 0.0
        self.prompt_tokens = 0
        """With what attempts before have said of the answer."""
        self.max_output_tokens: int | None = None
        """What is left of the caller's limit for this attempt."""
        self.continued_tokens = 0
        """Tokens of the answer that attempts before have said."""
        self.is_resumable = False
        """Whether its caller goes on when it is stopped with `moved`."""
        self.deadline_at = math.inf
        """Of what another scorer granted, as its node tells."""
        self.cuts = 0
        """How often its request was moved on purpose before."""
        self.fingerprint = ""
        """Where its answer may go on; empty: nowhere."""
        self.evicts: tuple[str, ...] = ()
        self.head_s = self.decode_s = -1.0
        """What it takes until its first token, and from then on, once somebody asked: every decision asks that of every
        attempt on a node."""
        self.least_s = 0.0
        """What is taken to be left until its first token when that is overdue."""
        self.is_silent = False
        """Whether it has not spoken, and somebody asked."""
        self._spoke_at, self._spoken = granted_at, 0
        """When it was seen to speak first, and the tokens that it had made by then."""
        self.is_confirmed = False
        self.is_trial = False
        self.has_first_token = False
        self.tokens = 0
        self.observed_at = granted_at
        self.grant: Granted | None = None
        self.session_id: str | None = None
        self.prefix_hashes: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Which attempt of its request it is; 0 for one that was not granted here."""
        return self.grant.decision.attempt if self.grant is not None else 0

    def observe(self, seen: InFlight, now: float) -> None:
        """Takes over the progress that the node reports."""
        self.is_confirmed = True
        self.observed_at = now
        self.tokens = max(self.tokens, seen.output_tokens)
        if seen.has_first_token and not self.has_first_token:
            self._spoke_at, self._spoken = now, self.tokens
        self.has_first_token = self.has_first_token or seen.has_first_token
        self.is_silent = self.is_silent and not self.has_first_token

    def progress(self) -> tuple[int, float]:
        """Tokens made since it was seen to speak first, and the seconds that they took; (0, 0) before."""
        if not self.has_first_token:
            return 0, 0.0
        return self.tokens - self._spoken, self.observed_at - self._spoke_at

    def base_left_s(self, now: float, speed_ratio: float) -> float:
        """Base seconds of work that are left; > 0.

        Args:
            now: The instant asked about.
            speed_ratio: Share of its full speed at which the attempt has run since it was last observed.
        """
        head = self.head_s
        if head < 0.0:
            self.decode_s = self._mean_output() / self.decode_tps if self.decode_tps > 0 else 0.0
            head = self.head_s = max(self.load_s + self.prefill_s, 0.0 if self.decode_s else 0.01)
            self.least_s = head * _OVERDUE_SHARE
            self.is_silent = not self.has_first_token
        if not self.has_first_token:
            return max(head - (now - self.granted_at) * speed_ratio, self.least_s) + self.decode_s
        if self.decode_s == 0.0:
            return 0.01
        made = self.tokens + max(0.0, now - self.observed_at) * self.decode_tps * speed_ratio
        left = self.output_median * mean_residual((self.continued_tokens + made) / self.output_median)
        if self.max_output_tokens is not None:
            left = min(left, max(1.0, self.max_output_tokens - made))
        return left / self.decode_tps

    @staticmethod
    def base_lefts_s(attempts: Iterable[Attempt], now: float, speed_ratio: float) -> list[float]:
        """`base_left_s` of each: every decision asks that of every attempt on a node, and most have not spoken yet."""
        return [
            (left if (left := one.head_s - (now - one.granted_at) * speed_ratio) > one.least_s else one.least_s)
            + one.decode_s
            if one.is_silent
            else one.base_left_s(now, speed_ratio)
            for one in attempts
        ]

    def _mean_output(self) -> float:
        mean = mean_rest(self.output_median, self.continued_tokens)
        return mean if self.max_output_tokens is None else min(mean, float(self.max_output_tokens))


class Tombstones:
    """Attempts that ended a short while ago, so that a late message does not bring them back. Bounded."""

    def __init__(self, *, limit: int = 4096, keep_s: float = 30.0) -> None:
        self._limit = limit
        self._keep_s = keep_s
        self._ended: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, attempt_id: str) -> bool:
        return attempt_id in self._ended

    def add(self, attempt_id: str, now: float) -> None:
        """Remembers that the node itself reported this attempt's end."""
        ended, long_ago = self._ended, now - self._keep_s
        ended[attempt_id] = now
        ended.move_to_end(attempt_id)
        while len(ended) > self._limit or next(iter(ended.values())) < long_ago:
            ended.popitem(last=False)
