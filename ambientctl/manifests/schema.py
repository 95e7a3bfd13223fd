"""What a value must be, besides of its default's kind: for us, and as JSON Schema for Helm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ambient.api.errors import MeshError
from ambientctl.manifests.template import Choice, as_text
from ambientctl.manifests.values import LOOSE, Json, is_free, lookup

DIALECT: Final = "http://json-schema.org/draft-07/schema#"
"""The newest that every Helm 3 knows."""


class Rule(NamedTuple):
    """A pattern for the whole value as text, or the least number, and how people call it."""

    says: str
    pattern: str = ""
    least: int = 0


def _one_of(*names: str) -> Rule:
    return Rule(f"one of {', '.join(names)}", "|".join(names))


PLATFORMS: Final = ("gke", "k3d", "k3s", "microk8s", "minikube", "openshift")
"""Profiles that say only where a distribution keeps what."""
PLATFORM: Final = "global.platform"
"""The value that names one; Istio's name."""
_LABEL: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
RULES: Final[Mapping[str, Rule]] = {
    "image": Rule("an image, as REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST", r"\S+"),
    "imagePullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    "revision": Rule("a DNS label", _LABEL),
    "trustDomain": Rule("a DNS name", rf"{_LABEL}(\.{_LABEL})*"),
    PLATFORM: Rule(_one_of(*PLATFORMS).says, f"({_one_of(*PLATFORMS).pattern})?"),
    "logFormat": _one_of("json", "plain"),
    "istiod.replicas": Rule("a number of at least 1", least=1),
    "istiod.maxReplicas": Rule("a number of at least 1", least=1),
    "waypoint.replicas": Rule("a number of at least 1", least=1),
    "waypoint.maxReplicas": Rule("a number of at least 0"),
    "ztunnel.gracePeriodSeconds": Rule("a number of seconds"),
    "ztunnel.workers": Rule("a number, or a share of the cores such as 50%", r"[0-9]+%?"),
    "controlPlane.address": Rule("an address, as https://HOST:15012", r"https?://[^\s/]+"),
    "cni.ifAgentAbsent": _one_of("fail", "start"),
    "cni.repair": _one_of("mend", "evict"),
    "cni.redirectionBackend": _one_of("nftables", "ebpf", "auto"),
    "cni.netDir": Rule("a path from the root", "/.*"),
    "cni.binDir": Rule("a path from the root", "/.*"),
    "cni.netnsDir": Rule("a path from the root", "/.*"),
}


def check(values: Mapping[str, Any]) -> None:
    """Raises MeshError for the first of these (complete) values that breaks its rule."""
    for path, rule in RULES.items():
        value = lookup(values, path)
        if rule.pattern:
            good = re.fullmatch(rule.pattern, as_text(value)) is not None
        else:
            good = value >= rule.least
        if not good:
            raise MeshError(f"{path}: {json.dumps(value)} cannot stand there", hint=rule.says)


def schema(choices: Iterable[Choice]) -> dict[str, Any]:
    """JSON Schema of the values, which Helm applies before it renders."""
    root = _closed()
    root["$schema"] = DIALECT
    for choice in choices:
        *way, last = choice.path.split(".")
        level = root
        for key in way:
            level = level["properties"].setdefault(key, _closed())
        level["properties"][last] = _of(choice)
    return root


def _closed() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _of(choice: Choice) -> dict[str, Any]:
    made = _kind(choice.path, choice.default)
    rule = RULES.get(choice.path)
    if rule is not None:
        if rule.pattern:
            made["pattern"] = f"^({rule.pattern})$"
        if "integer" in made["type"]:
            made["minimum"] = rule.least
    about = [text for text in (choice.reason, rule.says if rule else "") if text]
    return made | ({"description": "; ".join(about)} if about else {})


TEXTS: Final = (".env", ".podLabels", ".podAnnotations", ".nodeSelector")
_SCALARS: Final = ["string", "boolean", "number"]


def _kind(path: str, default: Json) -> dict[str, Any]:
    """A text takes any scalar, as `--set` of Helm makes numbers of what looks like one."""
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, int):
        return {"type": ["integer", "string"] if path in LOOSE else "integer"}
    if isinstance(default, str):
        return {"type": list(_SCALARS)}
    if isinstance(default, list):
        return {"type": "array", "items": {"type": "object"}}
    assert is_free(path), path
    if path.endswith(TEXTS):
        return {"type": "object", "additionalProperties": {"type": list(_SCALARS)}}
    return {"type": "object"}
