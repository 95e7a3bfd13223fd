"""One connection in the words of the access log and of the metrics."""

from ambient.api.address import HostPort
from ambient.api.spiffe import Identity
from ambient.telemetry.core.access_record import Direction
from tests.unit.ztunnel.core.mesh_builder import at, mesh, service, workload
from ztunnel.core import describe
from ztunnel.core.headers import read_baggage
from ztunnel.core.route import route

WEB = workload("web-1", "10.0.0.1", workload_name="web", canonical_name="web", cluster_id="c")
API = workload("api-1", "10.0.0.2", workload_name="api", services={"api.example": {80: 8080}})
PLAIN = workload("old-1", "10.0.0.3", hbone=False)
PEER = HostPort("10.0.0.1", 4000)
STATE = mesh(WEB, API, PLAIN, service("api.example", "10.96.0.1"))


def outbound(destination):
    return describe.outbound(WEB, PEER, route(STATE, WEB, at(destination), lambda: 0.0))


def test_a_tunnelled_connection_names_both_identities():
    record, labels = outbound("10.96.0.1:80")
    assert record.opened_fields() == {
        "src.addr": "10.0.0.1:4000",
        "src.workload": "web-1",
        "src.namespace": "shop",
        "src.identity": "spiffe://cluster.local/ns/shop/sa/web-1",
        "src.cluster": "c",
        "dst.addr": "10.0.0.2:15008",
        "dst.hbone_addr": "10.0.0.2:8080",
        "dst.service": "api.example",
        "dst.workload": "api-1",
        "dst.namespace": "shop",
        "dst.identity": "spiffe://cluster.local/ns/shop/sa/api-1",
        "direction": "outbound",
    }
    assert labels.reporter == "source"
    assert labels.connection_security_policy == "mutual_tls"
    assert labels.source_principal == "spiffe://cluster.local/ns/shop/sa/web-1"
    assert (labels.destination_service, labels.destination_service_name) == ("api.example", "api")
    assert labels.destination_workload == "api"


def test_without_a_tunnel_nobody_has_proven_anything():
    record, labels = outbound("10.0.0.3:80")
    assert record.source.identity is None
    assert record.destination.identity is None
    assert labels.connection_security_policy == "unknown"
    assert labels.source_principal == ""
    assert labels.destination_principal == "spiffe://cluster.local/ns/shop/sa/old-1"


def test_an_unknown_destination_leaves_its_labels_open():
    record, labels = outbound("1.2.3.4:80")
    assert "dst.workload" not in record.opened_fields()
    assert labels.values()[labels._fields.index("destination_workload")] == "unknown"


def test_an_inbound_connection_trusts_only_the_proven_identity():
    gateway = Identity("cluster.local", "istio-system", "gateway")
    facts = describe.Inbound(
        client=WEB,
        server=API,
        peer=PEER,
        local=at("10.0.0.2:15008"),
        identity=gateway,
        authority="10.0.0.2:8080",
    )
    record, labels = describe.inbound(facts)
    assert record.direction is Direction.INBOUND
    assert record.source.identity == gateway
    assert record.source.workload == "web-1"
    assert labels.reporter == "destination"
    assert labels.source_principal == str(gateway)


def test_an_attempt_only_knows_addresses():
    record = describe.attempt(Direction.INBOUND, PEER, at("10.0.0.2:80"))
    assert record.opened_fields() == {
        "src.addr": "10.0.0.1:4000",
        "dst.addr": "10.0.0.2:80",
        "direction": "inbound",
    }


FAR = read_baggage(
    (("baggage", "k8s.namespace.name=far,k8s.deployment.name=api,service.name=api"),)
)


def test_at_the_end_of_a_double_tunnel_the_far_end_counts():
    hop = route(STATE, WEB, at("10.96.0.1:80"), lambda: 0.0)
    api = Identity("cluster.local", "far", "api")
    record, labels = describe.outbound(WEB, PEER, hop, describe.FarEnd(api, FAR))
    assert (record.destination.workload, record.destination.namespace) == ("api", "far")
    assert record.destination.identity == api
    assert labels.destination_principal == str(api)
    assert labels.destination_workload == "api"


def test_a_client_is_whom_the_control_plane_knows_else_what_it_says():
    assert describe.client_of(None, None) is None
    assert describe.client_of(None, FAR) is FAR
    assert describe.client_of(WEB, None) is WEB
    both = describe.client_of(PLAIN, FAR)
    assert (both.namespace, both.canonical_name) == ("shop", "api")
    assert describe.client_of(WEB, FAR).canonical_name == "web"
