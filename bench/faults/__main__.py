"""What callers notice while processes stop, die and restart, links break, and clocks jump.

    python -m bench.faults [--only TEXTS] [--keep] [--quick] [--json] [--out FILE]

Three servers with two of each control actor; a hub and a leaf; and one server with actors whose clocks can be moved.
During each fault 20 streams go at a time, short calls come by HTTP and by plain NATS, and 200 jobs are stored.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from bench.command import in_json, parser_of, started
from bench.faults.cases import FEW, SMALL, Size, every_case, play
from bench.faults.stage import FAKE_CLOCKS


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of every case; a stage that did not heal is made anew."""
    cases = [
        case
        for case in (FEW if options.quick else every_case())
        if any(part in case.name for part in options.only.split(","))
    ]
    left_out = [case.name for case in cases if case.stage == "clocks" and not FAKE_CLOCKS]
    played = {case.name for case in cases}
    rows = (
        [row for row in await asyncio.to_thread(_rows_in, options.out) if row["case"] not in played]
        if options.keep
        else []
    )
    for stage_name, group in groupby([case for case in cases if case.name not in left_out], lambda case: case.stage):
        waiting = list(group)
        while waiting:
            place = folder / f"{stage_name}-{len(waiting)}"
            place.mkdir()
            async for row in play(stage_name, waiting, SMALL if options.quick else Size(), place):
                print(as_row(row), file=sys.stderr, flush=True)
                rows.append(row)
                if options.out is not None:  # what is known so far, should a later case break off
                    await asyncio.to_thread(options.out.write_text, in_json({"cases": rows}))
    return {"cases": rows, "left_out": left_out}


def _rows_in(file: Path | None) -> list[dict[str, Any]]:
    """The cases that a file has already."""
    found = msgspec.json.decode(file.read_bytes())["cases"] if file is not None and file.exists() else []
    return list(found)


HEAD = (
    f"{'case':36}{'errors':>7}{'hangs':>6}{'gap s':>7}{'no service s':>13}{'service s':>10}{'calm s':>8}"
    f"{'lost':>5}{'results x2':>11}{'work x2':>8}  healed"
)


def as_row(row: dict[str, Any]) -> str:
    """One case as a line of the table."""
    gap = max(row["service_gap_s"].values(), default=0.0)
    healed = "yes" if row["is_healed"] else "NO"
    service = list(row["service_s"].values())
    return (
        f"{row['case']:36}{sum(row['errors'].values()):>7}{sum(row['hangs'].values()):>6}{row['stream_gap_s']:>7}"
        f"{gap:>13}{'never' if None in service else max(service):>10}{row['calm_s']:>8}"
        f"{row['jobs_lost']:>5}{row['results_doubled']:>11}{row['work_doubled']:>8}  {healed}"
    )


def as_text(figures: dict[str, Any]) -> str:
    """The table."""
    left = [f"left out, no libfaketime: {', '.join(figures['left_out'])}"] if figures["left_out"] else []
    return "\n".join([HEAD, *map(as_row, figures["cases"]), *left])


if __name__ == "__main__":
    parser = parser_of("bench.faults", __doc__)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, separated by commas")
    parser.add_argument("--keep", action="store_true", help="keep the other cases in the file of --out")
    sys.exit(started(parser, measure, as_text))
