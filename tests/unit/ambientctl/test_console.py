"""However a task ends, a person reads one line and a program reads the status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import trio

from ambient.api.errors import MeshError, UsageError
from ambientctl.console import fail_clearly, run


def inside(error: BaseException):
    """A task in whose nursery something happens, two groups deep."""

    async def fail():
        raise error

    async def task():
        async with trio.open_nursery() as outer:
            outer.start_soon(trio.sleep_forever)
            async with trio.open_nursery() as inner:
                inner.start_soon(fail)

    return task


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MeshError("it failed", hint="mend it"), 1, "error: it failed\nhint: mend it\n"),
        (UsageError("that is no name"), 2, "error: that is no name\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (SystemExit(79), 79, ""),
        (click.Abort(), 1, "Aborted!\n"),
        (click.UsageError("no such option"), 2, "no such option"),
    ],
)
def test_one_line_and_a_status(error, status, said, capsys):
    @click.command()
    def command():
        run(inside(error))

    try:
        found = fail_clearly(lambda: command.main([], prog_name="x", standalone_mode=False))
    except SystemExit as end:
        found = end.code
    assert found == status
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text


def test_output_that_nobody_takes_ends_the_command_quietly():
    program = Path(sys.executable).parent / "ambientctl"
    command = [program, "explain", "-o", "json"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        cut = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (cut.returncode, cut.stderr) == (1, b"")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"error: cannot write the answer: No space left on device\n"


def test_a_terminal_without_unicode_gets_a_question_mark():
    program = Path(sys.executable).parent / "ambientctl"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [program, "explain", "AuthorizationPolicy"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"also not?" in done.stdout


def test_ctrl_c_before_the_task_has_begun(capsys):
    @click.command()
    def command():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        fail_clearly(lambda: command.main([], prog_name="x", standalone_mode=False))
    assert end.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_mistakes_of_ours_keep_their_traceback():
    with pytest.raises(ExceptionGroup) as raised:
        run(inside(KeyError("a mistake")))
    assert raised.value.subgroup(KeyError) is not None

    async def both():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inside(MeshError("told")))
            nursery.start_soon(inside(KeyError("a mistake")))

    with pytest.raises(ExceptionGroup) as raised:
        run(both)
    assert raised.value.subgroup(KeyError) is not None


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_descriptors_that_the_caller_has_closed(closed):
    words = f"{Path(sys.executable).parent / 'ambientctl'} version --short {closed}"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
