"""`requirements.lock`: everything that is shipped, in one version each, with hashes; and images by exact version."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = ROOT / "requirements.lock"
SHIPPED: Final = ("dashboard", "otel", "top")
"""The extras in the image."""

pytestmark = pytest.mark.skipif(not LOCK.is_file(), reason="requirements.lock is in the checkout only")


class Locked(NamedTuple):
    version: str
    hashes: tuple[str, ...]


def locked() -> dict[str, Locked]:
    made: dict[str, Locked] = {}
    for entry in LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        words = entry.split()
        name, _, version = words[0].partition("==")
        assert version, entry
        made[canonicalize_name(name)] = Locked(version, tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)))
    return made


def wanted() -> list[Requirement]:
    told: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = told["project"]
    extras = [text for extra in SHIPPED for text in project["optional-dependencies"][extra]]
    return [Requirement(text) for text in (*told["build-system"]["requires"], *project["dependencies"], *extras)]


def test_every_dependency_is_locked_within_its_bounds() -> None:
    lock = locked()
    missing = [str(one) for one in wanted() if canonicalize_name(one.name) not in lock]
    outside = [
        f"{one} is locked at {lock[name].version}"
        for one in wanted()
        if (name := canonicalize_name(one.name)) in lock
        and not one.specifier.contains(lock[name].version, prereleases=True)
    ]
    assert (missing, outside) == ([], []), "make lock"


def test_what_locked_packages_need_is_locked_too() -> None:
    lock = locked()
    for name, entry in lock.items():
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform, or of another Python
        if installed.version != entry.version:
            continue  # it may need something else
        needed = [Requirement(text) for text in installed.requires or ()]
        found = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
        assert [str(one) for one in found if canonicalize_name(one.name) not in lock] == [], name


def test_every_entry_has_hashes_and_none_says_where_it_came_from() -> None:
    assert [name for name, entry in locked().items() if not entry.hashes] == []
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text


def test_the_image_is_built_from_the_lock_alone() -> None:
    installs = re.findall(r"pip install (.*)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert installs
    assert all("--require-hashes -r requirements.lock" in one or "--no-index --no-deps" in one for one in installs)


def test_images_are_named_by_exact_version() -> None:
    named = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    named += re.findall(r"^ +image: (\S+)", (ROOT / "compose.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in named if not re.search(r":v?\d+\.\d+\.\d+(-[a-z]+)*$", name)] == []
