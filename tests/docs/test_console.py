"""Every command of the documentation runs, and prints what the page shows.

Pages that start a mesh themselves get a folder of their own. All others share one mesh, which is
made by the first block of ``docs/tasks/index.md`` and left by its last one, and leave it as they
found it.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs.page import Command, Skipped, blocks, steps
from tests.docs.shell import ROOT, Shell

pytestmark = pytest.mark.netns  # the pages start meshes

START = ROOT / "docs" / "tasks" / "index.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {
    "README.md": 3,
    "docs/cni.md": 2,
    "docs/install.md": 3,
    "docs/observability.md": 2,
    "docs/operations/backup.md": 2,
    "docs/operations/certificates.md": 1,
    "docs/quick-start/kubernetes.md": 4,
    "docs/quick-start/local.md": 1,
    "docs/security/index.md": 2,
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


def read_own(path: Path, folder: Path) -> None:
    """A page with a mesh of its own, which it ends itself."""
    shell = Shell(folder)
    try:
        for step in steps(path):
            shell.take(step)
        assert "is not running" in shell.run("ambientctl local status")[1]
    finally:
        shell.run("ambientctl local down")


def read_shared(shell: Shell, outcomes: dict[Path, Future[None]]) -> None:
    """All pages for the mesh that the guides begin with, one after the other."""
    *_, last = (block for block in blocks(START.read_text()) if block.language == "console")
    try:
        for command in commands(START):
            if command.line < last.line:
                shell.take(command)
        for path, outcome in outcomes.items():
            try:
                before = objects(shell)
                for step in steps(path):
                    shell.take(step)
                shell.until(lambda: objects(shell) == before, lambda: (before, objects(shell)))  # noqa: B023
                outcome.set_result(None)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                outcome.set_exception(error)
        for command in commands(START):
            if command.line > last.line:
                shell.take(command)
    finally:
        shell.run("ambientctl local down")
        for outcome in outcomes.values():
            if not outcome.done():
                outcome.set_exception(AssertionError("the mesh did not start"))


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """What came of each page that was asked for: shared ones beside those with their own mesh."""
    wanted = {item.callspec.params["path"] for item in request.session.items
              if getattr(item, "callspec", None) and "path" in item.callspec.params}  # fmt: skip
    shared = {path: Future[None]() for path in SHARED if path in wanted}
    with ThreadPoolExecutor(2) as pool:
        whole = None
        if shared:
            whole = pool.submit(read_shared, Shell(tmp_path_factory.mktemp("shared")), shared)
        own = {
            path: pool.submit(read_own, path, tmp_path_factory.mktemp("own"))
            for path in OWN
            if path in wanted
        }
        yield shared | own
        if whole is not None:
            whole.result()


@pytest.mark.parametrize("path", [*OWN, *SHARED], ids=name)
def test_a_page_is_true(path: Path, outcomes: dict[Path, Future[None]]) -> None:
    outcomes[path].result()


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
