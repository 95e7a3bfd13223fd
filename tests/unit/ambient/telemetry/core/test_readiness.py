"""What a program still waits for."""

from ambient.telemetry.core.readiness import Readiness


def test_the_answer_names_what_is_missing_until_nothing_is():
    readiness = Readiness(["state manager", "proxy"])
    assert readiness.answer() == (500, "not ready, pending: proxy, state manager\n")
    readiness.done("proxy")
    readiness.done("proxy")
    assert readiness.pending == ("state manager",)
    readiness.done("state manager")
    assert readiness.ready
    assert readiness.answer() == (200, "ready\n")
