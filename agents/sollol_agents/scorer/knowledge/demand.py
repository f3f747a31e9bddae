"""How often each model is asked for, and how much work of which rank flows to each node.

Both are exponentially weighted rates. The work per rank tells how much later work will overtake a request
that waits for a node: without it, long requests hold on for GPUs that they never get.
"""

from __future__ import annotations

import math

_DEMAND_S = 120.0
_WORK_S = 300.0
_PAUSE_S = 60.0
_SILENCE = 4.0  # so many requests that should have come and did not: the rate has fallen
_BUCKETS_PER_RANK = 2
_LOWEST_RANK = -2.0
_BUCKETS = 32  # ranks from -2 to 14
HIGHEST_BUCKET = _BUCKETS - 1
"""The bucket of the highest ranks, which nothing overtakes."""
_MOST_OVERTAKING = 0.9
_MODELS_LIMIT = 4096
_STEADY_EVERY_S = 300.0
_STEADY_RATE = 1.0 / (_DEMAND_S * (1.0 - math.exp(-_STEADY_EVERY_S / _DEMAND_S)))


class Demand:
    """Requests per second of each model, averaged over two minutes. Bounded."""

    def __init__(self) -> None:
        self._rates: dict[str, tuple[float, float]] = {}

    def count(self, model: str, now: float) -> None:
        """Counts one request."""
        if model not in self._rates and len(self._rates) >= _MODELS_LIMIT:
            self._rates.pop(next(iter(self._rates)))
        self._rates[model] = (self.rate(model, now) + 1.0 / _DEMAND_S, now)

    def is_steady(self, model: str, now: float) -> bool:
        """Whether the model is asked for about every five minutes or more often; one request alone is not steady.

        Requests that come every T seconds make the rate swing up to `1 / (120 s (1 - exp(-T / 120 s)))`.
        """
        return self.rate(model, now) > _STEADY_RATE

    def rates(self) -> list[tuple[str, float, float]]:
        """Every model with its rate and the instant at which it was that."""
        return [(model, rate, at) for model, (rate, at) in self._rates.items()]

    def restore(self, model: str, rate: float, now: float) -> None:
        """Goes on from the rate that another process counted; a greater one of this process stays."""
        if rate > self.rate(model, now) and (model in self._rates or len(self._rates) < _MODELS_LIMIT):
            self._rates[model] = (rate, now)

    def last_at(self, model: str) -> float:
        """When the model was last asked for, as far as its rate tells; minus infinity: never."""
        return self._rates.get(model, (0.0, -math.inf))[1]

    def rate(self, model: str, now: float) -> float:
        """Requests per second; 0 for a model never asked for."""
        return _faded(self._rates.get(model, (0.0, now)), now)


class Flow:
    """Requests that come and go, of all models together: how many more are to be expected."""

    def __init__(self) -> None:
        self._came = (0.0, 0.0)
        self._went = (0.0, 0.0)
        self._since = 0.0

    def came(self, now: float) -> None:
        """A request came."""
        if now - self._came[1] > _PAUSE_S:
            self._since, self._came, self._went = now, (0.0, now), (0.0, now)
        self._came = (_faded(self._came, now) + 1.0 / _DEMAND_S, now)

    def went(self, now: float) -> None:
        """A request was answered."""
        self._went = (_faded(self._went, now) + 1.0 / _DEMAND_S, now)

    def newcomers_ratio(self, present: int, now: float) -> float:
        """Requests to be expected for each that is answered, 0 to 1.

        A burst is not taken for a stream: fewer are expected the longer none came, and as long as fewer were answered
        than are present, who wait or run.
        """
        served = _faded(self._went, now)
        if served <= 0.0:
            return 0.0
        known_share = 1.0 - math.exp(-max(now - self._since, 1e-3) / _DEMAND_S)
        silent_s = max(now - self._came[1], 1e-3)
        coming = min(_faded(self._came, now), _SILENCE / silent_s * known_share)
        return min(1.0, coming / served) * min(1.0, served * _DEMAND_S / max(1, present))


def _faded(known: tuple[float, float], now: float) -> float:
    rate, at = known
    return rate * math.exp((at - now) / _DEMAND_S) if now > at else rate


class RankedWork:
    """Share of one node's capacity that work of each rank takes, averaged over five minutes."""

    __slots__ = ("_at", "_factors", "_factors_at", "_shares", "_since")

    def __init__(self, now: float) -> None:
        self._at = self._since = now
        self._shares = [0.0] * _BUCKETS
        self._factors: list[float] = []
        self._factors_at = -1

    def count(self, rank: float, node_s: float, now: float) -> None:
        """Counts work that was granted.

        Args:
            rank: The rank with which the request arrived.
            node_s: Seconds of the whole node that it takes.
            now: The instant of the grant.
        """
        passed_s = max(0.0, now - self._at)
        if passed_s > _WORK_S:
            self._decay(now)
            passed_s = 0.0
        # What is counted later weighs more, as of `_at`: so one share is touched, and not all of them.
        self._shares[bucket_of(rank)] += node_s / _WORK_S * math.exp(passed_s / _WORK_S)
        self._factors_at = -1

    def load(self, now: float) -> float:
        """The share of the node's capacity that all work took since it is known, five minutes at most; 0 to about 1."""
        known_share = 1.0 - math.exp(-max(1.0, now - self._since) / _WORK_S)
        return sum(self._shares) * math.exp(-max(0.0, now - self._at) / _WORK_S) / known_share

    def overtaking_factor(self, bucket: int, now: float) -> float:
        """By how much a wait stretches because work of higher rank arrives meanwhile; 1 to 10.

        Worked out once a second, so that it does not depend on who asked before.

        Args:
            bucket: `bucket_of` the rank that the waiting request has reached.
            now: The present instant.
        """
        second = int(now)
        if second != self._factors_at:
            self._factors = self._worked_out(second)
            self._factors_at = second
        return self._factors[bucket]

    def _decay(self, now: float) -> None:
        factor = math.exp(-(now - self._at) / _WORK_S)
        self._shares = [share * factor for share in self._shares]
        self._at = now

    def _worked_out(self, now: float) -> list[float]:
        """For each bucket, what the work in all higher buckets stretches a wait to."""
        factors, beyond = [1.0] * _BUCKETS, 0.0
        decay = math.exp(-max(0.0, now - self._at) / _WORK_S)
        for i in range(_BUCKETS - 1, -1, -1):
            factors[i] = 1.0 / (1.0 - min(_MOST_OVERTAKING, beyond * decay))
            beyond += self._shares[i]
        return factors


def bucket_of(rank: float) -> int:
    """The bucket of work in which a rank lies."""
    bucket = int((rank - _LOWEST_RANK) * _BUCKETS_PER_RANK)
    return bucket if 0 <= bucket < _BUCKETS else HIGHEST_BUCKET if bucket > 0 else 0
