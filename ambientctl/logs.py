"""Logs of pods through the API server: what was written lately, and what is written now."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable
from typing import Final

import httpcore
import trio

from ambient.kube.core.errors import error_from
from ambient.kube.core.resources import PODS, KubeObject
from ambient.kube.io.client import HTTP_ERRORS, KubeClient

MAX_LINE_BYTES: Final = 1 << 20
Take = Callable[[str], object]
"""Gets each line; False ends the reading."""


async def read_lines(
    kube: KubeClient,
    pod: KubeObject,
    take: Take,
    *,
    since_s: int | None = None,
    follow: bool = False,
) -> None:
    """A pod's first container, line by line. Raises KubeError, UnavailableError.

    Lines are handed over and not yielded: the HTTP library's generators must run to their end, or
    be cancelled in their midst.
    """
    metadata = pod["metadata"]
    path = PODS.path(metadata["namespace"], metadata["name"], "log")
    params = {"container": str(pod["spec"]["containers"][0]["name"])}
    if since_s is not None:
        params["sinceSeconds"] = str(max(since_s, 1))
    if follow:
        params["follow"] = "true"
    rest = ""
    decoder = getincrementaldecoder("utf-8")("replace")
    try:
        with trio.CancelScope() as scope:
            async with kube.stream(path, params, await kube.headers()) as answer:
                if answer.status >= 400:
                    raise error_from(answer.status, await answer.aread(), f"GET {path}")
                async for chunk in answer.aiter_stream():
                    *whole, rest = (rest + decoder.decode(chunk)).split("\n")
                    rest = rest if len(rest) <= MAX_LINE_BYTES else ""
                    if any(take(line) is False for line in whole):
                        scope.cancel(reason="enough lines")
        if rest and not scope.cancelled_caught:
            take(rest)
    except httpcore.ReadTimeout:
        return  # a quiet log: whoever follows asks again
    except HTTP_ERRORS as error:
        raise kube.unreachable(error) from error
