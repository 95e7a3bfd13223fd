"""Where the API server is and who we are there: kubeconfig contexts or the pod's own account.

Plain kubeconfigs are read here; the ``kubernetes`` package, which takes a quarter of a second to
load, runs the plugins and providers of those users that have one.
"""

from __future__ import annotations

import base64
import logging
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import yaml

from ambient.api.errors import SettingsError
from ambient.kube.core.kubeconfig import (
    Context,
    KubeconfigError,
    Section,
    choose,
    context_names,
    impersonation,
)
from ambient.kube.core.proxy import Proxy, proxy_for

ACCOUNT_DIRECTORY: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
Headers = list[tuple[str, str]]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Server(NamedTuple):
    """An API server, and how it and we prove who we are; files or their content."""

    url: str
    authority: Path | bytes | None = None
    certificate: Path | bytes | None = None
    key: Path | bytes | None = None
    verify: bool = True
    name: str | None = None
    """In the server's certificate, where the URL has another one."""
    proxy: Proxy | None = None


class Credentials:
    """A server and the means to call it; ``namespace`` is the default of the context.

    ``authorization`` gives the header of that name; it reads a rotated token again, and may block
    on a file or plugin.
    """

    def __init__(
        self, server: Server, authorization: Callable[[], str | None], namespace: str, origin: str
    ) -> None:
        self._server = server
        self.server = server.url.rstrip("/")
        self.authorization = authorization
        self.namespace = namespace
        self.origin = origin
        """Where they were read, for messages: a file name, or ``the pod's service account``."""
        self.impersonation: Headers = []
        """Of a context, or a caller, that speaks for somebody else."""
        parts = urlsplit(self.server)
        if parts.scheme not in ("http", "https") or not parts.hostname or not self.server.isascii():
            raise SettingsError(
                f"cannot use the server {self.server!r} of {origin}",
                hint="an address such as https://10.0.0.1:6443 is wanted there",
            )

    def tls(self) -> ssl.SSLContext:
        """The context for the server's certificate and ours. Raises SettingsError."""
        server = self._server
        try:
            authority = server.authority
            if isinstance(authority, bytes):
                context = ssl.create_default_context(cadata=authority.decode())
            else:
                context = ssl.create_default_context(cafile=authority)
            if server.certificate:
                _present(context, server.certificate, server.key)
        except (OSError, ssl.SSLError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"cannot use the certificates of {self.origin}: {error}",
                hint="check certificate-authority, client-certificate and client-key there",
            ) from error
        # Python 3.13 would refuse CA certificates without a key identifier, which are common here.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not server.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @property
    def proxy(self) -> Proxy | None:
        """Through which the server is reached."""
        return self._server.proxy

    @property
    def server_name(self) -> str | None:
        """The name in the server's certificate, where the URL has another one."""
        return self._server.name


def _present(context: ssl.SSLContext, certificate: Path | bytes, key: Path | bytes | None) -> None:
    """Our certificate. OpenSSL reads files only, so that what is in memory gets one there."""
    files = [one for one in (certificate, key) if one is not None]
    descriptors = []
    try:
        paths = []
        for one in files:
            if isinstance(one, bytes):
                descriptors.append(os.memfd_create("key", os.MFD_CLOEXEC))
                os.write(descriptors[-1], one)
                paths.append(f"/proc/self/fd/{descriptors[-1]}")
            else:
                paths.append(str(one))
        context.load_cert_chain(*paths)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


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
    return _from_file(asked or os.path.expanduser("~/.kube/config"), context, env)


def contexts_of(kubeconfig: str | None) -> list[str]:
    """Those of the files that ``load_credentials`` reads. Raises KubeconfigError, OSError."""
    path = kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    return context_names([(part, _read(part)) for part in _existing(path)])


def _in_cluster(env: Mapping[str, str], directory: Path) -> Credentials:
    def token() -> str:
        return f"Bearer {(directory / 'token').read_text().strip()}"

    try:
        host, port = env["KUBERNETES_SERVICE_HOST"], env["KUBERNETES_SERVICE_PORT"]
        namespace = (directory / "namespace").read_text().strip()
        token()
        (directory / "ca.crt").read_bytes()
    except (KeyError, OSError) as error:
        reason = f"{error.args[0]} is not set" if isinstance(error, KeyError) else error
        raise SettingsError(
            f"cannot use the pod's service account: {reason}",
            hint=f"is a token mounted at {directory} (automountServiceAccountToken)?",
        ) from error
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    server = Server(url, authority=directory / "ca.crt")
    return Credentials(server, token, namespace, "the pod's service account")


def _from_file(path: str, context: str | None, env: Mapping[str, str]) -> Credentials:
    hint = "name another file with --kubeconfig or KUBECONFIG, another context with --context"
    try:
        documents = [(part, _read(part)) for part in _existing(path)]
        if not documents:
            raise KubeconfigError("there is no such file")
        chosen = choose(documents, context)
        if chosen.external:
            made = _provided(chosen, path, context, env)
        else:
            made = _plain(chosen, path, env)
        made.impersonation = impersonation(chosen.user)
    except (KubeconfigError, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())  # YAML's messages have several lines
        raise SettingsError(f"cannot use kubeconfig {path}: {reason}", hint=hint) from error
    return made


def _existing(path: str) -> list[Path]:
    """Of several files some may be missing."""
    parts = [Path(part).expanduser() for part in path.split(os.pathsep) if part]
    return [part.absolute() for part in parts if part.exists()]


