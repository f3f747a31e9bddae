"""How reliable nodes are, by what a program itself saw of them. Pure, and safe to use from several threads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import fmean, pvariance
from typing import Final

from sollol_bus.compat.results import Result

_TIMES_KEPT: Final = 100
_NODES_KEPT: Final = 1024
_TIMEOUT: Final = "timeout"


class _Record:
    """What was seen of one node."""

    def __init__(self, since_unix_s: float) -> None:
        self.since_unix_s = since_unix_s
        self.successes = 0
        self.failures = 0
        self.by_error: dict[str, int] = {}
        self.times_s: deque[float] = deque(maxlen=_TIMES_KEPT)

    @property
    def total(self) -> int:
        return self.successes + self.failures

    @property
    def success_rate(self) -> float:
        return self.successes / self.total if self.total else 1.0

    @property
    def variance(self) -> float:
        return pvariance(self.times_s) if self.times_s else 0.0

    def as_result(self) -> Result:
        return Result(
            total_requests=self.total,
            successful=self.successes,
            failed=self.failures,
            timeouts=sum(count for kind, count in self.by_error.items() if _TIMEOUT in kind.lower()),
            errors=dict(self.by_error),
            response_times=list(self.times_s),
            success_rate=self.success_rate,
            avg_response_time=fmean(self.times_s) if self.times_s else 0.0,
            response_time_variance=self.variance,
            uptime_start=datetime.fromtimestamp(self.since_unix_s, UTC),
        )


class NodeReliabilityTracker:
    """Counts successes, failures and times per node.

    It is a program's own book: the fleet keeps one of every answer besides, which `sollol nodes` and
    `Client.reliability` show and `routing_mode="reliable"` goes by. The last 100 times of each of the 1,024 nodes
    heard of last are kept.

    Args:
        wall_s: The clock, in seconds since 1970.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time) -> None:  # noqa: TID251 it dates, and decides nothing
        self._wall_s = wall_s
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def node_stats(self) -> dict[str, Result]:
        """Everything by node: `total_requests`, `successful`, `failed`, `timeouts`, `success_rate` and so on."""
        with self._lock:
            return {node_id: record.as_result() for node_id, record in self._records.items()}

    def record_request(self, node_id: str, success: bool, response_time: float, error_type: str | None = None) -> None:
        """Counts one request.

        Args:
            node_id: Where it ran.
            success: Whether its answer came.
            response_time: Seconds that it took.
            error_type: What went wrong; one with `timeout` in it counts as one.

        Raises:
            ValueError: The time is negative or no number.
        """
        if not response_time >= 0.0:
            raise ValueError(f"response_time must be 0 or more seconds, not {response_time!r}")
        with self._lock:
            record = self._records.setdefault(node_id, _Record(self._wall_s()))
            self._records.move_to_end(node_id)
            while len(self._records) > _NODES_KEPT:
                self._records.popitem(last=False)
            record.times_s.append(float(response_time))
            if success:
                record.successes += 1
            else:
                record.failures += 1
                kind = (error_type or "error")[:64]
                if kind in record.by_error or len(record.by_error) < _TIMES_KEPT:
                    record.by_error[kind] = record.by_error.get(kind, 0) + 1

    def get_success_rate(self, node_id: str) -> float:
        """The share of a node's requests that were answered, 0 to 1; 1 for one that was never heard of."""
        with self._lock:
            record = self._records.get(node_id)
            return record.success_rate if record is not None else 1.0

    def get_variance(self, node_id: str) -> float:
        """The variance of a node's last 100 times, in seconds squared; 0 for one that was never heard of."""
        with self._lock:
            record = self._records.get(node_id)
            return record.variance if record is not None else 0.0

    def get_most_reliable_nodes(self, min_success_rate: float = 0.95) -> list[str]:
        """The nodes that reach a success rate: the best first, the steadier of equals before the other."""
        with self._lock:
            rated = [(-r.success_rate, r.variance, node_id) for node_id, r in self._records.items()]
        return [node_id for rate, _, node_id in sorted(rated) if -rate >= min_success_rate]

    def reset(self, node_id: str | None = None) -> None:
        """Forgets one node, or all of them."""
        with self._lock:
            if node_id is None:
                self._records.clear()
            else:
                self._records.pop(node_id, None)
