"""A ztunnel's dump, as ours and as upstream's write it."""

from __future__ import annotations

DUMP = {
    "workloads": [
        {
            "uid": "Kubernetes//Pod/shop/reviews-1",
            "workloadIps": ["10.244.1.5"],
            "protocol": "HBONE",
            "name": "reviews-1",
            "namespace": "shop",
            "serviceAccount": "reviews",
            "node": "node-1",
            "waypoint": {"destination": "shop/waypoint.shop.svc.cluster.local"},
            "authorizationPolicies": ["shop/allow"],
            "status": "Healthy",
        },
        {
            "uid": "Kubernetes//Pod/default/outside",
            "workloadIps": ["10.244.2.9"],
            "protocol": "TCP",
            "name": "outside",
            "namespace": "default",
            "node": "node-2",
            "status": "Unhealthy",
        },
        {
            "uid": "elsewhere",
            "workloadIps": [],
            "hostname": "api.example.com",
            "name": "api",
            "namespace": "shop",
            "protocol": "TCP",
        },
    ],
    "services": [
        {
            "name": "reviews",
            "namespace": "shop",
            "hostname": "reviews.shop.svc.cluster.local",
            "vips": ["/10.96.0.20"],
            "waypoint": {"destination": "/10.96.0.99"},
            "endpoints": {
                "a": {"workloadUid": "Kubernetes//Pod/shop/reviews-1", "status": "Healthy"},
                "b": {"workloadUid": "Kubernetes//Pod/default/outside"},
            },
        },
        {
            "name": "waypoint",
            "namespace": "shop",
            "hostname": "waypoint.shop.svc.cluster.local",
            "vips": ["/10.96.0.99"],
            "endpoints": {},
        },
    ],
    "policies": [
        {"name": "allow", "namespace": "shop", "scope": "WorkloadSelector", "action": "Allow"},
        {"name": "all", "namespace": "istio-system", "scope": "Global", "action": "Deny"},
        {"name": "try", "namespace": "web", "scope": "Namespace", "action": "Deny", "dryRun": True},
    ],
    "certificates": [
        {
            "identity": "spiffe://cluster.local/ns/shop/sa/reviews",
            "state": "Available",
            "certChain": [
                {
                    "serialNumber": "255",
                    "validFrom": "2026-01-01T00:00:00Z",
                    "expirationTime": "2026-01-02T00:00:00Z",
                }
            ],
            "rootCerts": [{"serialNumber": "7", "validFrom": "a", "expirationTime": "b"}],
        },
        {
            "identity": "spiffe://cluster.local/ns/shop/sa/late",
            "state": "Unavailable: no answer",
            "certChain": [],
            "rootCerts": [],
        },
    ],
    "workloadState": {
        "uid-1": {
            "state": "Up",
            "info": {"name": "reviews-1", "namespace": "shop", "serviceAccount": "reviews"},
            "connections": {
                "inbound": [
                    {
                        "src": "10.244.2.9:5555",
                        "originalDst": "reviews.shop.svc.cluster.local:9080",
                        "actualDst": "10.244.1.5:9080",
                        "protocol": "HBONE",
                    }
                ],
                "outbound": [
                    {
                        "src": "10.244.1.5:4444",
                        "originalDst": "10.96.0.20:9080",
                        "actualDst": "[fd00::1]:9080",
                        "protocol": "TCP",
                    }
                ],
            },
        }
    },
    "version": {"version": "0.1.0"},
}
