"""``credentialName`` of DestinationRules, and authorities of BackendTLSPolicies: which Secrets and
ConfigMaps are needed, and what each waypoint gets.

A waypoint gets what its own DestinationRules name, from its own namespace and no other
(pilot/pkg/xds/sds.go); a BackendTLSPolicy names ConfigMaps of the policy's namespace. Of Secrets
only those are read that are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from ambient.api.config import ConfigObject
from ambient.api.credential import CA_SUFFIX, CONFIG_MAP, SECRET, Credential, believed, shown
from ambient.identity.core.damaged import DAMAGED
from istiod_lite.core.facts import ObjectKey, ObjectRef
from istiod_lite.core.results import Store
from istiod_lite.core.statuses import OBJECT_ACCEPTED, Condition
from istiod_lite.core.waypoint_configs import WaypointConfigs
from istiod_lite.core.world import World

Held = Mapping[str, bytes] | str
"""What a Secret or ConfigMap contains; else why that is not known, as a sentence's end."""
RULE: Final = "DestinationRule"
ABSENT: Final = "does not exist"
UNREADABLE: Final = "cannot be read; may the control plane read it?"
READER: Final = "istiod-credentials"
"""The ClusterRole that a namespace binds to let its Secrets be read."""
CERTIFICATE_KEYS: Final = (("cert", "key"), ("tls.crt", "tls.key"))
CA_KEYS: Final = ("cacert", "ca.crt")
CRL_KEY: Final = "ca.crl"


class Need(NamedTuple):
    """A credential as one ``tls`` uses it."""

    name: str
    shown: bool
    """MUTUAL: the certificate is shown."""
    believed: bool
    """The server is checked: not ``insecureSkipVerify``."""


class Credentials:
    """Follows DestinationRules and what they name."""

    def __init__(self, world: World, store: Store, configs: WaypointConfigs) -> None:
        self._world = world
        self._store = store
        self._configs = configs
        self._needs: dict[ObjectRef, frozenset[Need]] = {}
        """By DestinationRule and BackendTLSPolicy."""
        self._held: dict[ObjectRef, Held] = {}
        self._made: dict[ObjectKey, dict[str, Credential]] = {}
        self._dirty = False
        self.wanted: frozenset[ObjectRef] = frozenset()
        """The Secrets and ConfigMaps that have to be followed."""

    def note(self, ref: ObjectRef, config: ConfigObject | None) -> None:
        """A DestinationRule or BackendTLSPolicy is new, different or (None) gone."""
        needs = frozenset(_needs(config)) if config is not None else frozenset()
        if self._needs.get(ref, frozenset()) == needs:
            return
        if needs:
            self._needs[ref] = needs
        else:
            del self._needs[ref]
            if ref.kind == RULE:
                self._store.put_status(ref, ())
        self._dirty = True

    def put(self, ref: ObjectRef, held: Held | None) -> None:
        """What a Secret or ConfigMap contains now; None: it is not followed any more."""
        if self._held.get(ref) == held:
            return
        if held is None:
            del self._held[ref]
        else:
            self._held[ref] = held
        self._dirty = True

    def authority_problem(self, ref: ObjectRef) -> str:
        """Why nobody can be believed who shows a certificate of this ConfigMap's authorities;
        empty for nothing, and as long as it is not known what there is."""
        if ref not in self._held:
            return ""
        held = self._held[ref]
        if isinstance(held, str):
            return f"{ref} {held}"
        root = _root(held)
        if not root:
            return f"{ref} has no ca.crt"
        why = check_root(Credential(str(ref), ca_pem=root))
        return f"{ref}: {why}" if why else ""

    def of(self, waypoint: ObjectKey) -> Mapping[str, Credential]:
        """What a waypoint gets, by resource name."""
        return self._made.get(waypoint, {})

    def settle(self, *, moved: bool) -> set[ObjectKey]:
        """Look at everything once more if anything changed (``moved``: who needs which object);
        the waypoints that get something else than before.
        """
        if not self._dirty and not (moved and self._needs):
            return set()
        self._dirty = False
        made: dict[ObjectKey, dict[str, Credential]] = {}
        wanted: set[ObjectRef] = set()
        for rule, needs in self._needs.items():
            problems: dict[str, None] = {}
            where = "" if rule.kind == RULE else rule.key.namespace
            if where:  # the status needs the authorities even without a waypoint
                wanted.update(one for need in needs for one in sources_of(need.name, where))
            for waypoint in sorted(self._configs.waypoints_of(f"{rule.kind}/{rule.key}")):
                for need in sorted(needs):
                    sources = sources_of(need.name, where or waypoint.namespace)
                    wanted.update(sources)
                    if (parts := self._parts(need.name, sources)) is not None:
                        made.setdefault(waypoint, {}).update((one.name, one) for one in parts)
                        problems |= dict.fromkeys(self._problems(need, sources, *parts))
            if not where:
                self._store.put_status(rule, tuple(_condition(problems)))
        before, self._made, self.wanted = self._made, made, frozenset(wanted)
        return {key for key in {*before, *made} if before.get(key) != made.get(key)}

    def _parts(
        self, name: str, sources: tuple[ObjectRef, ...]
    ) -> tuple[Credential, Credential] | None:
        """The two resources of a name; None as long as it is not known what there is."""
        if any(source not in self._held for source in sources):
            return None
        found = [held for one in sources if isinstance(held := self._held[one], Mapping)]
        # The CA may be in a Secret of its own, which comes first; a certificate never is.
        own = self._held[sources[-1]] if sources else ABSENT
        certificate, key = _pair(own) if isinstance(own, Mapping) else (b"", b"")
        if name.startswith(CONFIG_MAP):
            certificate = key = b""
        root = next((held for held in found if _root(held)), {})
        return (
            Credential(shown(name), certificate_pem=certificate, private_key_pem=key),
            Credential(believed(name), ca_pem=_root(root), crl_pem=root.get(CRL_KEY, b"")),
        )

    def _problems(
        self, need: Need, sources: tuple[ObjectRef, ...], pair: Credential, root: Credential
    ) -> Iterator[str]:
        if not sources:
            yield f"credentialName {need.name!r} is no name in the waypoint's own namespace"
            return
        source = sources[-1]
        why = self._held[source]
        no_pair, no_root = need.shown and pair.empty, need.believed and root.empty
        if isinstance(why, str) and (no_pair or no_root):
            yield f"{source} {why}"
            return
        if no_pair:
            yield f"{source} has no tls.crt and tls.key (or cert and key)"
        if no_root:
            yield f"{source} has no ca.crt (or cacert)"
        wrong = (check_pair(pair) if need.shown else "", check_root(root) if need.believed else "")
        yield from (f"{source}: {text}" for text in wrong if text)


