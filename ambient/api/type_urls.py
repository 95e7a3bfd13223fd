"""The xDS resource types of the mesh (istio pilot/pkg/xds/v3/model.go; that of objects is ours)."""

from __future__ import annotations

from typing import Final

ADDRESS_TYPE: Final = "type.googleapis.com/istio.workload.Address"
"""Workloads and services, for node tunnels and waypoints."""
WORKLOAD_TYPE: Final = "type.googleapis.com/istio.workload.Workload"
"""Workloads alone."""
AUTHORIZATION_TYPE: Final = "type.googleapis.com/istio.security.Authorization"
"""L4 policies."""
CONFIG_TYPE: Final = "type.googleapis.com/ambient.config.v1.Object"
"""Kubernetes objects that configure L7, for our waypoint."""
SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
"""Certificates and authorities for TLS that a waypoint originates (Envoy's SDS)."""
