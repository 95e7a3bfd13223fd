"""TLS towards an endpoint, on a stream that is open already."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import trio

from ambient.hbone.io.stream import HboneStream
from waypoint.core.tls_settings import TlsSettings, names_of, proves
from waypoint.io.duplex import drop_now
from waypoint.io.plain_stream import PlainStream
from waypoint.io.tls_material import NO_MATERIAL, TlsMaterial, load
from waypoint.io.tls_stream import TlsStream


def context_of(
    settings: TlsSettings, alpn: str = "", material: TlsMaterial = NO_MATERIAL
) -> ssl.SSLContext:
    """For connections that will speak ``alpn`` (empty: nothing is offered).

    Made again when the material or one of the files has changed. Raises OSError where one cannot
    be used.
    """
    files = (settings.ca_file, settings.certificate_file, settings.key_file, settings.crl_file)
    changed_ns = tuple(os.stat(file).st_mtime_ns for file in files if file)
    return _made(settings, alpn, changed_ns, material)


@lru_cache(maxsize=256)
def _made(
    settings: TlsSettings, alpn: str, changed_ns: tuple[int, ...], material: TlsMaterial
) -> ssl.SSLContext:
    if settings.credential:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # believes nobody but the credential's
        load(context, material)
    else:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    context.check_hostname = settings.verify and not settings.names
    context.verify_mode = ssl.CERT_REQUIRED if settings.verify else ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    if settings.certificate_file:
        context.load_cert_chain(settings.certificate_file, settings.key_file)
    if settings.crl_file:
        context.load_verify_locations(settings.crl_file)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _check(certificate: Mapping[str, Any] | None, names: tuple[str, ...]) -> None:
    if not proves(certificate, names):
        shown = ", ".join(names_of(certificate)) or "nobody by name"
        raise OSError(f"the server is {shown}, not {', '.join(names)}")


async def secure(
    stream: HboneStream | PlainStream, settings: TlsSettings, context: ssl.SSLContext, host: str
) -> TlsStream:
    """Shake hands; ``host`` is asked for where the settings name no server.

    Raises OSError (ssl.SSLError too) with the cause; the stream is then closed.
    """
    try:
        secured: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
            stream,
            context,
            server_hostname=settings.sni or host or None,
            https_compatible=True,
        )
        await secured.do_handshake()
        if settings.verify and settings.names:
            _check(secured.getpeercert(), settings.names)
    except trio.BrokenResourceError as broken:
        drop_now(stream)
        raise OSError(str(broken.__cause__ or "the server ended the handshake")) from None
    except BaseException:
        drop_now(stream)
        raise
    return TlsStream(secured, stream)
