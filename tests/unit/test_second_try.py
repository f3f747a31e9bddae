"""What fails beside others is tried once more alone; what is broken stays red."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("tools.second_try", reason="what tries tests twice is in the checkout only")

from tools.second_try import main

ONCE = """
from pathlib import Path

def test_that_fails_the_first_time():
    seen = Path(__file__).with_name("seen")
    first = not seen.exists()
    seen.touch()
    assert not first
"""
ALWAYS = "\ndef test_that_is_broken():\n    assert False\n"
MANY = "import pytest\n\n@pytest.mark.parametrize('n', range(4))\ndef test_that_is_broken(n):\n    assert False\n"


@pytest.fixture(autouse=True)
def _only_plugins_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        pytest.param(ONCE, 0, "PASSED ONLY ALONE", id="an accident"),
        pytest.param(ONCE + ALWAYS, 1, "once more, alone", id="an accident and a fault"),
        pytest.param(MANY, 1, "4 failed", id="too many for accidents"),
    ],
)
def test_a_failure_is_an_accident_only_if_it_passes_alone(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    source: str,
    code: int,
    said: str,
) -> None:
    file = tmp_path / "test_of_the_moment.py"
    file.write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    assert (
        main([sys.executable, "-m", "pytest", "-q", "-p", "xdist.plugin", "--rootdir", str(tmp_path), str(file)])
        == code
    )
    out = capfd.readouterr().out
    assert said in out
    assert ("once more" in out) is (said != "4 failed")
