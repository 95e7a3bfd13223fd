"""GET of a document outside the mesh, by URL."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx
import trio

from ambient.api.errors import SettingsError
from ambient.telemetry.io.http_client import transport

MAX_DOCUMENT: Final = 1024 * 1024
MAX_REDIRECTS: Final = 3


class FetchError(Exception):
    """There is no document; the text says why."""


class WebFetch:
    """Fetches documents; ``extra_ca_file`` is believed beside the system's CA certificates."""

    def __init__(self, extra_ca_file: str = "") -> None:
        self._tls = ssl.create_default_context()
        if extra_ca_file:
            try:
                self._tls.load_verify_locations(extra_ca_file)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(
                    f"JWKS_EXTRA_ROOT_CA={extra_ca_file}: {error}",
                    hint="name a file with CA certificates in PEM form",
                ) from None

    async def get(self, url: str, timeout_s: float) -> bytes:
        """The document at a URL. Raises FetchError."""
        with trio.move_on_after(timeout_s):
            try:
                return await self._follow(url)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
                raise FetchError(f"{url}: {str(error) or type(error).__name__}") from None
        raise FetchError(f"{url}: no answer in {timeout_s:g} s")

    async def _follow(self, url: str) -> bytes:
        async with httpx.AsyncClient(transport=transport(self._tls), timeout=None) as client:
            for _ in range(MAX_REDIRECTS + 1):
                await _refuse_link_local(url)
                async with client.stream("GET", url) as answer:
                    if answer.has_redirect_location:
                        url = urljoin(url, answer.headers["location"])
                        continue
                    if answer.status_code != 200:
                        raise FetchError(f"{url}: status {answer.status_code}")
                    return await _body(answer, url)
        raise FetchError(f"{url}: more than {MAX_REDIRECTS} redirections")


async def _body(answer: httpx.Response, url: str) -> bytes:
    found = bytearray()
    async for piece in answer.aiter_bytes():
        # Read on, but keep no more: httpx's generators must not be left half-way.
        if len(found) <= MAX_DOCUMENT:
            found += piece[: MAX_DOCUMENT + 1]
    if len(found) > MAX_DOCUMENT:
        raise FetchError(f"{url}: more than {MAX_DOCUMENT} bytes")
    return bytes(found)


async def _refuse_link_local(url: str) -> None:
    """A policy must not be able to read the machine's own metadata service."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(f"{url}: no http:// or https:// URL")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    for found in await trio.socket.getaddrinfo(parts.hostname, port):
        address = ip_address(str(found[4][0]).partition("%")[0])
        if address.is_link_local or address.is_multicast:
            raise FetchError(f"{url}: {address} is not asked for keys")
