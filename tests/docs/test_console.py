"""Every command of the documentation runs, and prints what the page shows.

Pages that start a mesh themselves get a folder of their own. All others share one mesh, which is
made by the first block of ``docs/tasks/index.md`` and left by its last one, and leave it as they
found it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.page import Command, Skipped, blocks, steps
from tests.docs.shell import ROOT, Shell

START = ROOT / "docs" / "tasks" / "index.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {
    "README.md": 2,
    "docs/cni.md": 2,
    "docs/observability.md": 1,
    "docs/operations/backup.md": 1,
    "docs/operations/certificates.md": 1,
    "docs/quick-start/kubernetes.md": 4,
    "docs/quick-start/local.md": 1,
    "docs/tasks/upgrade.md": 1,
}
"""Pages that may have blocks that are not run, and how many at most."""
SHELLS = {"bash", "sh", "shell", "zsh", "shell-session"}
KINDS = (
    "authorizationpolicies,peerauthentications,requestauthentications,gateways,httproutes,"
    "virtualservices,destinationrules,serviceentries,telemetries,workloadentries,networkpolicies,"
    "namespaces,deployments,services,serviceaccounts,configmaps"
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(path: Path) -> list[Command]:
    return [step for step in steps(path) if isinstance(step, Command)]


def starts_a_mesh(path: Path) -> bool:
    return any("ambientctl local up" in command.text for command in commands(path))


def objects(shell: Shell) -> list[str]:
    """What a page must leave as it was: objects and the labels of namespaces."""
    form = "{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{'\\n'}{end}"
    text = f'kubectl get {KINDS} -A -o jsonpath="{form}"; kubectl get namespaces --show-labels'
    status, output = shell.run(text)
    assert status == 0, output
    columns = (line.split() for line in output.splitlines())  # without the age
    return sorted(" ".join(word for word in line if not word[:1].isdigit()) for line in columns)


OWN = [path for path in PAGES if starts_a_mesh(path) and path != START]
SHARED = [path for path in PAGES if commands(path) and path not in (*OWN, START)]


@pytest.fixture(scope="module")
def meshed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The mesh that the guides begin with."""
    shell = Shell(tmp_path_factory.mktemp("shared"))
    first, *_, last = (one for one in blocks(START.read_text()) if one.language == "console")
    try:
        for step in commands(START):
            if step.line < last.line:
                shell.take(step)
        assert first != last
        yield shell
    finally:
        for step in commands(START):
            if step.line > last.line:
                shell.take(step)


@pytest.mark.parametrize("path", OWN, ids=name)
def test_a_page_that_starts_a_mesh(path: Path, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    try:
        for step in steps(path):
            shell.take(step)
        assert "is not running" in shell.run("ambientctl local status")[1]
    finally:
        shell.run("ambientctl local down")


@pytest.mark.parametrize("path", SHARED, ids=name)
def test_a_page_for_a_mesh_that_runs(path: Path, meshed: Shell) -> None:
    before = objects(meshed)
    for step in steps(path):
        meshed.take(step)
    meshed.until(lambda: objects(meshed) == before, lambda: (before, objects(meshed)))


def test_what_is_not_run_says_why_and_is_little() -> None:
    found = {name(path): sum(isinstance(step, Skipped) for step in steps(path)) for path in PAGES}
    assert {page: number for page, number in found.items() if number} == NOT_RUN


def test_commands_are_in_blocks_that_are_run() -> None:
    others = [
        f"{name(path)}:{block.line}"
        for path, block in itertools.chain.from_iterable(
            ((path, block) for block in blocks(path.read_text())) for path in PAGES
        )
        if (block.language in SHELLS and block.title is None)
        or (block.language != "console" and any(line.startswith("$ ") for line in block.lines))
    ]
    assert others == []
