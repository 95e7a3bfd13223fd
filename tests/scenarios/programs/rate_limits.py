"""A service that counts for rate limits, by Envoy's protocol (gRPC, port 8081).

``LIMITS`` says how often a descriptor may come, as JSON: {"domain": {"key=value,key=value": 3}}.
What it does not name is never too often. It counts as long as it lives.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent import futures

import grpc
from envoy.service.ratelimit.v3 import rls_pb2_grpc
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

LIMITS = json.loads(os.environ["LIMITS"])


class RateLimits(rls_pb2_grpc.RateLimitServiceServicer):
    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()

    def ShouldRateLimit(self, request, context):  # noqa: N802 - gRPC's name
        limits = LIMITS.get(request.domain, {})
        answer = RateLimitResponse(overall_code=RateLimitResponse.OK)
        for descriptor in request.descriptors:
            name = ",".join(f"{one.key}={one.value}" for one in descriptor.entries)
            self._counted[name] += max(request.hits_addend, 1)
            over = name in limits and self._counted[name] > limits[name]
            code = RateLimitResponse.OVER_LIMIT if over else RateLimitResponse.OK
            answer.statuses.add(code=code)
            if over:
                answer.overall_code = code
        return answer


def main() -> None:
    # One thread: nothing is counted twice.
    server = grpc.server(futures.ThreadPoolExecutor(1))
    rls_pb2_grpc.add_RateLimitServiceServicer_to_server(RateLimits(), server)
    server.add_insecure_port("0.0.0.0:8081")
    server.start()
    server.wait_for_termination()


main()
