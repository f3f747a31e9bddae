"""A wheel is compared with the sources before it is tested."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

wheel = pytest.importorskip("tools.wheel", reason="tools are not part of the wheel")

PYPROJECT = '[tool.hatch.build.targets.wheel]\npackages = ["one", "below/two"]\n'


def packed(folder: Path, *names: str, content: str = "1") -> Path:
    archive = folder / "made.whl"
    with zipfile.ZipFile(archive, "w") as out:
        for name in names:
            out.writestr(name, content)
    return archive


def test_a_wheel_that_forgot_or_changed_a_file_or_brings_a_foreign_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    for name in ("one/a.py", "one/__pycache__/a.pyc", "below/two/web/page.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    whole = packed(tmp_path, "one/a.py", "two/web/page.js", "made.dist-info/RECORD")
    assert wheel.differences(whole, tmp_path) == []
    other = packed(tmp_path, "one/a.py", "two/web/page.js", content="2")
    assert [line.partition(": ")[2] for line in wheel.differences(other, tmp_path)] == ["the wheel has another one"] * 2
    wrong = packed(tmp_path, "one/a.py", "tests/a.py")
    assert wheel.differences(wrong, tmp_path) == [
        "two/web/page.js: the wheel lacks it",
        "tests/a.py: nothing of the packages",
    ]
