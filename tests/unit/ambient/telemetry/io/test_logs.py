"""Log lines as they are written, and levels that change while the program runs."""

import io
import json
import logging
import re

import pytest
import structlog

from ambient.telemetry.io import logs


@pytest.fixture
def output():
    """Standard output of a configured process; whatever was configured before comes back."""
    root = logging.getLogger()
    before = (structlog.get_config(), list(root.handlers), root.level)
    stream = io.StringIO()
    yield stream
    structlog.configure(**before[0])
    root.handlers[:], root.level = before[1], before[2]
    logs.levels = logs.Levels()


def configure(output, level="info", json=False):
    logs.levels = logs.Levels()
    logs.configure(level, json, output)


def test_a_plain_line(output):
    configure(output)
    logs.get_logger("xds", id="7").info("xds.lost", reason="a b", count=3, ok=True, none=None)
    time, *rest = output.getvalue().rstrip("\n").split("\t")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)
    assert rest == ["info", "xds", "xds.lost", 'id="7" reason="a b" count=3 ok=true none=null']


def test_a_json_line(output):
    configure(output, json=True)
    logs.get_logger("access").error("connection complete", **{"src.addr": "1.1.1.1:1"})
    line = json.loads(output.getvalue())
    assert list(line) == ["level", "time", "scope", "message", "src.addr"]
    assert (line["level"], line["message"]) == ("error", "connection complete")


def test_a_value_cannot_fake_a_line(output):
    configure(output)
    logs.get_logger().info("e", text="x\n2026-01-01\terror\tfake")
    assert output.getvalue().count("\n") == 1


def test_an_exception_comes_with_its_traceback(output):
    configure(output, json=True)
    try:
        raise KeyError("x")
    except KeyError:
        logs.get_logger().exception("program.failed")
    assert "KeyError" in json.loads(output.getvalue())["exception"]


def test_libraries_that_log_the_standard_way_are_heard(output):
    configure(output, json=True)
    logging.getLogger("lib.part").warning("odd %s", "thing")
    logging.getLogger("lib.part").info("chatter")
    line = json.loads(output.getvalue())
    assert (line["scope"], line["message"], line["text"]) == (
        *("lib.part", "foreign.log", "odd thing"),
    )


def test_levels_by_scope_can_change_at_run_time(output):
    configure(output, "info,access=warn")
    access, xds = logs.get_logger("access"), logs.get_logger("xds.stream")
    access.info("hidden")
    xds.debug("hidden")
    logs.levels.update("xds=debug")
    xds.debug("shown")
    logs.levels.update("access:off")  # the spelling with a colon is accepted, too
    access.error("hidden")
    assert [line.split("\t")[3] for line in output.getvalue().splitlines()] == ["shown"]
    assert str(logs.levels) == "info,access=off,xds=debug"


def test_whether_a_line_would_be_written_can_be_asked(output):
    logs.levels.replace("info,access=debug")
    assert logs.is_logged("access", "debug")
    assert not logs.is_logged("xds", "debug")
    assert logs.is_logged("xds", "warn")


@pytest.mark.parametrize("spec", ["loud", "xds=loud", "=debug", "xds=debug,="])
def test_a_bad_level_changes_nothing(spec):
    levels = logs.Levels("info")
    with pytest.raises(ValueError, match="is not a level"):
        levels.update(spec)
    assert str(levels) == "info"


def test_nobody_reading_the_log_does_not_stop_the_program(output):
    configure(output)
    output.close()
    logs.get_logger().info("into the void")


@pytest.mark.parametrize("json_lines", [False, True])
def test_fields_that_lines_share_read_like_their_own(output, json_lines):
    configure(output, json=json_lines)
    shared = logs.Standing({"cluster": 'a "b"', "port": 80})
    log = logs.get_logger("access", id=1)
    log.info_with("done", lambda: {"path": "/"}, shared)
    log.info("done", path="/", **shared.fields)
    one, other = (
        (line[27:] if not json_lines else line) for line in output.getvalue().splitlines()
    )
    if json_lines:
        one, other = (json.loads(line) | {"time": ""} for line in (one, other))
        assert list(one) == list(other)
    assert one == other
    logs.levels.update("access=warn")
    log.info_with("done", dict, shared)
    assert output.getvalue().count("\n") == 2


def test_held_lines_leave_together_and_in_order(output):
    configure(output)
    waiting = []
    logs.hold_lines(waiting.append)
    log = logs.get_logger()
    log.info("one")
    log.info("two")
    assert output.getvalue() == ""
    assert len(waiting) == 1
    waiting.pop().flush()
    assert output.getvalue().count("\n") == 2
    log.info("three")
    try:
        raise ValueError("four")
    except ValueError:
        log.exception("four")
    log.info("five")
    logs.hold_lines(None)
    found = [line.split("\t")[2] for line in output.getvalue().splitlines() if "\t" in line]
    assert found == ["one", "two", "three", "four", "five"]
