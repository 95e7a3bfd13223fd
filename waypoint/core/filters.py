"""Edits of a request on its way up and of its response on the way down.

A filter is a small immutable object. Requests pass the chain in order, responses in reverse.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from waypoint.core.header_value import Template
from waypoint.core.message import Headers, Reply, Request, Response
from waypoint.core.path import normalise_target

Pairs = tuple[tuple[str, str | Template], ...]


class Filter(Protocol):
    """One step of the chain."""

    def on_request(self, request: Request) -> Reply | None:
        """Edit the request, or answer it here."""
        ...

    def on_response(self, response: Response) -> None:
        """Edit the head of the response (also of a local reply)."""
        ...


class HeaderEdits(msgspec.Struct, frozen=True, kw_only=True):
    """Which fields are removed, overwritten and appended, in this order (Envoy's).

    ``absent`` are appended only where there is no such field, ``present`` overwrite only where
    there is one.
    """

    put: Pairs = ()
    add: Pairs = ()
    remove: tuple[str, ...] = ()
    absent: Pairs = ()
    present: Pairs = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.add or self.remove or self.absent or self.present)

    @property
    def dynamic(self) -> bool:
        """Does any value depend on the request?"""
        return any(isinstance(value, Template) for _, value in (*self.put, *self.add))

    def for_request(self, request: Request) -> HeaderEdits:
        """The same with the values that a request gives it."""
        return HeaderEdits(
            put=_texts(self.put, request), add=_texts(self.add, request), remove=self.remove
        )

    def apply(self, headers: Headers) -> None:
        """Edit ``headers`` in place; values that depend on a request need ``for_request``."""
        if self.remove:
            headers.remove(*self.remove)
        for name, value in self.put:
            headers.set(name, str(value))
        for name, value in self.add:
            headers.add(name, str(value))
        for name, value in self.absent:
            if name not in headers:
                headers.add(name, str(value))
        for name, value in self.present:
            if name in headers:
                headers.set(name, str(value))


def _text(value: str | Template, request: Request) -> str:
    return value if isinstance(value, str) else value.render(request)


def _texts(pairs: Pairs, request: Request) -> Pairs:
    """A field without a value does not come about."""
    found = ((name, _text(value, request)) for name, value in pairs)
    return tuple((name, text) for name, text in found if text)


class HeaderFilter(msgspec.Struct, frozen=True, kw_only=True):
    """RequestHeaderModifier, ResponseHeaderModifier, and VirtualService ``headers``.

    ``authority`` is a new Host; None keeps it. ``dynamic`` says that ``for_request`` is needed.
    """

    request: HeaderEdits = HeaderEdits()
    response: HeaderEdits = HeaderEdits()
    authority: str | Template | None = None
    dynamic: bool = False

    def for_request(self, request: Request) -> HeaderFilter:
        """The same with the values that a request gives it."""
        authority = self.authority
        return HeaderFilter(
            request=self.request.for_request(request),
            response=self.response.for_request(request),
            authority=None if authority is None else _text(authority, request),
        )

    def on_request(self, request: Request) -> Reply | None:
        """Edit the request's fields."""
        if self.authority is not None:
            request.authority = str(self.authority)
        self.request.apply(request.headers)
        return None

    def on_response(self, response: Response) -> None:
        """Edit the response's fields."""
        self.response.apply(response.headers)


class PathEdit(msgspec.Struct, frozen=True, kw_only=True):
    """How a rewrite or redirect changes the path.

    Without ``prefix`` the whole path is replaced. With it, only this beginning, which the route
    matched; ``segments`` says that Gateway API's rules about slashes apply.
    """

    replacement: str
    prefix: str | None = None
    segments: bool = False

    def apply(self, path: str) -> str:
        """The new path, without a query."""
        if self.prefix is None:
            return self.replacement
        if not self.segments:
            return self.replacement + path[len(self.prefix) :]
        rest = path[len(self.prefix.rstrip("/")) :]  # empty, or begins with a slash
        return self.replacement.rstrip("/") + rest or "/"


class RegexEdit(msgspec.Struct, frozen=True):
    """Replaces every match of an RE2 pattern in a path; ``\\1`` in ``rewrite`` is its group."""

    pattern: Any
    rewrite: str

    def apply(self, path: str) -> str:
        """The new path, without a query."""
        edited: str = self.pattern.sub(self.rewrite, path)
        return edited


class UrlRewrite(msgspec.Struct, frozen=True, kw_only=True):
    """URLRewrite, and VirtualService ``rewrite``."""

    authority: str | None = None
    path: PathEdit | RegexEdit | None = None

    def on_request(self, request: Request) -> Reply | None:
        """Change Host and path; the application can read the old path in a header."""
        if self.authority is not None:
            request.authority = self.authority
        if self.path is not None:
            path, question, query = request.target.partition("?")
            edited = self.path.apply(path)
            edited = edited if edited.startswith("/") else "/" + edited
            request.headers.set("x-envoy-original-path", request.target)
            request.target = (normalise_target(edited) or edited) + question + query
        return None

    def on_response(self, response: Response) -> None:
        """Responses stay as they are."""


DEFAULT_PORTS = {"http": 80, "https": 443}


class Redirect(msgspec.Struct, frozen=True, kw_only=True):
    """A route's action: send the client elsewhere.

    ``port`` None keeps what Host said, unless ``drop_port``; ``request_port`` uses the port that
    was called, unless it is the scheme's own.
    """

    status: int
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    request_port: bool = False
    drop_port: bool = False
    path: PathEdit | None = None

    def reply(self, request: Request) -> Reply:
        """The response with its Location."""
        scheme = self.scheme or request.scheme
        path, question, query = request.target.partition("?")
        if self.path is not None:
            path = self.path.apply(path)
            if "?" in path:  # it brings a query of its own
                question = query = ""
        location = f"{scheme}://{self._authority(request, scheme)}{path}{question}{query}"
        headers = (("location", location),)
        return Reply(self.status, "", "-", "direct_response", headers)

    def _authority(self, request: Request, scheme: str) -> str:
        name, said_port = split_host(request.authority)
        usual = DEFAULT_PORTS.get(scheme)
        if self.host is not None or self.drop_port:
            said_port = None
        elif scheme != request.scheme and said_port == DEFAULT_PORTS.get(request.scheme):
            said_port = None  # the port goes with the scheme
        port = said_port
        if self.port is not None:
            port = None if self.port == usual else self.port
        elif self.request_port and request.local.port != usual:
            port = request.local.port
        name = self.host or name
        return name if port is None else f"{name}:{port}"


def split_host(authority: str) -> tuple[str, int | None]:
    """A Host's name (IPv6 in brackets) and its port, if it has one."""
    name, colon, port = authority.rpartition(":")
    if colon and port.isascii() and port.isdigit() and not name.endswith(":"):
        return name, int(port)
    return authority, None
