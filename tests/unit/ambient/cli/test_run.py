"""How programs end: each scenario is a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import msgspec, trio
from ambient.api.errors import MeshError, UnavailableError
from ambient.cli.run import run_program

class Settings(msgspec.Struct):
    port: int = 1

async def app(settings, stopping):
    {body}

sys.exit(run_program("demo", Settings, app))
"""


def start(body: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body.replace("\n", "\n    "))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"LOG_FORMAT": "json", "PATH": "/usr/bin", **env},
    )


def run(body: str, **env: str) -> tuple[int, list[dict], str]:
    """Exit code, log lines and standard error of a program that ends by itself."""
    with start(body, **env) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def test_an_app_that_returns_is_a_success():
    code, log, err = run("return")
    assert (code, err) == (0, "")
    assert [line["message"] for line in log] == ["program.started", "program.stopped"]
    assert log[0]["scope"] == "demo"


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ({"PORT": "x"}, "error: PORT='x' cannot be used: expected int\n"),
        ({"LOG_LEVEL": "loud"}, "error: LOG_LEVEL: 'loud' is not a level"),
        ({"LOG_FORMAT": "xml"}, "error: LOG_FORMAT='xml' cannot be used"),
    ],
)
def test_bad_settings_are_one_line_and_a_hint(env, error):
    code, log, err = run("return", **env)
    assert code == 2
    assert log == []
    assert err.startswith(error)
    assert err.splitlines()[1].startswith("hint: ")
    assert len(err.splitlines()) == 2


def test_a_mesh_error_anywhere_is_one_line_and_its_exit_code():
    body = """
async def fail():
    raise UnavailableError("nobody there", hint="start it")
async with trio.open_nursery() as a:
    async with trio.open_nursery() as b:
        b.start_soon(fail)
"""
    code, _, err = run(body)
    assert (code, err) == (1, "error: nobody there\nhint: start it\n")


def test_an_unexpected_error_is_logged_with_a_stable_event():
    code, log, err = run("raise ZeroDivisionError('oops')")
    assert (code, err) == (70, "")
    assert log[-1]["message"] == "program.failed"
    assert log[-1]["error"] == "ZeroDivisionError"
    assert "ZeroDivisionError: oops" in log[-1]["exception"]


def test_a_mixture_of_errors_is_unexpected():
    body = """
async def fail(error):
    raise error
async with trio.open_nursery() as nursery:
    nursery.start_soon(fail, MeshError("known"))
    nursery.start_soon(fail, KeyError("unknown"))
"""
    code, log, _ = run(body)
    assert code == 70
    assert "known" in log[-1]["exception"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_app_finish(number):
    with start("print('{}', flush=True)\nawait stopping.wait()") as process:
        first = [process.stdout.readline(), process.stdout.readline()]
        assert any("program.started" in line for line in first)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "program.stopping" in out


def test_a_second_signal_does_not_wait():
    with start("await stopping.wait()\nprint('{}', flush=True)\nawait trio.sleep(60)") as process:
        assert "program.started" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert "program.stopping" in process.stdout.readline()
        assert process.stdout.readline() == "{}\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "program.forced" in out
