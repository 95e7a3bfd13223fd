"""What containers do in, the pod's status out."""

from __future__ import annotations

import pytest

from ambientctl.local.kubelet.status import ContainerFacts, PodFacts, Run, phase, pod_status


def container(run=Run.RUNNING, code=0, ready=True):
    return ContainerFacts("c", "image", run=run, exit_code=code, ready=ready)


def facts(*containers, initialized=True, init=()):
    return PodFacts(
        "172.30.0.11", "then", list(containers), list(init), "10.1.1.1", True, initialized
    )


@pytest.mark.parametrize(
    ("given", "policy", "want"),
    [
        (facts(container(Run.WAITING), initialized=False), "Always", "Pending"),
        (facts(container(Run.WAITING)), "Always", "Pending"),
        (facts(container()), "Always", "Running"),
        (facts(container(), container(Run.WAITING)), "Always", "Running"),
        (facts(container(Run.TERMINATED)), "Never", "Succeeded"),
        (facts(container(Run.TERMINATED, 1)), "Never", "Failed"),
        (facts(container(Run.TERMINATED, 1)), "OnFailure", "Running"),
        (facts(container(Run.TERMINATED)), "Always", "Running"),
        (
            facts(container(), init=[container(Run.TERMINATED, 1)], initialized=False),
            "Never",
            "Failed",
        ),
        (
            facts(container(), init=[container(Run.TERMINATED, 1)], initialized=False),
            "Always",
            "Pending",
        ),
    ],
)
def test_phase(given, policy, want):
    assert phase(given, policy) == want


def ready_of(status):
    return {c["type"]: c for c in status["conditions"]}["Ready"]


def test_a_pod_is_ready_when_all_containers_are():
    assert ready_of(pod_status(facts(container()), "Always", [], "t1"))["status"] == "True"
    unready = pod_status(facts(container(), container(ready=False)), "Always", [], "t1")
    assert ready_of(unready)["message"] == "containers with unready status: [c]"


def test_a_condition_keeps_its_time_until_it_turns():
    first = pod_status(facts(container()), "Always", [], "t1")
    second = pod_status(facts(container()), "Always", first["conditions"], "t2")
    third = pod_status(facts(container(ready=False)), "Always", second["conditions"], "t3")
    assert [ready_of(s)["lastTransitionTime"] for s in (first, second, third)] == ["t1", "t1", "t3"]


def test_the_state_of_the_run_before_is_kept():
    ended = container(Run.TERMINATED, 3)
    assert ended.state()["terminated"]["exitCode"] == 3
