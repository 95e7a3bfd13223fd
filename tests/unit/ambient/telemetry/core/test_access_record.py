"""The access log's names and order are those of Istio."""

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from ambient.telemetry.core.access_record import AccessRecord, Direction, Endpoint

WEB = Identity("cluster.local", "shop", "web")
FULL = AccessRecord(
    direction=Direction.OUTBOUND,
    source=Endpoint(HostPort("10.0.0.1", 4000), "web-1", "shop", WEB, "Kubernetes"),
    destination=Endpoint(HostPort("10.0.0.2", 15008), "api-1", "shop", WEB, "Kubernetes"),
    hbone_address="10.0.0.2:8080",
    service="api.shop.svc.cluster.local",
    bytes_sent=10,
    bytes_received=20,
    duration_s=0.0139,
    error="",
)


def test_names_order_and_forms():
    FULL.error = "it broke"
    fields = FULL.fields()
    FULL.error = ""
    assert list(fields) == [
        *("src.addr", "src.workload", "src.namespace", "src.identity", "src.cluster"),
        *("dst.addr", "dst.hbone_addr", "dst.service", "dst.workload", "dst.namespace"),
        *("dst.identity", "dst.cluster", "direction", "bytes_sent", "bytes_recv", "duration"),
        "error",
    ]
    assert fields["src.addr"] == "10.0.0.1:4000"
    assert fields["src.identity"] == "spiffe://cluster.local/ns/shop/sa/web"
    assert fields["duration"] == "13ms"
    assert fields["direction"] == "outbound"


def test_what_is_unknown_is_left_out():
    record = AccessRecord(
        direction=Direction.INBOUND,
        source=Endpoint(HostPort("fd00::1", 1)),
        destination=Endpoint(),
    )
    assert record.fields() == {
        "src.addr": "[fd00::1]:1",
        "direction": "inbound",
        "bytes_sent": 0,
        "bytes_recv": 0,
        "duration": "0ms",
    }


def test_at_the_start_there_are_no_counts_and_an_early_refusal_says_little():
    assert list(FULL.opened_fields())[-1] == "direction"
    FULL.error = "denied"
    assert list(FULL.refused_fields()) == ["src.addr", "dst.addr", "direction", "error"]
    FULL.error = ""


def test_failures_are_errors():
    assert FULL.level == "info"
    FULL.error = "x"
    assert FULL.level == "error"
    FULL.error = ""
