"""The samples in the guide to other languages say so when nobody is there; with a fleet `test_guides` walks them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "other-languages.md"
EXAMPLES = ROOT / "examples"

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are in the checkout only"),
]


@pytest.fixture
async def nobody(tmp_path: Path) -> AsyncIterator[str]:
    """A NATS server and nothing else."""
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))) as server:
        yield server.url


def sample(pattern: str) -> str:
    found = re.search(pattern, GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("language", ["shell", "python", "javascript", "go"])
async def test_a_sample_says_that_nobody_is_there_and_fails(nobody: str, tmp_path: Path, language: str) -> None:
    match language:
        case "shell":
            argv = ["bash", write(tmp_path / "ask.sh", sample(r"cat > ask\.sh <<'END'\n(.*?)\nEND"))]
        case "python":
            argv = [sys.executable, write(tmp_path / "ask.py", sample(r"cat > ask\.py <<'END'\n(.*?)\nEND"))]
        case "javascript":
            argv = ["node", write(tmp_path / "ask.mjs", sample(r"```javascript\n(.*?)```"))]
            modules = EXAMPLES / "javascript" / "node_modules"
            if shutil.which("node") is None or not modules.is_dir():
                pytest.skip("node, or what examples/javascript needs, is not installed")
            (tmp_path / "node_modules").symlink_to(modules)
        case _:
            if shutil.which("go") is None:
                pytest.skip("go is not installed")
            argv = [str(tmp_path / "sample")]
            write(tmp_path / "main.go", sample(r"```go\n(.*?)```"))
            for name in ("go.mod", "go.sum"):
                shutil.copy(EXAMPLES / "go" / name, tmp_path)
            built = run(["go", "build", "-o", argv[0], "main.go"], tmp_path)
            if built.returncode and "dial tcp" in built.stderr:
                pytest.skip("go: the dependencies cannot be fetched here")
            assert built.returncode == 0, built.stderr
    ended = run(argv, tmp_path, SOLLOL_NATS=nobody)
    assert ended.returncode != 0
    assert re.search("503|no responders", ended.stderr), ended.stderr


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def run(argv: list[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, cwd=folder, env=os.environ | environ, capture_output=True, text=True, timeout=80, check=False
    )
