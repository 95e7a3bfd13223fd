"""The proxy through which an API server is reached: ``proxy-url`` of a kubeconfig's cluster, else
the environment's, by Go's rules (golang.org/x/net/http/httpproxy), which kubectl follows. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

PORTS: Final = {"http": 80, "https": 443, "socks5": 1080}
"""By scheme; client-go knows these three."""


class Proxy(NamedTuple):
    """Where it listens and who we are there."""

    scheme: str
    host: str
    port: int
    user: tuple[str, str] | None = None

    @property
    def url(self) -> str:
        """Without the user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def read_proxy(text: str) -> Proxy:
    """A URL, or ``host:port`` of an HTTP proxy. Raises ValueError, whose text shows no password."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        scheme = "socks5" if parts.scheme == "socks5h" else parts.scheme
        if scheme not in PORTS or not parts.hostname:
            raise ValueError
        port = parts.port or PORTS[scheme]
    except ValueError:
        raise ValueError(
            "the proxy is no URL such as http://proxy:3128 or socks5://proxy:1080"
        ) from None
    user = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return Proxy(scheme, parts.hostname, port, user)


def proxy_for(server: str, stated: str, env: Mapping[str, str]) -> Proxy | None:
    """The way to the URL ``server``; ``stated`` is the cluster's own. Raises ValueError."""
    if stated:
        return read_proxy(stated)
    parts = urlsplit(server)
    name = f"{parts.scheme}_proxy"
    found = env.get(name.upper()) or env.get(name) or ""
    if not found or _direct(parts, env.get("NO_PROXY") or env.get("no_proxy") or ""):
        return None
    return read_proxy(found)


def _direct(server: SplitResult, excepted: str) -> bool:
    """Whether no proxy of the environment is asked: for ourselves, and for those of NO_PROXY."""
    host = (server.hostname or "").rstrip(".")
    if host == "localhost" or (_is_address(host) and ip_address(host).is_loopback):
        return True
    port = server.port or PORTS.get(server.scheme, 0)
    return any(_excepts(one.strip().lower(), host, port) for one in excepted.split(","))


def _excepts(exception: str, host: str, port: int) -> bool:
    if exception in ("", "*"):
        return bool(exception)
    if _is_address(host) and "/" in exception:
        try:
            return ip_address(host) in ip_network(exception, strict=False)
        except ValueError:
            return False
    name, colon, number = exception.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.startswith("[")):
        if int(number) != port:
            return False
        exception = name
    exception = exception.strip("[]").removeprefix("*")
    if exception.startswith("."):
        return host.endswith(exception)
    return host == exception or (not _is_address(host) and host.endswith(f".{exception}"))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
