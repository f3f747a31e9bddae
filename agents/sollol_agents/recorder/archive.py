"""The recorder's SQLite database, read side.

It has a connection of its own: with a write-ahead log, readers and the writer never wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite
import msgspec

from sollol_agents.recorder.cuts import cuts_for, cuts_of
from sollol_agents.recorder.statistics import (
    HOUR_S,
    HOURS_MAX,
    RECENT_MAX,
    CountRow,
    HourRow,
    LatencyRow,
    PatternRow,
    TimeRow,
    VerdictRow,
    reliability_view,
    stats_reply,
)
from sollol_agents.recorder.store import connect
from sollol_agents.recorder.uptime import Passage, Uptime, uptime_of
from sollol_agents.recorder.usage import ANY_EXPENSE, ExpenseRow, UsageRow, expense_sql, usage_sql
from sollol_schemas.acts import Act
from sollol_schemas.decision import Decision, DecisionEvent
from sollol_schemas.events import NodeEvent, Outcome
from sollol_schemas.feedback import FeedbackEvent, FeedbackHistory, FeedbackView, view_of
from sollol_schemas.instants import instant
from sollol_schemas.queries import (
    FleetStats,
    RecentReply,
    ReliabilityReply,
    ReliabilityView,
    StatsReply,
    UsageBy,
    WhyReply,
)
from sollol_schemas.subjects import NO_NODE

_LATENCY_SAMPLES = 20_000  # the latest successes, from which percentiles are taken
_RECENT_LIMIT = 1000
_DAY_S = 86_400.0
_WHY_LIMIT = 100
_ACTS_LIMIT = 10_000
_ASKED = (
    "(request_id = ? OR (job_id = ? AND job_id <> '')) AND (? IS NULL OR caller IN (SELECT value FROM json_each(?)))"
)
_DECISIONS_OF_RECENT = (
    "SELECT stored_at_ns, body FROM decisions WHERE request_id IN "
    "(SELECT request_id FROM outcomes ORDER BY recorded_at DESC LIMIT ?)"
)
_RECENT_OF_CALLER = (
    "SELECT recorded_at, body, request_id FROM outcomes WHERE caller = ? AND caller <> '' "
    "ORDER BY recorded_at DESC LIMIT ?"
)
_DECISIONS_OF = "SELECT stored_at_ns, body FROM decisions WHERE request_id IN (SELECT value FROM json_each(?))"
_outcomes = msgspec.json.Decoder(Outcome)
_decisions = msgspec.json.Decoder(DecisionEvent)
_acts = msgspec.json.Decoder(Act)
_feedback = msgspec.json.Decoder(FeedbackEvent)
_node_events = msgspec.json.Decoder(NodeEvent)


Callers = Sequence[str] | None


class WaitingFeedback(NamedTuple):
    """Feedback on a request of which nothing was recorded when it came."""

    request_id: str
    caller: str
    body: bytes


class Archive:
    """Answers from the database; make one with `open_archive`."""

    def __init__(self, connection: aiosqlite.Connection, latency_samples: int) -> None:
        self._connection = connection
        self._latency_samples = latency_samples

    async def close(self) -> None:
        """Closes the file; safe to call twice."""
        await self._connection.close()

    async def stats(self, since: float, *, fleet: FleetStats | None, window_s: float) -> StatsReply:
        """Statistics of what was recorded at or after `since` (seconds of Unix time).

        Counts are exact; percentiles are taken from the latest successes, a configured number of them.
        """
        counts = await self._connection.execute_fetchall(
            "SELECT mode, node_id, verdict, count(*), total(output_tokens), total(decode_s), sum(number = 1) "
            "FROM outcomes WHERE recorded_at >= ? GROUP BY mode, node_id, verdict",
            (since,),
        )
        latencies = await self._connection.execute_fetchall(
            "SELECT mode, node_id, latency_s, first_token_s FROM outcomes INDEXED BY outcomes_by_time "
            "WHERE recorded_at >= ? AND latency_s IS NOT NULL ORDER BY recorded_at DESC LIMIT ?",
            (since, self._latency_samples),
        )
        return await asyncio.to_thread(
            stats_reply,
            [CountRow(m, n, v, c, int(t), d, int(f)) for m, n, v, c, t, d, f in counts],
            [LatencyRow(*row) for row in latencies],
            fleet=fleet,
            window_s=window_s,
        )

    async def patterns(self, since: float) -> list[PatternRow]:
        """Where the latest attempts went, of those recorded at or after `since` (seconds of Unix time)."""
        rows = await self._connection.execute_fetchall(
            "SELECT category, model, node_id, count(*), sum(verdict = 'success'), total(latency_s) FROM ("
            "SELECT category, model, node_id, verdict, latency_s FROM outcomes INDEXED BY outcomes_by_time "
            "WHERE recorded_at >= ? AND verdict <> 'refused' ORDER BY recorded_at DESC LIMIT ?"
            ") WHERE node_id <> ? GROUP BY category, model, node_id",
            (since, self._latency_samples, NO_NODE),
        )
        return [PatternRow(*row) for row in rows]

    async def hours(self, now: float) -> list[HourRow]:
        """What each node did in each hour of the last day, the latest first; `now` is Unix time."""
        rows = await self._connection.execute_fetchall(
            "SELECT node_id, CAST(recorded_at / ? AS INTEGER) AS hour, count(*), sum(verdict = 'failure'), "
            "avg(latency_s) FROM outcomes INDEXED BY outcomes_by_time "
            "WHERE recorded_at >= ? AND verdict <> 'refused' AND node_id <> ? GROUP BY node_id, hour "
            "ORDER BY hour DESC, node_id LIMIT ?",
            (HOUR_S, now - _DAY_S, NO_NODE, HOURS_MAX),
        )
        return [HourRow(*row) for row in rows]

    async def reliability(self, node_id: str = "", model: str = "", *, now: float) -> ReliabilityReply:
        """The record of every node and of every model on it, or of those that were asked for; `now` is Unix time."""
        rows = await self._connection.execute_fetchall(
            "SELECT node_id, model, verdict, code, count(*), max(recorded_at) FROM outcomes "
            "WHERE (? = '' OR node_id = ?) AND (? = '' OR model = ?) AND node_id != ? "
            "GROUP BY node_id, model, verdict, code",
            (node_id, node_id, model, model, NO_NODE),
        )
        groups: dict[tuple[str, str], list[VerdictRow]] = defaultdict(list)
        for row in (VerdictRow(*r) for r in rows):
            groups[row.node_id, row.model].append(row)
            if not model and row.model:
                groups[row.node_id, ""].append(row)
        presence = await self._uptimes(node_id, now) if not model else {}
        for name in presence:
            groups.setdefault((name, ""), [])  # it was there and did nothing
        return ReliabilityReply(
            entries=tuple([await self._view(*key, groups[key], presence.get(key[0])) for key in sorted(groups)])
        )

    async def recent(self, limit: int, *, per_model: int = 0, callers: Callers = None) -> RecentReply:
        """The latest outcomes and node events, newest first.

        Args:
            limit: Outcomes and node events at most.
            per_model: Outcomes of each model on each node at most; 0: no such limit. It counts where all is told.
            callers: Only outcomes of their requests; None: everybody's.
        """
        limit = min(limit, _RECENT_LIMIT)
        made: dict[str, Decision] = {}
        if callers is not None:
            outcomes, made = await self._recent_of(callers, limit)
        elif per_model:
            outcomes = await self._recent_of_each_model(limit, per_model)
        else:
            made = _by_attempt(await self._connection.execute_fetchall(_DECISIONS_OF_RECENT, (limit,)))
            outcomes = await self._connection.execute_fetchall(
                "SELECT recorded_at, body FROM outcomes ORDER BY recorded_at DESC LIMIT ?", (limit,)
            )
        events = await self._connection.execute_fetchall(
            "SELECT body FROM events WHERE kind = 'node' ORDER BY stored_at_ns DESC, stream_seq DESC LIMIT ?", (limit,)
        )
        return RecentReply(
            outcomes=tuple(_explained(_outcome_of(*row), made) for row in outcomes),
            node_events=tuple(_node_events.decode(row[0]) for row in events),
        )

    async def _recent_of(self, callers: Sequence[str], limit: int) -> tuple[Iterable[Any], dict[str, Decision]]:
        """The latest outcomes of some callers' requests, and what was decided of these."""
        found: list[tuple[float, bytes, str]] = []
        for caller in callers:
            found += [(*row,) for row in await self._connection.execute_fetchall(_RECENT_OF_CALLER, (caller, limit))]
        found = sorted(found, reverse=True)[:limit]
        ids = msgspec.json.encode(sorted({request_id for _, _, request_id in found})).decode()
        made = _by_attempt(await self._connection.execute_fetchall(_DECISIONS_OF, (ids,)))
        return [(at, body) for at, body, _ in found], made

    async def _recent_of_each_model(self, limit: int, per_model: int) -> Iterable[Any]:
        """Outcomes that tell something about a model on a node; the same share for each pair."""
        pairs = await self._connection.execute_fetchall(
            "SELECT DISTINCT node_id, model FROM outcomes WHERE node_id != ? LIMIT ?", (NO_NODE, limit)
        )
        share = max(1, min(per_model, limit // max(1, len(list(pairs)))))
        found: list[tuple[float, bytes]] = []
        for node_id, model in pairs:
            latest: list[tuple[float, bytes]] = []
            for which in ("verdict = 'success' AND code = ''", "verdict = 'failure'"):
                rows = await self._connection.execute_fetchall(
                    "SELECT recorded_at, body FROM outcomes WHERE (attempt_id, node_id) IN ("  # noqa: S608 both texts are ours
                    "SELECT attempt_id, node_id FROM outcomes INDEXED BY outcomes_by_model "
                    f"WHERE node_id = ? AND model = ? AND {which} ORDER BY recorded_at DESC LIMIT ?)",
                    (node_id, model, share),
                )
                latest += [(at, body) for at, body in rows]
            found += sorted(latest)[-share:]
        found.sort(reverse=True)
        return found

    async def why(self, asked_id: str, *, job: str = "", callers: Callers = None) -> WhyReply:
        """Decisions and outcomes of a request, or of every try of a job, oldest first; empty when nothing is known.

        Args:
            asked_id: Of the request, or of the job.
            job: The job's reference where it differs: with its owner in front.
            callers: Whose request it must be; None: anybody's.
        """
        words = None if callers is None else msgspec.json.encode(callers).decode()
        decisions = await self._connection.execute_fetchall(
            "SELECT stored_at_ns, body FROM decisions "  # noqa: S608 both texts are ours
            f"WHERE {_ASKED} ORDER BY stored_at_ns, stream_seq LIMIT ?",
            (asked_id, job or asked_id, words, words, _WHY_LIMIT),
        )
        outcomes = await self._connection.execute_fetchall(
            f"SELECT recorded_at, body FROM outcomes WHERE {_ASKED} ORDER BY recorded_at LIMIT ?",  # noqa: S608 ours
            (asked_id, job or asked_id, words, words, _WHY_LIMIT),
        )
        made = _by_attempt(decisions)
        found = tuple(_explained(_outcome_of(*row), made) for row in outcomes)
        ids = {decision.request_id for decision in made.values()} | {outcome.request_id for outcome in found}
        return WhyReply(
            request_id=asked_id,
            decisions=tuple(_decision_of(*row) for row in decisions),
            outcomes=found,
            cuts=await cuts_of(self._connection, ids, limit=_WHY_LIMIT),
            gave_way=await cuts_for(self._connection, ids, limit=_WHY_LIMIT),
        )

    async def usage(self, since: float, *, by: Collection[UsageBy], callers: Callers = None) -> list[UsageRow]:
        """What was used at or after `since` (seconds of Unix time), by caller and by what is asked for besides.

        Tries of a job, and attempts of a request, count as one, on each node where that is asked for. With `callers`,
        only their requests.
        """
        words = None if callers is None else msgspec.json.encode(callers).decode()
        rows = await self._connection.execute_fetchall(usage_sql(by), (since, words, words))
        return [UsageRow(*row) for row in rows]

    async def expenses(self, since: float, *, by: Collection[UsageBy], callers: Callers = None) -> list[ExpenseRow]:
        """What the same cost; nothing where no node has told what it costs or draws."""
        if not await self._connection.execute_fetchall(ANY_EXPENSE, (since,)):
            return []
        words = None if callers is None else msgspec.json.encode(callers).decode()
        rows = await self._connection.execute_fetchall(expense_sql(by), (since, words, words))
        return [ExpenseRow(*row) for row in rows]

    async def acts(self, since: float, limit: int) -> tuple[Act, ...]:
        """What operators did at or after `since` (seconds of Unix time), newest first."""
        rows = await self._connection.execute_fetchall(
            "SELECT stored_at_ns, body FROM acts WHERE stored_at_ns >= ? "
            "ORDER BY stored_at_ns DESC, stream_seq DESC LIMIT ?",
            (int(since * 1e9), min(limit, _ACTS_LIMIT)),
        )
        return tuple(msgspec.structs.replace(_acts.decode(body), at=instant(at / 1e9)) for at, body in rows)

    async def feedback_of(self, request_ids: Collection[str]) -> tuple[FeedbackView, ...]:
        """What counts of what was said of the answers to requests, oldest first."""
        ids = msgspec.json.encode(sorted(request_ids)).decode()
        rows = await self._connection.execute_fetchall(
            "SELECT f.stored_at_ns, f.body, coalesce(c.comment, '') FROM feedback f "
            "LEFT JOIN feedback_comments c ON c.request_id = f.request_id WHERE f.request_id <> '' "
            "AND f.request_id IN (SELECT value FROM json_each(?)) ORDER BY f.stored_at_ns, f.stream_seq",
            (ids,),
        )
        latest = {view.request_id: view for view in (_rated(*row) for row in rows)}
        return tuple(latest.values())

    async def counted_feedback(self, request_id: str) -> FeedbackEvent | None:
        """What was said last of the answer to a request, unless operators had it forgotten."""
        rows = await self._connection.execute_fetchall(
            "SELECT stored_at_ns, body FROM feedback WHERE request_id <> '' AND request_id = ? AND NOT is_forgotten "
            "ORDER BY stored_at_ns DESC, stream_seq DESC LIMIT 1",
            (request_id,),
        )
        return next((_given(*row) for row in rows), None)

    async def waiting_feedback(self, limit: int) -> list[WaitingFeedback]:
        """Feedback that came before its request was recorded, and of which something is recorded now."""
        rows = await self._connection.execute_fetchall(
            "SELECT request_id, caller, body FROM feedback_waiting w WHERE "
            "EXISTS (SELECT 1 FROM decisions d WHERE d.request_id = w.request_id) OR "
            "EXISTS (SELECT 1 FROM outcomes o WHERE o.request_id = w.request_id) OR "
            "EXISTS (SELECT 1 FROM outcomes o WHERE o.job_id = w.job AND o.job_id <> '') LIMIT ?",
            (limit,),
        )
        return [WaitingFeedback(*row) for row in rows]

    async def count_waiting_feedback(self, caller: str) -> tuple[int, int]:
        """How much feedback waits: of one caller, and in all."""
        rows = await self._connection.execute_fetchall(
            "SELECT total(caller = ?), count(*) FROM feedback_waiting", (caller,)
        )
        return next((int(own), int(every)) for own, every in rows)

    async def feedback_history(self, limit: int) -> FeedbackHistory:
        """The latest feedback, without what operators had forgotten."""
        rows = list(
            await self._connection.execute_fetchall(
                "SELECT stored_at_ns, stream_seq, body FROM feedback WHERE NOT is_forgotten "
                "ORDER BY stored_at_ns DESC, stream_seq DESC LIMIT ?",
                (limit,),
            )
        )
        if not rows:
            return FeedbackHistory()
        return FeedbackHistory(
            events=tuple(_given(at, body) for at, _, body in reversed(rows)),
            stream_seq=rows[0][1],
            stored_at=instant(rows[0][0] / 1e9),
        )

    async def _uptimes(self, node_id: str, now: float) -> dict[str, Uptime]:
        """How long each node has been there."""
        rows = await self._connection.execute_fetchall(
            "SELECT node_id, stored_at_ns / 1e9, json_extract(CAST(body AS TEXT), '$.state') FROM events "
            "WHERE kind = 'node' AND (? = '' OR node_id = ?) ORDER BY stored_at_ns, stream_seq",
            (node_id, node_id),
        )
        passages: dict[str, list[Passage]] = defaultdict(list)
        for name, at, state in rows:
            passages[name].append(Passage(at, state))
        return {name: uptime_of(told, now) for name, told in passages.items()}

    async def _view(self, node_id: str, model: str, rows: list[VerdictRow], uptime: Uptime | None) -> ReliabilityView:
        latest: list[tuple[float, float, float]] = []
        for name in {row.model for row in rows}:
            times = await self._connection.execute_fetchall(
                "SELECT recorded_at, actual_s, predicted_s FROM outcomes INDEXED BY outcomes_by_model "
                "WHERE node_id = ? AND model = ? AND verdict = 'success' AND code = '' AND actual_s IS NOT NULL "
                "ORDER BY recorded_at DESC LIMIT ?",
                (node_id, name, RECENT_MAX),
            )
            latest += [(at, actual, predicted) for at, actual, predicted in times]
        latest.sort()
        return reliability_view(
            node_id,
            model,
            rows,
            [TimeRow(actual, predicted) for _, actual, predicted in latest[-RECENT_MAX:]],
            last_seen_at=instant(max(row.last_at for row in rows)) if rows else "",
            uptime=None if model else uptime,
        )


def _outcome_of(recorded_at: float, body: bytes) -> Outcome:
    """An outcome with the instant at which the bus stored it."""
    return msgspec.structs.replace(_outcomes.decode(body), finished_at=instant(recorded_at))


def _decision_of(stored_at_ns: int, body: bytes) -> DecisionEvent:
    """A decision with the instant at which the bus stored it."""
    return msgspec.structs.replace(_decisions.decode(body), decided_at=instant(stored_at_ns / 1e9))


def _given(stored_at_ns: int, body: bytes) -> FeedbackEvent:
    """Feedback with the instant at which the bus stored it."""
    return msgspec.structs.replace(_feedback.decode(body), at=instant(stored_at_ns / 1e9))


def _rated(stored_at_ns: int, body: bytes, comment: str) -> FeedbackView:
    return view_of(_given(stored_at_ns, body), comment)


def _by_attempt(rows: Iterable[Any]) -> dict[str, Decision]:
    return {event.decision.attempt_id: event.decision for event in (_decision_of(*row) for row in rows)}


def _explained(outcome: Outcome, made: Mapping[str, Decision]) -> Outcome:
    """An outcome with all that was decided of its attempt, where that was heard."""
    decision = made.get(outcome.attempt_id)
    if decision is None or decision.node_id != outcome.node_id:
        return outcome
    return msgspec.structs.replace(outcome, decision=decision.with_rest_of(outcome.decision))


async def open_archive(path: Path, *, latency_samples: int = _LATENCY_SAMPLES) -> Archive:
    """The read side of a database that `open_store` has opened."""
    connection = await connect(path)
    await connection.execute_fetchall("PRAGMA query_only = 1")
    return Archive(connection, latency_samples)
