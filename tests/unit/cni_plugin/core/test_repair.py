"""A pod of the mesh that is not redirected: what is done about it."""

from __future__ import annotations

import pytest

from cni_plugin.core.repair import Case, Repair, decide

MISSED = Case(redirected=False, seen_by_plugin=False, member_from_start=True, replaceable=True)


@pytest.mark.parametrize(
    ("policy", "case", "want"),
    [
        ("mend", MISSED, Repair.MEND),
        ("evict", MISSED, Repair.EVICT),
        ("evict", MISSED._replace(redirected=True), Repair.NOTHING),
        ("evict", MISSED._replace(seen_by_plugin=True), Repair.MEND),
        ("evict", MISSED._replace(member_from_start=False), Repair.MEND),
        ("evict", MISSED._replace(replaceable=False), Repair.MEND),
    ],
)
def test_the_remedy(policy: str, case: Case, want: Repair) -> None:
    assert decide(policy, case) is want
