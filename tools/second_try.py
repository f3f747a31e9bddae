"""Runs pytest, and whatever failed once more, alone: ``python -m tools.second_try PYTHON -m pytest ...``.

Tests that start real servers beside one another fail now and then on a machine that is busy with other things. Such a
test is told from a broken one by a second try, in which it has the machine for itself. What passed only then is named
at the end, so that it gets mended, and more than three of them are no accident: nothing is tried again then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MOST_ACCIDENTS = 3
SOME_FAILED = 1  # pytest's own code: tests ran, and some failed


def main(command: Sequence[str]) -> int:
    """Returns pytest's exit code: of the second try where there was one."""
    with tempfile.TemporaryDirectory() as folder:
        remembering = [*command, "-o", f"cache_dir={folder}"]
        code = subprocess.call(remembering)  # noqa: S603 - the Makefile's own command
        failed = failures(Path(folder))
        if code != SOME_FAILED or not 0 < len(failed) <= MOST_ACCIDENTS:
            return code
        print(f"\n{len(failed)} failed beside others; once more, alone:", *failed, sep="\n  ", flush=True)
        alone = ["-n", "0", "--last-failed", "--last-failed-no-failures", "none"]
        code = subprocess.call([*remembering, *alone])  # noqa: S603 - as above
        if code == 0:
            print("\nPASSED ONLY ALONE, mend them:", *failed, sep="\n  ", flush=True)
        return code


def failures(cache: Path) -> list[str]:
    """Names the tests that the run before left in its cache as failed."""
    kept = cache / "v" / "cache" / "lastfailed"
    return sorted(json.loads(kept.read_text())) if kept.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
