"""The tree keeps the promises that no other tool checks."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("ambient", "ambientctl", "ztunnel", "waypoint", "cni_plugin", "istiod_lite")
GENERATED = ROOT / "ambient" / "api" / "pb"
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
REFUSED_NAMES = {"util", "utils", "common", "helpers", "misc", "constants"}
"""Names that say nothing about what is inside; a number lives with its noun."""


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if GENERATED not in path.parents:
                yield path


def test_files_and_functions_stay_short_enough_to_read() -> None:
    long = []
    for path in sources():
        text = path.read_text()
        lines = len(text.splitlines())
        if lines > MAX_FILE_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert long == []


def test_every_module_is_named_after_what_is_in_it() -> None:
    assert [path for path in sources() if path.stem in REFUSED_NAMES] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_generated_protobuf_code_is_that_of_the_proto_files(tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in GENERATED.glob("*.proto"))
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    outputs = [f"--python_out={tmp_path}", f"--mypy_out=quiet:{tmp_path}"]
    subprocess.run(
        [*command, f"--plugin=protoc-gen-mypy={plugin}", *outputs, *protos], cwd=ROOT, check=True
    )
    for made in sorted((tmp_path / "ambient" / "api" / "pb").iterdir()):
        assert made.read_text() == (GENERATED / made.name).read_text(), f"run make proto: {made}"


def test_every_scenario_is_run_and_listed() -> None:
    folder = ROOT / "tests" / "scenarios"
    programs = "".join(path.read_text() for path in folder.glob("*.py"))
    listed = (ROOT / "docs" / "waypoint.md").read_text()
    files = {path.relative_to(folder).with_suffix("") for path in folder.glob("*/*.yaml")}
    names = {str(name) for name in files if name.parent.name != "stage"}
    assert {name for name in names if f"`{name}`" not in listed} == set()
    applied = programs.replace('" / "', "/").replace(".yaml", "")
    assert {name for name in names if f'{name}"' not in applied} == set()
