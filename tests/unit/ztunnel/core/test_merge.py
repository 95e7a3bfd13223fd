"""Several workers' answers as one."""

from ztunnel.core import merge


def test_dumps_name_what_is_common_once_and_what_is_not_together():
    def dump(number, *pods):
        return {
            "workloads": [{"uid": "w2"}, {"uid": "w1"}],
            "services": [{"namespace": "a", "hostname": "x"}, {"namespace": "b", "hostname": "x"}],
            "certificates": [{"identity": f"id-{pod}"} for pod in pods],
            "workloadState": {pod: {"state": "Up"} for pod in pods},
            "config": {"worker": number},
        }

    merged = merge.config_dumps([dump(0, "p1", "p3"), dump(1, "p2")])
    assert [w["uid"] for w in merged["workloads"]] == ["w1", "w2"]
    assert len(merged["services"]) == 2
    assert [c["identity"] for c in merged["certificates"]] == ["id-p1", "id-p2", "id-p3"]
    assert merged["workloadState"].keys() == {"p1", "p2", "p3"}
    assert merged["config"] == {"worker": 0}
    assert merge.config_dumps([]) == {}
