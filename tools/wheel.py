"""Compares a built wheel with the sources: ``python -m tools.wheel dist/sollol_bus-*.whl`` names what it forgot."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sources(root: Path) -> dict[str, bytes]:
    """What is shipped of the packages, by the names that files have in a wheel."""
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = [root / package for package in build["targets"]["wheel"]["packages"]]
    files = [(file, package.parent) for package in packages for file in package.rglob("*") if file.is_file()]
    shipped = [(file, parent) for file, parent in files if "__pycache__" not in file.parts]
    return {file.relative_to(parent).as_posix(): file.read_bytes() for file, parent in shipped}


def differences(wheel: Path, root: Path = ROOT) -> list[str]:
    """What of the sources a wheel lacks or has otherwise, and what it has beside them and its own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    expected = sources(root)
    differ = sorted(name for name in expected if packed.get(name) != expected[name])
    told = [f"{name}: the wheel {'has another one' if name in packed else 'lacks it'}" for name in differ]
    return told + [f"{name}: nothing of the packages" for name in sorted(packed.keys() - expected.keys())]


def main(arguments: Sequence[str]) -> int:
    """Prints the differences; returns 1 where there are any."""
    found = differences(Path(arguments[0]))
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
