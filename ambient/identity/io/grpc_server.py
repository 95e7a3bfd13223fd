"""A gRPC server of the control plane, and how we prove to it who we are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
import msgspec

from ambient.api.errors import MeshError

CHANNEL_OPTIONS: Final = (
    # The control plane is inside the mesh; a proxy of the environment is not on the way.
    ("grpc.enable_http_proxy", 0),
    # A new channel is a new connection, not a shared one that is still backing off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class GrpcServer(msgspec.Struct, frozen=True, kw_only=True):
    """``root_ca_file`` verifies the server, whose certificate has to name ``alt_hostname``.

    ``address`` is ``host:port``. An empty ``alt_hostname`` means the address's host, an empty
    ``root_ca_file`` plain text. The files are read again whenever they are needed, because others
    rotate them.
    """

    address: str
    root_ca_file: str
    token_file: str
    cluster_id: str = "Kubernetes"
    alt_hostname: str = ""
    headers: dict[str, str] = {}
    """More metadata for every call."""

    @classmethod
    def at(cls, url: str, *, root_ca_file: str, **more: Any) -> GrpcServer:
        """``host:port``, perhaps with a scheme; ``http://`` is plain text."""
        scheme, _, address = url.rpartition("://")
        root = "" if scheme == "http" else root_ca_file
        return cls(address=address.rstrip("/"), root_ca_file=root, **more)

    def root(self) -> bytes:
        """The root certificates, PEM; empty for plain text. Raises MeshError."""
        return _read(self.root_ca_file, "root certificate") if self.root_ca_file else b""

    def channel(self, root: bytes, *options: tuple[str, int]) -> grpc.Channel:
        """A connection of its own; ``options`` beside those that every channel has."""
        options = CHANNEL_OPTIONS + options
        if not root:
            return grpc.insecure_channel(self.address, options)
        name = self.alt_hostname
        override = (("grpc.ssl_target_name_override", name),) if name else ()
        credentials = grpc.ssl_channel_credentials(root)
        return grpc.secure_channel(self.address, credentials, (*options, *override))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call. Raises MeshError."""
        more = ((name.lower(), value) for name, value in self.headers.items())
        return (("clusterid", self.cluster_id), *self._bearer(), *more)

    def unavailable_hint(self) -> str:
        """What to look at when nobody answers."""
        root = self.root_ca_file or "its root"
        return f"is the control plane up at {self.address}, and does {root} match its certificate?"

    def _bearer(self) -> list[tuple[str, str]]:
        if not self.token_file:
            return []
        token = _read(self.token_file, "token").decode("ascii", "replace").strip()
        if not token:
            raise MeshError(f"the token file {self.token_file} is empty")
        return [("authorization", f"Bearer {token}")]


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MeshError(
            f"cannot read the {what} file {path}: {error.strerror}",
            hint="is the volume mounted into this program?",
        ) from None
