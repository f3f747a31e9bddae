"""Settings of the scorer: every threshold of the policy, with its unit, range and default."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ScorerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the scorer watches nodes, orders waiting requests and decides."""

    strategy: Annotated[str, Meta(max_length=64, description="How a node is picked.")] = "plan"
    seed: Annotated[int, Meta(description="Seed of the random tie-breaks; 0 draws one at start.")] = 0

    suspect_after_s: Annotated[float, Meta(gt=0, le=600, description="Silence after which a node is suspect.")] = 3.0
    down_after_s: Annotated[float, Meta(gt=0, le=600, description="Silence after which a node is down.")] = 5.0
    warm_up_s: Annotated[
        float,
        Meta(ge=0, le=60, description="After a start, requests wait this long for nodes to show themselves."),
    ] = 2.5

    queue_limit: Annotated[
        int, Meta(ge=1, le=100_000, description="Waiting requests per priority level; more are refused.")
    ] = 512
    ageing_s: Annotated[float, Meta(gt=0, le=86_400, description="Waiting time that is worth one priority level.")] = (
        60.0
    )
    theta: Annotated[
        float, Meta(ge=0, le=2, description="Weight of a request's size in the order; 0 is pure ageing.")
    ] = 0.25
    size_clamp: Annotated[
        float, Meta(ge=0, le=10, description="Priority levels the size term may add or take at most.")
    ] = 1.0
    hold: Annotated[
        float,
        Meta(ge=0, lt=1, description="Share of the cost that waiting for a better node must save."),
    ] = 0.3
    risk_overhead_s: Annotated[
        float, Meta(ge=0, le=60, description="Time lost to a failure besides the work itself.")
    ] = 2.0
    soft_success_floor: Annotated[
        float, Meta(ge=0, lt=1, description="Proven success that RELIABLE asks for without an explicit floor.")
    ] = 0.95
    prefer_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds by which a node counts as slower for each preferred label it lacks."),
    ] = 5.0
    cheap_patience_s: Annotated[
        float,
        Meta(gt=0, le=604_800, description="How long a CHEAP request without a deadline may take for less money."),
    ] = 60.0
    async_gpu_factor: Annotated[
        float, Meta(ge=1, le=10, description="Cost of a GPU node to patient work, where a CPU node would do.")
    ] = 1.1

    failures_to_open: Annotated[
        int, Meta(ge=1, le=1000, description="Consecutive failures that open a circuit breaker.")
    ] = 5
    breaker_open_s: Annotated[
        float, Meta(gt=0, le=3600, description="How long an open breaker waits before it is tried again.")
    ] = 30.0
    breaker_trials: Annotated[
        int, Meta(ge=1, le=100, description="Trial requests at a time through a half-open breaker.")
    ] = 2
    successes_to_close: Annotated[int, Meta(ge=1, le=100, description="Successes that close a half-open breaker.")] = 3

    min_awake: Annotated[int, Meta(ge=0, le=2048, description="So many nodes are never all asleep.")] = 1
    wake_at_ratio: Annotated[
        float, Meta(gt=0, le=10, description="Share of a model's slots that are awake; above it, a node is woken.")
    ] = 0.6
    sleep_at_ratio: Annotated[
        float, Meta(gt=0, le=10, description="Share of the slots that stay awake; above it, no node goes to sleep.")
    ] = 0.3

    wake_packets: Annotated[
        bool, Meta(description="Whether the scorer sends magic packets itself, beside the nodes that are wakers.")
    ] = True
    wake_commands: Annotated[
        dict[str, str], Meta(description="Commands that wake nodes, by node id; run here, without a shell.")
    ] = {}
    scale_webhook: Annotated[
        str, Meta(max_length=2000, description="http or https address to which scale signals are posted; empty: none.")
    ] = ""
    scale_webhook_secret: Annotated[
        str, Meta(description="Key of the signature on posted scale signals; empty: they are not signed.")
    ] = ""

    undo_for_priority: Annotated[
        bool,
        Meta(description="Whether a running answer makes room for a request of higher rank."),
    ] = True
    undo_to_rebalance: Annotated[
        bool, Meta(description="Whether a running answer goes on at another node that finishes it much sooner.")
    ] = True
    preload: Annotated[
        bool, Meta(description="Whether idle nodes load models in demand before a request has to wait for it.")
    ] = True
    snapshot_every_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="How often what was learnt is saved for successors; 0 saves nothing."),
    ] = 5.0
    resident_keep_alive_s: Annotated[
        float, Meta(ge=-1, le=604_800, description="keep_alive of models in steady demand.")
    ] = 1800.0
    one_off_keep_alive_s: Annotated[
        float, Meta(ge=-1, le=604_800, description="keep_alive of models that are rarely asked for.")
    ] = 300.0
