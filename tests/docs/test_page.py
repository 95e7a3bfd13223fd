"""The runner itself: what it takes for a step, and when it is content."""

from __future__ import annotations

import pytest

from tests.docs.page import Command, File, Skipped, steps
from tests.docs.shell import Shell

PAGE = """\
Text.

```yaml title="policy.yaml"
kind: Policy
```

```console
$ echo one; \\
  echo two
one
…
$ false  # exit status 1
```

<!-- not run: needs a cluster -->

```console
$ rm -rf /
```

```yaml
not: a file
```
"""


def test_steps_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    assert list(steps(page)) == [
        File("policy.yaml", "kind: Policy\n"),
        Command(8, "echo one; \\\n  echo two", ("one", "…")),
        Command(12, "false  # exit status 1", ()),
        Skipped(17, "needs a cluster"),
    ]


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        ([], None),
        (["NAME  READY"], None),
        (["a…", "z"], None),
        (["z", "NAME"], "NAME"),
        (["pod-... 1/1"], None),
        (["pod-… 2/2"], "pod-… 2/2"),
    ],
)
def test_shown_lines_appear_in_their_order(shown, missing):
    output = "NAME    READY\npod-7f   1/1\nabc\nz\n"
    assert Command(1, "x", tuple(shown)).missing(output) == missing


def test_a_shell_keeps_variables_and_files(tmp_path):
    shell = Shell(tmp_path)
    shell.take(File("note", "hello\n"))
    shell.take(Command(1, "export A=$(cat note)", ()))
    shell.take(Command(2, "B=$A-again", ()))
    shell.take(Command(3, "echo $B; exit 3  # exit status 3", ("hello-again",)))
    shell.take(Command(3, "exit 7  # fails", ()))
    shell.take(Command(4, "sh -c 'echo up; sleep 1000'  # until Ctrl-C", ("up",)))


def test_a_command_that_lies_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.shell.DEADLINE_S", 0.3)
    shell = Shell(tmp_path)
    with pytest.raises(AssertionError, match="missing: 'no'"):
        shell.take(Command(1, "echo yes", ("no",)))
    with pytest.raises(AssertionError, match="exit status 4;"):
        shell.take(Command(1, "exit 4", ()))
