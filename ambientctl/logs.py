"""Logs of pods through the API server: what was written lately, and what is written now."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx

from ambient.kube.core.errors import error_from
from ambient.kube.core.resources import PODS, KubeObject
from ambient.kube.io.client import KubeClient

MAX_LINE_BYTES = 1 << 20


async def lines(
    kube: KubeClient, pod: KubeObject, *, since_s: int | None = None, follow: bool = False
) -> AsyncGenerator[str, None]:
    """A pod's first container, line by line. Raises KubeError, UnavailableError."""
    metadata = pod["metadata"]
    path = PODS.path(metadata["namespace"], metadata["name"], "log")
    params = {"container": str(pod["spec"]["containers"][0]["name"])}
    if since_s is not None:
        params["sinceSeconds"] = str(max(since_s, 1))
    if follow:
        params["follow"] = "true"
    rest = ""
    try:
        async with kube.stream(path, params, await kube.headers()) as answer:
            if answer.is_error:
                raise error_from(answer.status_code, await answer.aread(), f"GET {path}")
            async for chunk in answer.aiter_text():
                *whole, rest = (rest + chunk).split("\n")
                for line in whole:
                    yield line
                if len(rest) > MAX_LINE_BYTES:
                    rest = ""
    except httpx.ReadTimeout:
        return  # a quiet log: whoever follows asks again
    except httpx.HTTPError as error:
        raise kube.unreachable(error) from error
    if rest:
        yield rest
