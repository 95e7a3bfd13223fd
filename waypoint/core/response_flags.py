"""Envoy's response flags: short and long names, and the number that expressions see."""

from __future__ import annotations

from typing import Final

LONG: Final = {
    "LH": "FailedLocalHealthCheck", "UH": "NoHealthyUpstream", "UT": "UpstreamRequestTimeout",
    "LR": "LocalReset", "UR": "UpstreamRemoteReset", "UF": "UpstreamConnectionFailure",
    "UC": "UpstreamConnectionTermination", "UO": "UpstreamOverflow", "NR": "NoRouteFound",
    "DI": "DelayInjected", "FI": "FaultInjected", "RL": "RateLimited",
    "UAEX": "UnauthorizedExternalService", "RLSE": "RateLimitServiceError",
    "DC": "DownstreamConnectionTermination", "URX": "UpstreamRetryLimitExceeded",
    "SI": "StreamIdleTimeout", "IH": "InvalidEnvoyRequestHeaders", "DPE": "DownstreamProtocolError",
    "UMSDR": "UpstreamMaxStreamDurationReached", "RFCF": "ResponseFromCacheFilter",
    "NFCF": "NoFilterConfigFound", "DT": "DurationTimeout", "UPE": "UpstreamProtocolError",
    "NC": "NoClusterFound", "OM": "OverloadManagerTerminated", "DF": "DnsResolutionFailed",
    "DO": "DropOverload", "DR": "DownstreamRemoteReset", "UDO": "UnconditionalDropOverload",
}  # fmt: skip
"""By short name, in the order of their bits."""
_BITS: Final = {flag: 1 << place for place, flag in enumerate(LONG)}


def long_form(flags: str) -> str:
    """``UF,URX`` in words; unknown ones and ``-`` stay."""
    return ",".join(LONG.get(flag, flag) for flag in flags.split(","))


def as_number(flags: str) -> int:
    """``UF,URX`` as the sum of its bits; 0 for ``-``."""
    return sum(_BITS.get(flag, 0) for flag in set(flags.split(",")))
