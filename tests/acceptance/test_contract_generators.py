"""The wire contract goes through the generators that people use, and the types they make decode what a fleet sends."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
BUNDLE = SCHEMAS / "json" / "sollol.json"
RECORDED = ROOT / "tests" / "unit" / "golden" / "recorded" / "messages.json"
GENERATORS = Path(__file__).parent / "generators"
OLDEST_NODE = 20
BODIES = {"SubmittedJob": "Job", "DeadLetter": "Job", "Error": "ErrorBody"}
"""The Struct in messages that are called otherwise."""

pytestmark = [
    pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the contract is in the checkout only"),
]


def python_types(source: Path, kind: str, target: Path) -> ModuleType:
    command = [sys.executable, "-m", "datamodel_code_generator", "--formatters", "builtin"]
    command += ["--input", str(source), "--input-file-type", kind, "--output-model-type", "pydantic_v2.BaseModel"]
    done = subprocess.run([*command, "--output", str(target)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    spec = importlib.util.spec_from_file_location(target.stem, target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[target.stem] = module  # where the types look for one another
    spec.loader.exec_module(module)
    return module


def run_javascript(script: str, *arguments: str) -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {OLDEST_NODE} or newer is needed, not {version.strip()}")
    if not (GENERATORS / "node_modules" / "quicktype-core").is_dir():
        pytest.skip("the JavaScript generators are not installed: make install")
    command = [node, str(GENERATORS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:] or done.stdout[-2000:]
    return done.stdout


def definitions() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BUNDLE.read_text())["$defs"]
    return found


def test_types_of_datamodel_codegen_decode_every_recorded_message(tmp_path: Path) -> None:
    types = python_types(BUNDLE, "jsonschema", tmp_path / "sollol_types.py")
    decoded = 0
    for told in json.loads(RECORDED.read_text()):
        name = BODIES.get(told["message"], told["message"])
        if name in definitions():
            value = TypeAdapter(getattr(types, name)).validate_json(json.dumps(told["payload"]))
            assert type(value).__name__ == name
            decoded += 1
    assert decoded > 95


def test_datamodel_codegen_makes_a_module_for_each_message_and_each_type_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datamodel_code_generator", "--formatters", "builtin"]
    command += [
        "--input",
        str(SCHEMAS / "json"),
        "--input-file-type",
        "jsonschema",
        "--output",
        str(tmp_path / "types"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = "".join(path.read_text() for path in (tmp_path / "types").glob("*.py"))
    assert made.count("class ErrorCode(") == 1
    assert {path.stem for path in (SCHEMAS / "json").glob("*.json")} <= {
        path.stem for path in (tmp_path / "types").glob("*.py")
    }


def test_datamodel_codegen_reads_the_asyncapi_document(tmp_path: Path) -> None:
    types = python_types(SCHEMAS / "asyncapi.yaml", "asyncapi", tmp_path / "sollol_asyncapi_types.py")
    assert {"JobStatus", "DecisionEvent", "PubAck", "RequestHeaders"} <= set(vars(types))


@pytest.mark.parametrize("language", ["typescript", "go", "rust", "java", "csharp"])
def test_quicktype_makes_types(tmp_path: Path, language: str) -> None:
    target = tmp_path / "types.txt"
    run_javascript("quicktype.mjs", str(BUNDLE), language, str(target))
    made = target.read_text()
    structs = [name for name, schema in definitions().items() if schema.get("type") == "object"]
    assert sum(name.lower() in made.lower() for name in structs) >= len(structs) - 3, "some that are alike are one type"
    assert "job.status.v1" in made


def test_the_asyncapi_parser_has_no_complaint_and_modelina_names_every_type(tmp_path: Path) -> None:
    found = json.loads(run_javascript("asyncapi.mjs", str(SCHEMAS / "asyncapi.yaml"), str(tmp_path / "types.ts")))
    assert found["complaints"] == []
    assert found["channels"] > 80
    assert set(definitions()) & set(found["models"]) > {"JobStatus", "DecisionEvent", "ErrorBody", "Telemetry"}
    assert [name for name in found["models"] if "Anonymous" in name] == []
