"""Where the API server is and who we are there: kubeconfig contexts or the pod's own account.

The ``kubernetes`` package reads the configuration (contexts, exec plugins, CA data, tokens that
are rotated in their file); HTTP is ours.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kubernetes import config as kubernetes_config
from kubernetes.client import Configuration
from kubernetes.config import incluster_config
from yaml import YAMLError, safe_load

from ambient.api.errors import SettingsError

# The package has no annotations; as Any its functions may be called from typed code.
_loader: Any = kubernetes_config
_in_cluster_loader: Any = incluster_config.InClusterConfigLoader

ACCOUNT_DIRECTORY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Credentials:
    """A server and the means to call it; ``namespace`` is the default of the context."""

    def __init__(self, configuration: Any, namespace: str, origin: str) -> None:
        self._configuration = configuration
        self.server: str = str(configuration.host).rstrip("/")
        self.namespace = namespace
        self.origin = origin
        """Where they were read, for messages: a file name, or ``the pod's service account``."""
        self.impersonation: dict[str, str] = {}
        """Headers of a context that speaks for somebody else."""

    def authorization(self) -> str | None:
        """The Authorization header; reads a rotated token again. May block on a file or plugin."""
        settings = self._configuration.auth_settings()
        if "BearerToken" in settings:
            value = str(settings["BearerToken"]["value"] or "").strip()
            # The loaders spell the scheme in either case; servers of ours may be strict.
            scheme, _, token = value.partition(" ")
            return f"Bearer {token.strip() or scheme}"
        if self._configuration.username:
            return str(self._configuration.get_basic_auth_token())
        return None

    def tls(self) -> ssl.SSLContext:
        """The context for the server's certificate and ours. Raises SettingsError."""
        configuration = self._configuration
        try:
            context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
            if configuration.cert_file:
                context.load_cert_chain(configuration.cert_file, configuration.key_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"cannot use the certificates of {self.origin}: {error}",
                hint="check certificate-authority, client-certificate and client-key there",
            ) from error
        # Python 3.13 would refuse CA certificates without a key identifier, which are common here.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @property
    def server_name(self) -> str | None:
        """The name in the server's certificate, where the URL has another one."""
        return getattr(self._configuration, "tls_server_name", None)


def load_credentials(
    kubeconfig: str | None = None,
    context: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    account_directory: Path = ACCOUNT_DIRECTORY,
) -> Credentials:
    """Read credentials: the named file, else $KUBECONFIG, else the pod's, else ~/.kube/config.

    Raises SettingsError that names the file.
    """
    env = os.environ if env is None else env
    asked = kubeconfig or env.get("KUBECONFIG")
    if not asked and context is None and env.get("KUBERNETES_SERVICE_HOST"):
        return _in_cluster(env, account_directory)
    return _from_file(asked or str(Path("~/.kube/config").expanduser()), context)


def _in_cluster(env: Mapping[str, str], directory: Path) -> Credentials:
    configuration = Configuration()
    try:
        _in_cluster_loader(
            token_filename=str(directory / "token"),
            cert_filename=str(directory / "ca.crt"),
            environ=env,
        ).load_and_set(configuration)
        namespace = (directory / "namespace").read_text().strip()
    except (kubernetes_config.ConfigException, OSError) as error:
        raise SettingsError(
            f"cannot use the pod's service account: {error}",
            hint=f"is a token mounted at {directory} (automountServiceAccountToken)?",
        ) from error
    return Credentials(configuration, namespace, "the pod's service account")


def _from_file(path: str, context: str | None) -> Credentials:
    hint = "name another file with --kubeconfig or KUBECONFIG, another context with --context"
    configuration = Configuration()
    try:
        _loader.load_kube_config(
            path, context=context, client_configuration=configuration, persist_config=False
        )
        contexts, active = _loader.list_kube_config_contexts(path)
    except (kubernetes_config.ConfigException, YAMLError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())  # YAML's messages have several lines
        raise SettingsError(f"cannot use kubeconfig {path}: {reason}", hint=hint) from error
    chosen = next((one for one in contexts if one["name"] == context), active)["context"]
    made = Credentials(configuration, chosen.get("namespace") or "default", path)
    made.impersonation = _impersonation(path, str(chosen.get("user", "")))
    return made


def _impersonation(path: str, user: str) -> dict[str, str]:
    """What ``as`` of the user means, which the package leaves out: without it a call would be made
    with rights that its author gave up. Raises SettingsError for what we cannot send.
    """
    for part in filter(None, path.split(os.pathsep)):
        try:
            users = (safe_load(Path(part).expanduser().read_text()) or {}).get("users") or ()
        except OSError:
            continue  # of several files some may be missing
        found = next((one.get("user") or {} for one in users if one.get("name") == user), None)
        if found is None:
            continue
        groups = found.get("as-groups") or []
        if found.get("as-user-extra") or len(groups) > 1:
            raise SettingsError(
                f"user {user} of {path} speaks for somebody with several groups or extra fields",
                hint="use a context with as and one of as-groups at most",
            )
        named = (("Impersonate-User", found.get("as")), ("Impersonate-Uid", found.get("as-uid")),
                 ("Impersonate-Group", groups[0] if groups else None))  # fmt: skip
        return {name: str(value) for name, value in named if value}
    return {}


_REFUSED: Final = (
    "exec",
    "auth-provider",
    "tokenFile",
    "client-key",
    "client-certificate",
)
"""What a kubeconfig of somebody else must not ask of us: to run programs, or to read our files."""


def credentials_in(text: str, origin: str) -> Credentials:
    """Read a whole kubeconfig that came over the network. Raises SettingsError that says what in
    it cannot be used.
    """
    hint = "write it with istioctl create-remote-secret"
    configuration = Configuration()
    try:
        config = safe_load(text)
        for kind, fields in (("user", _REFUSED), ("cluster", ("certificate-authority",))):
            for entry in config[f"{kind}s"]:
                for field in fields:
                    if field in (entry.get(kind) or {}):
                        raise SettingsError(
                            f"the kubeconfig of {origin} has {kind} field {field}, which would run "
                            "a program or read a file here",
                            hint="put the token and the certificates themselves into it",
                        )
        _loader.load_kube_config_from_dict(
            config, client_configuration=configuration, persist_config=False
        )
    except (kubernetes_config.ConfigException, YAMLError, OSError, TypeError, KeyError,
            AttributeError, ValueError) as error:  # fmt: skip
        # The parser's own words would show parts of the text, which may be a token.
        told = str(error) if isinstance(error, kubernetes_config.ConfigException | KeyError) else ""
        reason = told or f"it is none ({type(error).__name__})"
        raise SettingsError(f"cannot use the kubeconfig of {origin}: {reason}", hint=hint) from None
    return Credentials(configuration, "default", origin)
