"""Kubernetes objects as short as tests can have them."""


def meta(name, namespace="", labels=None, **more):
    made = {"name": name, "labels": labels or {}, **more}
    return {**made, "namespace": namespace} if namespace else made


def namespace(name, **labels):
    pairs = {_label(key): value for key, value in labels.items()}
    return {"metadata": meta(name, labels=pairs)}


def node(name, zone="z1"):
    labels = {"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone}
    return {"metadata": meta(name, labels=labels)}


def pod(name, namespace, ip, *, account="default", node="n1", labels=None, uid=None):
    return {
        "metadata": meta(name, namespace, labels, uid=uid or f"uid-{name}"),
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}] if ip else [],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def service(name, namespace, ip, *, selector=None, ports=None, labels=None):
    return {
        "metadata": meta(name, namespace, labels),
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "selector": selector,
            "ports": ports or [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }


def policy(name, namespace, spec, **more):
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": meta(name, namespace, **more),
        "spec": spec,
    }


def peer_authentication(name, namespace, mode=None, *, app=None, ports=None, created="2026-01-01"):
    spec = {"mtls": {"mode": mode}} if mode else {}
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
    if ports:
        spec["portLevelMtls"] = {str(port): {"mode": one} for port, one in ports.items()}
    stamp = f"{created}T00:00:00Z"
    return {"metadata": meta(name, namespace, creationTimestamp=stamp), "spec": spec}


def gateway(name, namespace, *addresses, labels=None, allowed=None):
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    if allowed:
        listener["allowedRoutes"] = {"namespaces": allowed}
    status = {"addresses": [{"type": kind, "value": value} for kind, value in addresses]}
    return {
        "metadata": meta(name, namespace, labels, uid=f"uid-{name}"),
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
        "status": status if addresses else {},
    }


def gateway_class(name="istio-waypoint", controller="istio.io/mesh-controller", **metadata):
    return {"metadata": meta(name, **metadata), "spec": {"controllerName": controller}}


def service_entry(name, namespace, *hosts, created="2026-01-01", labels=None, **spec):
    stamp = f"{created}T00:00:00Z"
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": meta(name, namespace, labels, creationTimestamp=stamp),
        "spec": {"hosts": list(hosts), "ports": ports, "resolution": "STATIC", **spec},
    }


def workload_entry(name, namespace, address="", *, labels=None, **spec):
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": meta(name, namespace, labels),
        "spec": {"address": address, **spec},
    }


def route(name, namespace, *parents, kind="HTTPRoute", rules=None, **spec):
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": meta(name, namespace, generation=1),
        "spec": {"parentRefs": list(parents), "rules": rules or [], **spec},
    }


def grant(name, namespace, from_namespace, *, kind="HTTPRoute", to="Service", only=None):
    from_ = {"group": "gateway.networking.k8s.io", "kind": kind, "namespace": from_namespace}
    target = {"group": "", "kind": to, **({"name": only} if only else {})}
    return {"metadata": meta(name, namespace), "spec": {"from": [from_], "to": [target]}}


def mesh_config(text):
    return {"metadata": meta("istio", "istio-system"), "data": {"mesh": text}}


def _label(word):
    """``istio_io__use_waypoint`` is ``istio.io/use-waypoint``."""
    prefix, slash, name = word.partition("__")
    if not slash:
        return word.replace("_", "-")
    return prefix.replace("_", ".") + "/" + name.replace("_", "-")