def forbidden(ref: ObjectRef, system_namespace: str) -> str:
    """What is said of an object that the API server does not let us read, with the remedy."""
    command = (
        f"kubectl create rolebinding {READER} -n {ref.key.namespace} --clusterrole={READER} "
        f"--serviceaccount={system_namespace}:istiod"
    )
    return f"may not be read by the control plane ({command})"


def sources_of(name: str, namespace: str) -> tuple[ObjectRef, ...]:
    """Where a waypoint's credential may be: the Secret of its CA alone, then that of everything.

    Empty for names of other namespaces and forms that do not exist.
    """
    kind = "ConfigMap" if name.startswith(CONFIG_MAP) else "Secret"
    rest = name.removeprefix(CONFIG_MAP if kind == "ConfigMap" else SECRET)
    where, slash, object_name = rest.rpartition("/")
    if not object_name or "/" in where or (slash and where != namespace):
        return ()
    whole = ObjectRef(kind, ObjectKey(namespace, object_name))
    if kind == "ConfigMap" or object_name.endswith(CA_SUFFIX):
        return (whole,)
    return ObjectRef(kind, ObjectKey(namespace, object_name + CA_SUFFIX)), whole


@lru_cache(maxsize=256)
def check_pair(pair: Credential) -> str:
    """What is wrong with a certificate and its key; empty for nothing."""
    if pair.empty:
        return ""
    try:
        leaf = x509.load_pem_x509_certificates(pair.certificate_pem)[0]
        key = load_pem_private_key(pair.private_key_pem, None)
        ours, theirs = (
            one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for one in (key.public_key(), leaf.public_key())
        )
    except (*DAMAGED, TypeError) as error:
        return f"the certificate or key is no PEM that can be used ({error})"
    return "" if ours == theirs else "the certificate is for another key"


@lru_cache(maxsize=256)
def check_root(root: Credential) -> str:
    """What is wrong with the authorities; empty for nothing."""
    if root.empty:
        return ""
    try:
        x509.load_pem_x509_certificates(root.ca_pem)
    except DAMAGED as error:
        return f"the CA is no PEM certificate ({error})"
    return ""


def _condition(problems: Iterable[str]) -> Iterator[Condition]:
    if texts := "; ".join(problems):
        text = f"{texts}: no connection to the endpoints is made"
        yield Condition(OBJECT_ACCEPTED, False, "CredentialUnusable", text)


def _pair(held: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """Certificate and key, of the first kind that has both (pilot/pkg/credentials/kube)."""
    for certificate, key in CERTIFICATE_KEYS:
        if held.get(certificate) and held.get(key):
            return held[certificate], held[key]
    return b"", b""


def _root(held: Mapping[str, bytes]) -> bytes:
    return next((held[key] for key in CA_KEYS if held.get(key)), b"")


def _needs(config: ConfigObject) -> Iterator[Need]:
    """Credentials of a DestinationRule, on all levels, or authorities of a BackendTLSPolicy."""
    spec = config.object.get("spec")
    if not isinstance(spec, dict):
        return
    if config.kind != RULE:
        validation = spec.get("validation")
        refs = _dicts(validation, "caCertificateRefs") if isinstance(validation, dict) else []
        for ref in refs:
            if ref.get("kind") == "ConfigMap":
                yield Need(f"{CONFIG_MAP}{config.namespace}/{ref.get('name')}", False, True)
        return
    for owner in (spec, *_dicts(spec, "subsets")):
        policy = owner.get("trafficPolicy")
        if not isinstance(policy, dict):
            continue
        for level in (policy, *_dicts(policy, "portLevelSettings")):
            tls = level.get("tls")
            if not isinstance(tls, dict) or tls.get("mode") not in ("SIMPLE", "MUTUAL"):
                continue
            if isinstance(name := tls.get("credentialName"), str) and name:
                verified = tls.get("insecureSkipVerify") is not True
                yield Need(name, tls["mode"] == "MUTUAL", verified)


def _dicts(spec: dict[str, Any], field: str) -> list[dict[str, Any]]:
    found = spec.get(field)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
