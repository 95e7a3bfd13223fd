"""What happens next to a pod: every combination that has a meaning."""

from __future__ import annotations

import pytest

from cni_plugin.core.reconcile import (
    LONGEST_RETRY_S,
    Action,
    Facts,
    Phase,
    next_action,
    retry_after_s,
)

GONE = Facts(False, False, False, Phase.OUT, None)
WANTED = Facts(True, True, True, Phase.OUT, None)
UNWANTED = Facts(True, False, True, Phase.OUT, None)


@pytest.mark.parametrize(
    ("facts", "want"),
    [
        (GONE, Action.NOTHING),
        (GONE._replace(phase=Phase.ENROLLED), Action.RELEASE),
        (GONE._replace(phase=Phase.DRAINING), Action.RELEASE),
        (WANTED, Action.ENROL),
        (WANTED._replace(has_address=False), Action.NOTHING),
        (WANTED._replace(phase=Phase.DRAINING), Action.ENROL),
        (WANTED._replace(phase=Phase.ENROLLED), Action.ANNOTATE),
        (WANTED._replace(phase=Phase.ENROLLED, annotation="pending"), Action.ANNOTATE),
        (WANTED._replace(phase=Phase.ENROLLED, annotation="enabled"), Action.NOTHING),
        (
            WANTED._replace(phase=Phase.ENROLLED, annotation="enabled", rules_fit=False),
            Action.ENROL,
        ),
        (UNWANTED, Action.NOTHING),
        (UNWANTED._replace(annotation="enabled"), Action.UNENROL),
        (UNWANTED._replace(phase=Phase.ENROLLED), Action.UNENROL),
        (UNWANTED._replace(phase=Phase.DRAINING), Action.FINISH_DRAIN),
        (UNWANTED._replace(phase=Phase.DRAINING, annotation="enabled"), Action.UNENROL),
    ],
)
def test_next_action(facts: Facts, want: Action) -> None:
    assert next_action(facts) is want


def test_retries_get_slower_up_to_a_limit() -> None:
    waits = [retry_after_s(failures) for failures in range(1, 100)]
    assert waits == sorted(waits)
    assert waits[0] < 1
    assert waits[-1] == LONGEST_RETRY_S