def _read(path: Path) -> object:
    """An empty file is a kubeconfig that says nothing, as for kubectl."""
    loaded = yaml.load(path.read_bytes(), _Loader)
    return {} if loaded is None else loaded


def _plain(chosen: Context, origin: str, env: Mapping[str, str]) -> Credentials:
    """Of a user with certificate, token or password. Raises KubeconfigError, OSError."""
    cluster, user = chosen.cluster, chosen.user
    url = cluster.text("server")
    server = Server(
        url,
        authority=_file(cluster, "certificate-authority"),
        certificate=_file(user, "client-certificate"),
        key=_file(user, "client-key"),
        verify=not cluster.fields.get("insecure-skip-tls-verify"),
        name=cluster.text("tls-server-name") or None,
        proxy=_proxy(url, cluster, env),
    )
    return Credentials(server, _authorization(user), chosen.namespace, origin)


def _proxy(url: str, cluster: Section, env: Mapping[str, str]) -> Proxy | None:
    try:
        return proxy_for(url, cluster.text("proxy-url"), env)
    except ValueError as error:
        raise KubeconfigError(str(error)) from None


def _file(section: Section, name: str) -> Path | bytes | None:
    """A file or its content, which wins. Raises KubeconfigError, also for one that is missing."""
    found = section.data(name) or section.path(name)
    if isinstance(found, Path) and not found.is_file():
        raise KubeconfigError(f"{name}: there is no file {found}")
    return found


def _authorization(user: Section) -> Callable[[], str | None]:
    token, path = user.text("token"), user.path("tokenFile")
    name, password = user.text("username"), user.text("password")
    if path is not None:
        path.read_bytes()  # a file that is missing is told of now
        return lambda: f"Bearer {path.read_text().strip()}"
    if token:
        # Some write the scheme into it, too.
        bare = token.strip().partition(" ")[2].strip() or token.strip()
        return lambda: f"Bearer {bare}"
    if name:
        pair = base64.b64encode(f"{name}:{password}".encode()).decode()
        return lambda: f"Basic {pair}"
    return lambda: None


class _Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _provided(
    chosen: Context, path: str, context: str | None, env: Mapping[str, str]
) -> Credentials:
    """By the ``kubernetes`` package: it runs plugins, and renews what they gave. Raises
    KubeconfigError.
    """
    from kubernetes import config as package  # slow, and seldom needed
    from kubernetes.client import Configuration

    loader: Any = package  # it has no annotations
    configuration = Configuration()
    said = _Said(logging.ERROR)
    logging.getLogger().addHandler(said)  # of a plugin that fails the package only logs why
    try:
        loader.load_kube_config(
            path, context=context, client_configuration=configuration, persist_config=False
        )
    except (package.ConfigException, TypeError) as error:
        raise KubeconfigError(str(error)) from error
    finally:
        logging.getLogger().removeHandler(said)
    if said.messages:
        raise KubeconfigError(f"the user's plugin failed: {'; '.join(said.messages)}")

    def authorization() -> str | None:
        settings = configuration.auth_settings()
        if "BearerToken" not in settings:
            return None
        value = str(settings["BearerToken"]["value"] or "").strip()
        # The loaders spell the scheme in either case; servers of ours may be strict.
        scheme, _, token = value.partition(" ")
        return f"Bearer {token.strip() or scheme}"

    def file(name: str) -> Path | None:
        found = getattr(configuration, name, None)
        return Path(found) if found else None

    url = str(configuration.host)
    server = Server(
        url,
        authority=file("ssl_ca_cert"),
        certificate=file("cert_file"),
        key=file("key_file"),
        verify=bool(configuration.verify_ssl),
        name=getattr(configuration, "tls_server_name", None),
        proxy=_proxy(url, chosen.cluster, env),
    )
    return Credentials(server, authorization, chosen.namespace, path)


_REFUSED: Final = {
    "user": ("exec", "auth-provider", "tokenFile", "client-key", "client-certificate"),
    "cluster": ("certificate-authority",),
}
"""What a kubeconfig of somebody else must not ask of us: to run programs, or to read our files."""


def credentials_in(text: str, origin: str) -> Credentials:
    """Read a whole kubeconfig that came over the network. Raises SettingsError that says what in
    it cannot be used.
    """
    try:
        chosen = choose([(Path("/"), yaml.load(text, _Loader))], None)
        # The parser's own words would show parts of the text, which may be a token.
    except (KubeconfigError, yaml.YAMLError, ValueError) as error:
        reason = str(error) if isinstance(error, KubeconfigError) else "it is none"
        raise _unusable(origin, reason) from None
    for kind, section in (("user", chosen.user), ("cluster", chosen.cluster)):
        for field in _REFUSED[kind]:
            if section.fields.get(field):
                raise SettingsError(
                    f"the kubeconfig of {origin} has {kind} field {field}, which would run a "
                    "program or read a file here",
                    hint="put the token and the certificates themselves into it",
                )
    try:
        return _plain(chosen, origin, {})
    except KubeconfigError as error:
        raise _unusable(origin, str(error)) from None


def _unusable(origin: str, reason: str) -> SettingsError:
    return SettingsError(
        f"cannot use the kubeconfig of {origin}: {reason}",
        hint="write it with istioctl create-remote-secret",
    )
