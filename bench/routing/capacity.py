"""What load 1.0 means: the highest rate that any placement could sustain, with perfect batching and no loads.

Minimise the busiest node's time per request over all ways to spread the classes over the nodes. The dual of
that linear program starts from a feasible point and is solved here: prices `u` of the nodes that add up to 1,
and for each class the price `v` of its cheapest node; the sum of all `v` is the least possible time.
"""

from __future__ import annotations

import math

_EPSILON = 1e-12


def best_rate(shares: list[float], node_s: list[list[float]]) -> float:
    """The highest sustainable rate of requests per second.

    Args:
        shares: Share of each class among the requests; they add up to 1.
        node_s: Seconds of each node (column) that one request of each class (row) takes; infinite where the
            class cannot run.
    """
    classes, nodes = len(shares), len(node_s[0])
    rows: list[list[float]] = []
    for c, (share, row) in enumerate(zip(shares, node_s, strict=True)):
        for i, seconds in enumerate(row):
            if math.isfinite(seconds):
                constraint = [0.0] * (classes + nodes)
                constraint[c], constraint[classes + i] = 1.0, -share * seconds
                rows.append([*constraint, 0.0])
    rows.append([0.0] * classes + [1.0] * nodes + [1.0])
    return 1.0 / maximised(rows, [1.0] * classes + [0.0] * nodes)


def maximised(rows: list[list[float]], goal: list[float]) -> float:
    """The maximum of `goal * x` with `row[:-1] * x <= row[-1]` for every row, x >= 0, right sides >= 0.

    The simplex method with Bland's rule, which cannot cycle.
    """
    count, width = len(rows), len(goal)
    table = [[*row[:-1], *(1.0 if k == r else 0.0 for k in range(count)), row[-1]] for r, row in enumerate(rows)]
    costs = [-g for g in goal] + [0.0] * (count + 1)
    basis = [width + r for r in range(count)]
    while True:
        column = next((k for k in range(width + count) if costs[k] < -_EPSILON), None)
        if column is None:
            return costs[-1]
        ratios = [(row[-1] / row[column], basis[r], r) for r, row in enumerate(table) if row[column] > _EPSILON]
        _, _, pivot = min(ratios)
        basis[pivot] = column
        scale = table[pivot][column]
        table[pivot] = [x / scale for x in table[pivot]]
        for row in (*table, costs):
            if row is not table[pivot] and abs(row[column]) > 0:
                factor = row[column]
                row[:] = [x - factor * y for x, y in zip(row, table[pivot], strict=True)]
